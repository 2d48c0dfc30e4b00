//! Connections, within bounds.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::identity::Identity;

/// A client that does not finish its handshake, its request head or its body in this time is dropped.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// What is left of the caller's own limit for the way back.
const MARGIN: Duration = Duration::from_secs(1);
/// Connections at the same time.
const MAX_CONNECTIONS: usize = 512;
/// Requests at the same time on one connection.
const MAX_STREAMS: u32 = 250;

/// An answer.
pub type Reply = Response<Full<Bytes>>;

/// Accepts connections, and has each request answered by `respond`. Never ends.
pub async fn serve<F, A>(listener: TcpListener, identity: Arc<Identity>, respond: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = match config {
        Ok(config) => config.with_no_client_auth().with_cert_resolver(identity),
        Err(error) => return tracing::error!(%error, "TLS cannot be used"),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let slot = Arc::clone(&slots).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, respond) = (acceptor.clone(), respond.clone());
                tokio::spawn(async move {
                    connection(acceptor, stream, respond).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: others will close theirs.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<F, A>(acceptor: TlsAcceptor, stream: TcpStream, respond: F)
where
    F: Fn(Request<Incoming>) -> A + Send + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!("TLS handshake: {error}"),
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let answer = respond(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("connection: {error}");
    }
}

/// An answer of a type.
pub fn reply(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = code;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}

/// An answer in words.
pub fn text(code: StatusCode, text: String) -> Reply {
    reply(code, "text/plain; charset=utf-8", text)
}

/// When the answer must be ready: the caller says in the query how long it waits (`timeout=10s`); at the latest in `most`.
pub fn deadline(query: &str, most: Duration) -> Instant {
    let seconds = query
        .split('&')
        .find_map(|part| part.strip_prefix("timeout=")?.strip_suffix('s')?.parse::<u64>().ok())
        .map(Duration::from_secs)
        .unwrap_or(most);
    Instant::now() + seconds.saturating_sub(MARGIN).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_says_how_long_it_waits() {
        let now = Instant::now();
        let most = Duration::from_secs(10);
        let left = |query: &str| (deadline(query, most) - now).as_secs_f64().round();
        assert_eq!(left("timeout=5s"), 4.0);
        assert_eq!(left("timeout=30s"), 10.0);
        assert_eq!(left("timeout=0s"), 0.0);
        assert_eq!(left("timeout=-1s"), 9.0);
        assert_eq!(left(""), 9.0);
    }
}
