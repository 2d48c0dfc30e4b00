//! Serial console and VNC through a WebSocket.

use super::{Body, full, refuse};
use crate::pods::Target;
use ferrovirt_handler::machine::{
    serve::{NOT_RUNNING, no_console},
    websocket,
};
use ferrovirt_qemu::protocol::Console;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::{io, time::Duration};
use tokio::net::UnixStream;

/// A guest that is just starting has its socket in a moment.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

fn path(console: Console) -> &'static str {
    match console {
        Console::Serial => "/var/run/kubevirt/sockets/serial0.sock",
        Console::Vnc => "/var/run/kubevirt/sockets/vnc.sock",
    }
}

/// Upgrades the connection and copies in both directions until one side is done.
pub(super) fn answer(target: Target, console: Console, mut request: Request<Incoming>) -> Response<Body> {
    let running = target.record().filter(|record| record.exit.is_none() && target.is_served());
    let Some(order) = running.and_then(|record| record.order) else {
        return refuse(StatusCode::CONFLICT, NOT_RUNNING);
    };
    let there = match console {
        Console::Serial => order.serial,
        Console::Vnc => order.graphics,
    };
    if !there {
        return refuse(StatusCode::BAD_REQUEST, no_console(console));
    }
    match websocket::handshake(&mut request) {
        Ok((response, upgrade)) => {
            tokio::spawn(async move {
                let guest = connect(&target, console);
                if let Err(error) = websocket::carry(upgrade, guest).await {
                    tracing::debug!("console: {error}");
                }
            });
            response.map(|()| full(""))
        }
        Err(why) => refuse(StatusCode::BAD_REQUEST, why),
    }
}

async fn connect(target: &Target, console: Console) -> io::Result<UnixStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for _ in 0..TRIES {
        let Some(record) = target.record().filter(|record| record.exit.is_none()) else { return Err(last) };
        let connected = match record.places.socket(path(console)) {
            // The descriptor must live until the connection is made: the path leads through it.
            Ok((_open, path)) => UnixStream::connect(path).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(last)
}
