//! Serial console and VNC through a WebSocket, with KubeVirt's subprotocol.

use super::{Body, full, refuse};
use crate::pods::Target;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

/// What clients of consoles ask for.
const SUBPROTOCOL: &str = "plain.kubevirt.io";
/// Keystrokes and pastes, not files.
const MAX_MESSAGE: usize = 1 << 20;
const PIECE: usize = 16 << 10;
/// A guest that is just starting has its socket in a moment.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Which console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The serial port.
    Serial,
    /// The graphics adapter.
    Vnc,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Serial => "/var/run/kubevirt/sockets/serial0.sock",
            Self::Vnc => "/var/run/kubevirt/sockets/vnc.sock",
        }
    }
}

/// Upgrades the connection and copies in both directions until one side is done.
pub(super) fn answer(target: Target, kind: Kind, mut request: Request<Incoming>) -> Response<Body> {
    let running = target.record().filter(|record| record.exit.is_none() && target.is_served());
    let Some(record) = running else {
        return refuse(StatusCode::CONFLICT, "VMI is not running");
    };
    let there = match kind {
        Kind::Serial => record.order.serial,
        Kind::Vnc => record.order.graphics,
    };
    if !there {
        let device = if kind == Kind::Serial { "serial console" } else { "graphics device" };
        return refuse(StatusCode::BAD_REQUEST, &format!("No {device} is attached to the VMI"));
    }
    let asked = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let websocket = asked(header::UPGRADE).is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"));
    let Some(key) = asked(header::SEC_WEBSOCKET_KEY).filter(|_| websocket).map(str::to_owned) else {
        return refuse(StatusCode::BAD_REQUEST, "this is a WebSocket: ask for an upgrade");
    };
    let offered = asked(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default().to_owned();
    let protocol = offered.split(',').map(str::trim).find(|name| *name == SUBPROTOCOL);
    if !offered.is_empty() && protocol.is_none() {
        return refuse(StatusCode::BAD_REQUEST, "the subprotocol must be plain.kubevirt.io");
    }
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if protocol.is_some() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        if let Err(error) = copy(socket, &target, kind).await {
            tracing::debug!("console: {error}");
        }
    });
    response
}

async fn connect(target: &Target, kind: Kind) -> io::Result<UnixStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for _ in 0..TRIES {
        let Some(record) = target.record().filter(|record| record.exit.is_none()) else { return Err(last) };
        let connected = match record.places.socket(kind.path()) {
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

async fn copy(
    socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    target: &Target,
    kind: Kind,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let (mut to_client, mut from_client) = socket.split();
    let guest = match connect(target, kind).await {
        Ok(guest) => guest,
        Err(error) => {
            to_client.close().await?;
            return Err(error.into());
        }
    };
    let (mut from_guest, mut to_guest) = guest.into_split();
    let mut bytes = vec![0; PIECE];
    loop {
        tokio::select! {
            length = from_guest.read(&mut bytes) => match length {
                Ok(length) if length > 0 => {
                    let piece = bytes.get(..length).unwrap_or_default();
                    to_client.send(Message::Binary(Bytes::copy_from_slice(piece))).await?;
                }
                _ => {
                    // A peer that is gone needs no farewell.
                    let _gone = to_client.close().await;
                    return Ok(());
                }
            },
            message = from_client.next() => match message {
                Some(Ok(Message::Binary(data))) => to_guest.write_all(&data).await?,
                Some(Ok(Message::Text(text))) => to_guest.write_all(text.as_bytes()).await?,
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            },
        }
    }
}
