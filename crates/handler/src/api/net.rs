//! The connection to `virt-handler net`.

use crate::{
    machine::poll,
    net::talk::{FromApi, MOST, ToApi, read},
};
use ferrovirt_sys::seqpacket::Connection;
use std::{io, path::Path, time::Duration};
use tokio::{io::unix::AsyncFd, sync::mpsc};

/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(200);
/// Most packets that wait to be sent.
const WAITING: usize = 256;
/// How long `net` may take to make room for a packet.
const ROOM: Duration = Duration::from_secs(5);

/// What is heard.
pub(super) enum Heard {
    /// A connection is there: `net` tells everything that there is.
    Connected,
    /// It says something.
    Said(ToApi, Vec<u8>),
    /// The connection is over.
    Lost,
}

/// Says things to `net`.
#[derive(Clone, Debug)]
pub(super) struct Net(mpsc::Sender<Vec<u8>>);

/// The other end of [`Net`].
pub(super) struct Outgoing(mpsc::Receiver<Vec<u8>>);

pub(super) fn channel() -> (Net, Outgoing) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Net(sender), Outgoing(receiver))
}

impl Net {
    /// Sends a packet once there is room. What is said while there is no connection, or gets lost with it, is lost: who said
    /// it learns of the end.
    pub(super) async fn send(&self, head: &FromApi, body: &[u8]) {
        match serde_json::to_vec(head) {
            Ok(line) => {
                let packet = [&line, b"\n".as_slice(), body].concat();
                // The receiver lives as long as the program.
                drop(self.0.send(packet).await);
            }
            Err(error) => tracing::error!("a message for net cannot be written, please report this: {error}"),
        }
    }
}

/// Connects, again and again, and hears.
pub(super) async fn run(socket: &Path, mut outgoing: Outgoing, mut hear: impl FnMut(Heard)) {
    let mut logged = String::new();
    loop {
        let error = match connect(socket) {
            Ok(connection) => {
                // What was meant for another connection.
                while outgoing.0.try_recv().is_ok() {}
                hear(Heard::Connected);
                let error = serve(&connection, &mut outgoing, &mut hear).await;
                hear(Heard::Lost);
                error
            }
            Err(error) => error,
        };
        let text = format!("no connection to virt-handler net at {}: {error}", socket.display());
        if text != logged {
            tracing::warn!("{text}");
            logged = text;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn connect(socket: &Path) -> io::Result<AsyncFd<Connection>> {
    let connection = Connection::connect(socket)?;
    connection.set_nonblocking(true)?;
    poll::watch(connection)
}

/// Until the connection is over, for this reason.
async fn serve(
    connection: &AsyncFd<Connection>,
    outgoing: &mut Outgoing,
    hear: &mut impl FnMut(Heard),
) -> io::Error {
    loop {
        let done = tokio::select! {
            heard = receive(connection) => heard.map(|(head, body)| hear(Heard::Said(head, body))),
            packet = outgoing.0.recv() => match packet {
                Some(packet) => send(connection, &packet).await,
                // Nobody is left who could say anything.
                None => std::future::pending().await,
            },
        };
        if let Err(error) = done {
            return error;
        }
    }
}

async fn receive(connection: &AsyncFd<Connection>) -> io::Result<(ToApi, Vec<u8>)> {
    loop {
        let mut ready = connection.readable().await?;
        let Ok(message) = ready.try_io(|connection| connection.get_ref().recv(MOST)) else { continue };
        let message = message?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let (head, body) = read::<ToApi>(&message.bytes)?;
        return Ok((head, body.to_owned()));
    }
}

async fn send(connection: &AsyncFd<Connection>, packet: &[u8]) -> io::Result<()> {
    let sent = async {
        loop {
            let mut ready = connection.writable().await?;
            if let Ok(sent) = ready.try_io(|connection| connection.get_ref().send(packet, &[])) {
                return sent;
            }
        }
    };
    tokio::time::timeout(ROOM, sent).await.map_err(io::Error::from)?
}
