//! Requests to the node's agent over its Unix socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrovirt_https::stream;
use futures::StreamExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::answer::{Answer, Body, full};
use crate::flow::Place;
use crate::status::ApiError;

/// How long the agent may take to begin its answer: a pause waits 10 seconds for the launcher.
const ANSWER: Duration = Duration::from_secs(15);
/// How long an answer that has begun may pause, unless it follows something that may never happen.
const PIECE: Duration = Duration::from_secs(30);

/// Sends a request to the agent.
///
/// # Errors
/// 503 when no agent listens, 504 when it takes too long.
pub(super) async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Incoming>, ApiError> {
    let answer = tokio::time::timeout(ANSWER, ask(socket, method, path, headers, body)).await;
    answer.unwrap_or_else(|_| {
        let message = format!(
            "the node's agent did not answer within {} seconds: see that virt-handler runs and is not stopped",
            ANSWER.as_secs()
        );
        Err(ApiError::new(504, "Timeout", message))
    })
}

async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Incoming>, ApiError> {
    let away = |why: &dyn std::fmt::Display| {
        let message = format!("the node's agent does not answer ({why}): see that virt-handler runs");
        ApiError::new(503, "ServiceUnavailable", message)
    };
    let stream = UnixStream::connect(socket).await.map_err(|e| away(&e))?;
    // The agent needs root; in tests this process's own user stands for it.
    let peer = stream.peer_cred().map_err(|e| away(&e))?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        return Err(away(&format_args!("user {peer} listens in its place")));
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| away(&e))?;
    // Ends by itself when the answer (or, after an upgrade, the stream) is over.
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| ApiError::bad_request(format!("no such path: {path}")))?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("agent"));
    sender.send_request(request).await.map_err(|e| away(&e))
}

/// The agent's answer for the client: code, type and body as they come, streamed. `endless` says that any time may pass
/// between two pieces.
pub(super) fn relay(answer: Response<Incoming>, endless: bool) -> Answer {
    let (parts, incoming) = answer.into_parts();
    let mut out = Response::new(streamed(incoming, (!endless).then_some(PIECE)));
    *out.status_mut() = parts.status;
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = parts.headers.get(&name) {
            out.headers_mut().insert(name, value.clone());
        }
    }
    out
}

/// A body that simply ends where the agent's breaks off, or pauses for longer than `limit`: the head of the answer is
/// long sent.
fn streamed(incoming: Incoming, limit: Option<Duration>) -> Body {
    let pieces = incoming.into_data_stream();
    let frames = futures::stream::unfold(pieces, move |mut pieces| async move {
        let next = match limit {
            Some(limit) => tokio::time::timeout(limit, pieces.next()).await.unwrap_or_default(),
            None => pieces.next().await,
        };
        let bytes =
            next?.inspect_err(|error| tracing::debug!(%error, "the agent's answer broke off")).ok()?;
        Some((Ok(Frame::data(bytes)), pieces))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Passes an upgrade through: the agent speaks WebSocket with the client, the server only moves bytes. `place` is given
/// back at its end.
///
/// # Errors
/// 503 when no agent listens.
pub(super) async fn upgrade(
    socket: &Path,
    path: &str,
    mut request: Request<Incoming>,
    place: Arc<Place>,
) -> Result<Answer, ApiError> {
    let Some(headers) = stream::upgrade_headers(request.headers()) else {
        return Err(ApiError::bad_request("this is a stream: ask for it with a WebSocket upgrade"));
    };
    let client = hyper::upgrade::on(&mut request);
    let answer = send(socket, Method::GET, path, headers, Bytes::new()).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(relay(answer, false));
    }
    Ok(stream::carry(client, answer, place).map(|()| full(Bytes::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_stopped_does_not_hold_a_request_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        // It listens, as the kernel does for a stopped process, and nobody accepts.
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let error = send(&socket, Method::GET, "/containerLogs/n/p/c", HeaderMap::new(), Bytes::new())
            .await
            .unwrap_err();
        assert_eq!(error.code, 504);
        assert!(error.message.contains("did not answer within 15 seconds"), "{}", error.message);
    }
}
