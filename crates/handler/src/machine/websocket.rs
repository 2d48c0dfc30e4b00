//! Consoles through WebSockets, with KubeVirt's subprotocol: the same wherever a node serves them.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{future::Future, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
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
/// Most bytes of a client's message: keystrokes and pastes, not files. As many may wait in memory for a guest that reads
/// nothing, for each console that is open.
const MAX_MESSAGE: usize = 256 << 10;
/// Most bytes of a message to a client.
const PIECE: usize = 16 << 10;
/// How long a client may take nothing of what its guest says: others may wait for its place.
const STUCK: Duration = Duration::from_secs(60);
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
    let (mut to_client, mut from_client) = socket.split();
    let guest = match connect.await {
        Ok(guest) => guest,
        Err(error) => {
            to_client.close().await?;
            return Err(error.into());
        }
    };
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    // Each by itself: a guest that takes nothing is still heard.
    let shown = async {
        let mut bytes = vec![0; PIECE];
        loop {
            let length = from_guest.read(&mut bytes).await.unwrap_or(0);
            if length == 0 {
                // A peer that is gone needs no farewell.
                let _gone = timeout(FAREWELL, to_client.close()).await;
                return Ok(());
            }
            let piece = Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default());
            match timeout(STUCK, to_client.send(Message::Binary(piece))).await {
                Ok(sent) => sent?,
                Err(late) => return Err(io::Error::from(late).into()),
            }
        }
    };
    let typed = async {
        loop {
            match from_client.next().await {
                Some(Ok(Message::Binary(data))) => to_guest.write_all(&data).await?,
                Some(Ok(Message::Text(text))) => to_guest.write_all(text.as_bytes()).await?,
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
    };
    tokio::select! {
        ended = shown => ended,
        ended = typed => ended,
    }
}
