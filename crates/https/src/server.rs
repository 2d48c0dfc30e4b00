//! Connections, within bounds.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::clients::{ClientTrust, Verifier};
use crate::identity::Identity;
use crate::share::Share;
use crate::shown::{AnyCertificate, Shown};

/// A client that does not finish its handshake, its request head or its body in this time is dropped.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// What is left of the caller's own limit for the way back.
const MARGIN: Duration = Duration::from_secs(1);
/// Requests at the same time on one connection.
const MAX_STREAMS: u32 = 32;
/// Headers of a request, and their bytes. A front proxy writes one for each group of a user: this is enough for 300 groups
/// with names of 50 letters (HTTP/2 counts 32 bytes more for each). It is the same for those who show no certificate:
/// headers are kept while one request is taken in and looked at, and not while it waits for room or for its body.
const MAX_HEADERS: usize = 1024;
const MAX_HEADER_BYTES: u32 = 32 << 10;
/// Bytes of bodies that lie in one connection, as nobody has room for them yet.
const WINDOW: u32 = 256 << 10;

/// After how long without a word the other side is asked whether it is there, how often, and how many times without an answer.
const IDLE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// An answer.
pub type Reply = Response<Full<Bytes>>;

/// Whom a server listens to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which certificates clients are asked for.
    pub clients: ClientTrust,
    /// Most connections at the same time.
    pub connections: usize,
    /// Most of them of one address: a client that holds many must not keep the API server out.
    pub of_address: usize,
}

/// What fits webhooks.
impl Default for Options {
    fn default() -> Self {
        Self { clients: ClientTrust::None, connections: 512, of_address: 32 }
    }
}

/// Accepts connections, and has each request answered by `respond`, which may take an HTTP/1.1 connection over
/// (`hyper::upgrade`): then it is not counted any more, and who took it bounds what becomes of it. Never ends.
pub async fn serve<F, A>(listener: TcpListener, identity: Arc<Identity>, options: Options, respond: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let acceptor = match tls(identity, options.clients) {
        Ok(config) => TlsAcceptor::from(Arc::new(config)),
        Err(error) => return tracing::error!(%error, "TLS cannot be used"),
    };
    let slots = Arc::new(Semaphore::new(options.connections));
    let addresses = Share::new(options.of_address, usize::MAX);
    loop {
        // The semaphore is never closed.
        let slot = Arc::clone(&slots).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = addresses.take(&peer.ip()) else { continue };
                let (acceptor, respond) = (acceptor.clone(), respond.clone());
                tokio::spawn(async move {
                    connection(acceptor, stream, respond).await;
                    drop((slot, place));
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

fn tls(identity: Arc<Identity>, clients: ClientTrust) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = match clients {
        ClientTrust::Required(_) => builder.with_protocol_versions(&[&rustls::version::TLS13])?,
        ClientTrust::None | ClientTrust::Any => builder.with_safe_default_protocol_versions()?,
    };
    let verifier: Option<Arc<dyn ClientCertVerifier>> = match clients {
        ClientTrust::None => None,
        ClientTrust::Any => Some(Arc::new(AnyCertificate::new())),
        ClientTrust::Required(authorities) => Some(Arc::new(Verifier::new(authorities))),
    };
    let mut config = match verifier {
        None => builder.with_no_client_auth().with_cert_resolver(identity),
        Some(verifier) => {
            let builder = builder.with_client_cert_verifier(verifier);
            let mut config = builder.with_cert_resolver(identity);
            // Anyone who resumes a session shows no certificate, and authorities change.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection<F, A>(acceptor: TlsAcceptor, stream: TcpStream, respond: F)
where
    F: Fn(Request<Incoming>) -> A + Send + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!("a connection cannot be watched: {error}");
    }
    let stream = match tokio::time::timeout(TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!("TLS handshake: {error}"),
        Err(_) => return,
    };
    let shown = Shown::of(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let service = service_fn(move |mut request: Request<Incoming>| {
        if shown.is_there() {
            request.extensions_mut().insert(shown.clone());
        }
        let answer = respond(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // By what the handshake has agreed on: a server that looks at the first bytes waits for them without a limit.
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let ended = if speaks_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(WINDOW)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(20));
        builder.serve_connection(TokioIo::new(stream), service).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEADER_BYTES as usize);
        builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
}

/// Has the kernel look whether the other side of a connection is still there: one that is gone without a word, as a node is
/// that has lost its power, ends a minute later and not in two hours. A stream may be silent for any time.
///
/// # Errors
/// The system's.
pub fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
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

    #[tokio::test]
    async fn a_silent_connection_is_looked_at_within_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        keep_alive(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let longest = sockopt::tcp_keepidle(&stream).unwrap()
            + sockopt::tcp_keepintvl(&stream).unwrap() * sockopt::tcp_keepcnt(&stream).unwrap();
        assert!(longest <= Duration::from_secs(60), "{longest:?}");
    }

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
