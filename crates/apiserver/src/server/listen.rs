//! TLS connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::credentials::Shown;
use super::{ServerError, pipeline};
use crate::app::App;
use crate::auth::Pki;
use crate::flow::connections::{Connection, Waiting};

/// A client that does not finish its handshake or its request head in this time is dropped, and so is one that has
/// not said who it is by then: places are few, and those who are nobody must not be able to hold them.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers may take to end once the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long a connection that is to be closed may still take for the answer that says why.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How often a connection is asked whether its client takes what it asked for.
const LOOK: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, and between two lines about it.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
const ACCEPT_LINES: Duration = Duration::from_secs(1);
/// Upper bound of the request head. Tokens are the largest part.
const MAX_HEAD: u32 = 64 * 1024;
/// Streams of one connection at a time. Upstream has 100 for those who are nobody and 250 for the rest.
const MAX_STREAMS: u32 = 100;
/// What a client may send of one body, and of all bodies of a connection, before somebody reads it: before a place is
/// taken it lies in memory and counts for nobody. The second is the least that HTTP/2 has (RFC 9113, 6.9.2); with as many
/// connections as there may be it is 80 MiB, and 6 MiB for one user.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = 65_535;
/// What waits in one stream for a client that does not take it.
const SEND_BUFFER: usize = 64 * 1024;

/// Who is at the other end of a connection.
pub(super) struct Visitor {
    /// The client certificate, DER.
    pub(super) certificate: Option<Arc<[u8]>>,
    /// Its address.
    pub(super) peer: Option<std::net::SocketAddr>,
    pub(super) connection: Arc<Connection>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) door: Door,
}

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// That of everybody.
    Public,
    /// That of the system's own accounts alone ([`super::Listeners`]).
    System,
}

/// The server's certificate with its key.
pub(super) fn certified(pki: &Pki) -> Result<Arc<CertifiedKey>, ServerError> {
    let wrong = |error: &dyn std::fmt::Display| ServerError::Tls(error.to_string());
    let chain = CertificateDer::pem_slice_iter(pki.server.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(pki.server.key_pem.as_bytes()).map_err(|error| wrong(&error))?;
    let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider());
    certified.map(Arc::new).map_err(|error| wrong(&error))
}

/// TLS: the certificate that is shown, client certificates of our authority if the client has one.
pub(super) fn tls(pki: &Pki, shown: Arc<Shown>) -> Result<rustls::ServerConfig, ServerError> {
    let wrong = |error: &dyn std::fmt::Display| ServerError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(pki.ca_der.clone())).map_err(|error| wrong(&error))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| wrong(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections until `ended`, then lets answers finish for a moment.
pub(super) async fn run(
    app: &Arc<App>,
    (listener, door): (&TcpListener, Door),
    tls: &Arc<rustls::ServerConfig>,
    ended: impl Future<Output = ()>,
    stop: &watch::Sender<bool>,
) {
    let acceptor = TlsAcceptor::from(Arc::clone(tls));
    let graceful = GracefulShutdown::new();
    let waiting = Arc::new(Waiting::default());
    let mut said: Option<Instant> = None;
    tokio::pin!(ended);
    loop {
        let accepted = tokio::select! {
            () = &mut ended => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, acceptor, watcher) = (Arc::clone(app), acceptor.clone(), graceful.watcher());
                let waiting = Arc::clone(&waiting);
                tokio::spawn(async move {
                    let connection = waiting.add();
                    serve(app, acceptor, (stream, door), watcher, &connection, &waiting).await;
                    waiting.remove(&connection);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: others will close theirs.
                if said.is_none_or(|said| said.elapsed() >= ACCEPT_LINES) {
                    tracing::warn!("cannot accept a connection: {error}");
                    said = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    stop.send_replace(true);
    if tokio::time::timeout(LAST_ANSWERS, graceful.shutdown()).await.is_err() {
        tracing::debug!("some connections did not end in time");
    }
}

async fn serve(
    app: Arc<App>,
    acceptor: TlsAcceptor,
    (stream, door): (TcpStream, Door),
    watcher: hyper_util::server::graceful::Watcher,
    connection: &Arc<Connection>,
    waiting: &Arc<Waiting>,
) {
    // Small answers must not wait for more to come.
    let _ = stream.set_nodelay(true);
    let peer = stream.peer_addr().ok();
    let stream = tokio::select! {
        accepted = tokio::time::timeout(TIMEOUT, acceptor.accept(stream)) => match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!("TLS handshake: {error}");
                return;
            }
            Err(_) => return,
        },
        () = connection.close.notified() => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let visitor = Arc::new(Visitor {
        certificate: certificate.map(|certificate| Arc::from(certificate.as_ref())),
        peer,
        connection: Arc::clone(connection),
        waiting: Arc::clone(waiting),
        door,
    });
    let service = service_fn(move |request| {
        let (app, visitor) = (Arc::clone(&app), Arc::clone(&visitor));
        async move { Ok::<_, Infallible>(pipeline::answer(&app, &visitor, request).await) }
    });
    let builder = builder();
    let serving = watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => if let Err(error) = served {
            tracing::debug!("connection: {error}");
        },
        why = ends(connection) => {
            tracing::debug!("a connection is closed: {why}");
            let _ = tokio::time::timeout(LAST_WORD, serving).await;
        }
    }
}

/// Comes back when a connection is to be closed; says why.
async fn ends(connection: &Connection) -> &'static str {
    let start = Instant::now();
    loop {
        if tokio::time::timeout(LOOK, connection.close.notified()).await.is_ok() {
            return "it gives way to others";
        }
        if !connection.is_known() && start.elapsed() >= TIMEOUT {
            return "nobody said who they are";
        }
        if connection.pending.is_late(Instant::now()) {
            return "its client takes nothing of an answer";
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .max_buf_size(usize::try_from(MAX_HEAD).unwrap_or(65_536));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
