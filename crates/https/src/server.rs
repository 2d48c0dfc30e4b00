//! Connections, within bounds.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::clients::{Client, ClientTrust, Verifier};
use crate::identity::Identity;

/// A client that does not finish its handshake, its request head or its body in this time is dropped.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// What is left of the caller's own limit for the way back.
const MARGIN: Duration = Duration::from_secs(1);
/// Requests at the same time on one connection.
const MAX_STREAMS: u32 = 250;

/// An answer.
pub type Reply = Response<Full<Bytes>>;

/// Whom a server listens to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which certificates clients are asked for.
    pub clients: ClientTrust,
    /// Most connections at the same time.
    pub connections: usize,
    /// Most of them of one address: whoever holds many must not keep the API server out.
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
    let addresses = Addresses::new(options.of_address);
    loop {
        // The semaphore is never closed.
        let slot = Arc::clone(&slots).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = addresses.take(peer.ip()) else { continue };
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
        ClientTrust::None | ClientTrust::Optional(_) => builder.with_safe_default_protocol_versions()?,
    };
    let verifier = match clients {
        ClientTrust::None => None,
        ClientTrust::Optional(authorities) => Some(Verifier::new(authorities, false)),
        ClientTrust::Required(authorities) => Some(Verifier::new(authorities, true)),
    };
    let mut config = match verifier {
        None => builder.with_no_client_auth().with_cert_resolver(identity),
        Some(verifier) => {
            let builder = builder.with_client_cert_verifier(Arc::new(verifier));
            let mut config = builder.with_cert_resolver(identity);
            // Whoever resumes a session shows no certificate, and authorities change.
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// How many connections each address has.
#[derive(Clone)]
struct Addresses {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
}

impl Addresses {
    fn new(most: usize) -> Self {
        Self { counts: Arc::default(), most }
    }

    /// A place for one more; none where the address has as many as it may.
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { of: self.clone(), address })
    }
}

/// One connection of an address.
struct Place {
    of: Addresses,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
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
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let client = shown.map(|certificate| Client(certificate.clone().into_owned()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(client) = client.clone() {
            request.extensions_mut().insert(client);
        }
        let answer = respond(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // By what the handshake has agreed on: whoever would look at the first bytes waits for them without a limit.
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let ended = if speaks_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(20));
        builder.serve_connection(TokioIo::new(stream), service).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(TIMEOUT);
        builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await
    };
    if let Err(error) = ended {
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
    fn an_address_has_so_many_connections_and_others_theirs() {
        const MOST: usize = 32;
        let addresses = Addresses::new(MOST);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut places: Vec<_> = (0..MOST).filter_map(|_| addresses.take(one)).collect();
        assert_eq!(places.len(), MOST);
        assert!(addresses.take(one).is_none() && addresses.take(other).is_some());
        places.pop();
        places.extend(addresses.take(one));
        assert_eq!(places.len(), MOST);
        drop(places);
        assert!(addresses.counts.lock().unwrap().is_empty());
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
