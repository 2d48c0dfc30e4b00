//! Consoles as `virt-handler net` gives them: a connection for each, over which the bytes of its launcher come and go.

use crate::{
    machine::poll,
    net::talk::{MOST_OF_STREAM, NotOpened, Open, Opened, packet, read},
};
use ferrovirt_sys::seqpacket::{self, Connection};
use std::{
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    sync::Semaphore,
    time::timeout,
};

/// Most consoles that are asked for at the same time: `net` looks at no more.
const MOST_OPENING: usize = 8;
/// How long `net` may take to say where it listens.
const OPEN: Duration = Duration::from_secs(5);
/// Most bytes of its answer.
const ANSWER: usize = 4096;

/// Where consoles are asked for.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    path: PathBuf,
    opening: Arc<Semaphore>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// `net` has said why.
    #[error("{1}")]
    Refused(NotOpened, String),
    /// It cannot be asked, or says nothing of use.
    #[error("virt-handler net does not answer: {0}")]
    Net(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Net(error)
    }
}

impl Streams {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, opening: Arc::new(Semaphore::new(MOST_OPENING)) }
    }

    /// Has `net` listen for the launcher of a connection.
    pub(super) async fn open(&self, slot: String, link: u64) -> Result<Awaited, Failure> {
        let opened = async {
            // The semaphore is never closed.
            let place = self.opening.clone().acquire_owned().await;
            let path = self.path.clone();
            // A program that accepts nothing must not hold up this one.
            let connected = tokio::task::spawn_blocking(move || (Connection::connect(&path), place)).await;
            let (connection, _place) = connected.map_err(io::Error::other)?;
            let connection = connection?;
            connection.set_nonblocking(true)?;
            seqpacket::take_descriptors(connection.as_fd(), false)?;
            let connection = poll::watch(connection)?;
            connection.get_ref().send(&packet(&Open { slot, link }, &[])?, &[])?;
            match said(&connection).await? {
                Opened::Listening { socket } => Ok(Awaited { connection, socket }),
                Opened::Refused { kind, why } => Err(Failure::Refused(kind, why)),
                Opened::Connected => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            }
        };
        timeout(OPEN, opened).await.map_err(io::Error::from)?
    }
}

async fn said(connection: &AsyncFd<Connection>) -> io::Result<Opened> {
    loop {
        let mut ready = connection.readable().await?;
        let Ok(message) = ready.try_io(|connection| connection.get_ref().recv(ANSWER)) else { continue };
        let message = message?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        return Ok(read(&message.bytes)?.0);
    }
}

/// A console whose launcher has not connected yet.
pub(super) struct Awaited {
    connection: AsyncFd<Connection>,
    /// The name of the socket where it is to connect.
    pub(super) socket: String,
}

impl Awaited {
    /// Waits for it.
    ///
    /// # Errors
    /// `net` has given it up.
    pub(super) async fn connected(self) -> io::Result<Stream> {
        match said(&self.connection).await? {
            Opened::Connected => Ok(Stream { connection: self.connection, rest: Vec::new() }),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
}

/// A console. The borders of messages mean nothing.
#[derive(Debug)]
pub(super) struct Stream {
    connection: AsyncFd<Connection>,
    /// Of the last message, what was not read yet.
    rest: Vec<u8>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            let mut ready = ready!(self.connection.poll_read_ready(context))?;
            let Ok(message) = ready.try_io(|connection| connection.get_ref().recv(MOST_OF_STREAM)) else {
                continue;
            };
            drop(ready);
            match message? {
                None => return Poll::Ready(Ok(())),
                Some(message) => self.rest = message.bytes,
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        let rest = self.rest.split_off(length);
        buffer.put_slice(&self.rest);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let piece = bytes.get(..bytes.len().min(MOST_OF_STREAM)).unwrap_or_default();
        if piece.is_empty() {
            // An empty message would be taken for the end.
            return Poll::Ready(Ok(0));
        }
        loop {
            let mut ready = ready!(self.connection.poll_write_ready(context))?;
            if let Ok(sent) = ready.try_io(|connection| connection.get_ref().send(piece, &[])) {
                return Poll::Ready(sent.map(|()| piece.len()));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// It ends when it is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
