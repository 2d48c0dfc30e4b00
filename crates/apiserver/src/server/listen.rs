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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::{ServerError, pipeline};
use crate::app::App;
use crate::auth::Pki;

/// A client that does not finish its handshake or its request head in this time is dropped, and so is one that has
/// not said who it is by then: places are few, and those who are nobody must not be able to hold them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long answers may take to end once the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Upper bound of connections at the same time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Upper bound of the request head. Tokens are the largest part.
const MAX_HEAD: u32 = 64 * 1024;
/// Upstream's number of streams for one connection.
const MAX_STREAMS: u32 = 250;

/// TLS: our certificate, client certificates of our authority if the client has one.
pub(super) fn tls(pki: &Pki) -> Result<rustls::ServerConfig, ServerError> {
    let wrong = |error: &dyn std::fmt::Display| ServerError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(pki.ca_der.clone())).map_err(|error| wrong(&error))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| wrong(&error))?;
    let chain = CertificateDer::pem_slice_iter(pki.server.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(pki.server.key_pem.as_bytes()).map_err(|error| wrong(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections until `ended`, then lets answers finish for a moment.
pub(super) async fn run(
    app: &Arc<App>,
    listener: &TcpListener,
    tls: &Arc<rustls::ServerConfig>,
    ended: impl Future<Output = ()>,
    stop: &watch::Sender<bool>,
) {
    let acceptor = TlsAcceptor::from(Arc::clone(tls));
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::pin!(ended);
    loop {
        let accepted = tokio::select! {
            () = &mut ended => break,
            accepted = async {
                // The semaphore is never closed; without a slot the connection would only be counted wrong.
                let slot = Arc::clone(&slots).acquire_owned().await.ok();
                (slot, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (slot, Ok((stream, _))) => {
                let (app, acceptor, watcher) = (Arc::clone(app), acceptor.clone(), graceful.watcher());
                tokio::spawn(async move {
                    connection(app, acceptor, stream, watcher).await;
                    drop(slot);
                });
            }
            (_, Err(error)) => {
                // Out of descriptors, mostly: others will close theirs.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    stop.send_replace(true);
    if tokio::time::timeout(LAST_ANSWERS, graceful.shutdown()).await.is_err() {
        tracing::debug!("some connections did not end in time");
    }
}

async fn connection(
    app: Arc<App>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Small answers must not wait for more to come.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!("TLS handshake: {error}");
            return;
        }
        Err(_) => return,
    };
    let certificate: Option<Arc<[u8]>> = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|certificate| Arc::from(certificate.as_ref()));
    let known = Arc::new(Notify::new());
    let teller = Arc::clone(&known);
    let service = service_fn(move |request| {
        let (app, certificate, known) = (Arc::clone(&app), certificate.clone(), Arc::clone(&teller));
        async move { Ok::<_, Infallible>(pipeline::answer(&app, certificate.as_deref(), &known, request).await) }
    });
    let stays_nobody = async {
        if tokio::time::timeout(PATIENCE, known.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let builder = builder();
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::select! {
        served = watcher.watch(serving) => if let Err(error) = served {
            tracing::debug!("connection: {error}");
        },
        () = stays_nobody => tracing::debug!("a connection that nobody used is closed"),
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(usize::try_from(MAX_HEAD).unwrap_or(65_536));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
