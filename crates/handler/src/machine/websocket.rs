//! Consoles through WebSockets, with KubeVirt's subprotocol: the same wherever a node serves them.

use bytes::{Buf as _, Bytes};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    future::Future,
    io, mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

/// What clients of consoles ask for.
pub const SUBPROTOCOL: &str = "plain.kubevirt.io";
/// Most bytes of a client's message: keystrokes and pastes, not files. Twice as many may wait in memory for a guest that reads
/// nothing, for each console that is open: those that are written, and the next.
const MAX_MESSAGE: usize = 256 << 10;
/// Most bytes of a message to a client.
const PIECE: usize = 16 << 10;
/// How long a client may take nothing of what its guest says, or a guest nothing of what its client does: others may wait for
/// the place.
const STUCK: Duration = Duration::from_secs(60);
/// Between two pings, and how long a client may say nothing at all: one whose machine has vanished ends no connection, and
/// every WebSocket client answers pings.
const PING: Duration = Duration::from_secs(30);
const SILENT: Duration = Duration::from_secs(90);
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Checks that a request asks for a WebSocket of ours; the answer, and what comes of the connection once it was sent.
///
/// # Errors
/// What is wrong with the request, in words for the client: 400.
pub fn handshake<B>(request: &mut Request<B>) -> Result<(Response<()>, OnUpgrade), &'static str> {
    let asked = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let websocket = asked(header::UPGRADE).is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"));
    let Some(key) = asked(header::SEC_WEBSOCKET_KEY).filter(|_| websocket) else {
        return Err("this is a WebSocket: ask for an upgrade");
    };
    let offered = asked(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let ours = offered.split(',').any(|name| name.trim() == SUBPROTOCOL);
    if !offered.is_empty() && !ours {
        return Err("the subprotocol must be plain.kubevirt.io");
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if ours {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok((response, hyper::upgrade::on(request)))
}

/// Carries bytes between a client that was upgraded and its guest until one of them is done.
///
/// # Errors
/// What ended it, for the log.
pub async fn carry<G>(upgrade: OnUpgrade, connect: impl Future<Output = io::Result<G>>) -> Result<(), Error>
where
    G: AsyncRead + AsyncWrite,
{
    let Ok(upgraded) = upgrade.await else { return Ok(()) };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(PIECE)
        .write_buffer_size(PIECE);
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    match connect.await {
        Ok(guest) => exchange(socket, guest).await,
        Err(error) => {
            let mut socket = socket;
            socket.close(None).await?;
            Err(error.into())
        }
    }
}

/// When the client was heard last.
type Heard = Mutex<Instant>;

/// Each direction by itself: a guest that takes nothing is still heard.
async fn exchange<S, G>(socket: WebSocketStream<S>, guest: G) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite,
{
    let (to_client, from_client) = socket.split();
    let (from_guest, to_guest) = tokio::io::split(guest);
    let heard = Heard::new(Instant::now());
    tokio::select! {
        ended = show(from_guest, to_client, &heard) => ended,
        ended = write(from_client, to_guest, &heard) => ended,
    }
}

fn late() -> Error {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

/// From the guest to the client, which is asked now and then whether it is there.
async fn show<S: AsyncRead + AsyncWrite + Unpin>(
    mut from_guest: impl AsyncRead + Unpin,
    mut to_client: SplitSink<WebSocketStream<S>, Message>,
    heard: &Heard,
) -> Result<(), Error> {
    let mut bytes = vec![0; PIECE];
    let mut due = Instant::now() + PING;
    loop {
        let message = tokio::select! {
            read = from_guest.read(&mut bytes) => {
                let length = read.unwrap_or(0);
                if length == 0 {
                    // A peer that is gone needs no farewell.
                    let _gone = timeout(FAREWELL, to_client.close()).await;
                    return Ok(());
                }
                Message::Binary(Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default()))
            }
            () = sleep_until(due) => {
                due = Instant::now() + PING;
                if heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= SILENT {
                    return Err(late());
                }
                Message::Ping(Bytes::new())
            }
        };
        timeout(STUCK, to_client.send(message)).await.map_err(|_| late())??;
    }
}

/// From the client to the guest. The client is heard while the guest takes nothing, so that its end is the end.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut from_client: SplitStream<WebSocketStream<S>>,
    mut to_guest: impl AsyncWrite + Unpin,
    heard: &Heard,
) -> Result<(), Error> {
    let alive = || *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    let (mut typed, mut next) = (Bytes::new(), Bytes::new());
    let mut until = Instant::now() + STUCK;
    loop {
        if typed.is_empty() && !next.is_empty() {
            typed = mem::take(&mut next);
            until = Instant::now() + STUCK;
        }
        tokio::select! {
            written = to_guest.write(&typed), if !typed.is_empty() => match written? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                length => {
                    typed.advance(length.min(typed.len()));
                    until = Instant::now() + STUCK;
                    // What it has said is being worked through: that its pongs are behind it is not its fault.
                    alive();
                }
            },
            () = sleep_until(until), if !typed.is_empty() => return Err(late()),
            message = from_client.next(), if next.is_empty() => {
                alive();
                match message {
                    Some(Ok(Message::Binary(data))) => next = data,
                    Some(Ok(Message::Text(text))) => next = text.into(),
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::DuplexStream, task::JoinHandle};

    /// A client and a guest, and what comes of the console between them.
    async fn console() -> (WebSocketStream<DuplexStream>, DuplexStream, JoinHandle<Result<(), Error>>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let (guest, far) = tokio::io::duplex(16);
        let socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        (client, far, tokio::spawn(exchange(socket, guest)))
    }

    fn timed_out(ended: Result<(), Error>) -> bool {
        matches!(ended, Err(Error::Io(error)) if error.kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_client_is_seen_while_its_guest_takes_nothing() {
        let (mut client, _guest, console) = console().await;
        let begin = Instant::now();
        client.send(Message::binary(vec![b'x'; 1000])).await.unwrap();
        client.close(None).await.unwrap();
        console.await.unwrap().unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO, "on the clock of this test, which goes on when all wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_takes_nothing_ends_the_console_and_a_slow_one_does_not() {
        let (mut client, mut guest, console) = console().await;
        client.send(Message::binary(vec![b'x'; 64])).await.unwrap();
        client.send(Message::binary(vec![b'y'; 64])).await.unwrap();
        let mut taken = Vec::new();
        for _ in 0..4 {
            tokio::time::sleep(STUCK / 2).await;
            let mut bytes = [0; 16];
            guest.read_exact(&mut bytes).await.unwrap();
            taken.extend(bytes);
        }
        assert!(!console.is_finished(), "it takes something");
        assert_eq!(taken, vec![b'x'; 64]);
        assert!(timed_out(console.await.unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_there_keeps_its_console_and_one_that_has_vanished_does_not() {
        let (mut client, _guest, console) = console().await;
        // To be read is to be answered.
        for _ in 0..10 {
            assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
            client.flush().await.unwrap();
        }
        assert!(!console.is_finished());
        assert!(timed_out(console.await.unwrap()), "nobody reads");
    }
}
