//! What a client without any certificate can make a server keep.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use ferrovirt_https::{Bodies, Identity, Options, Reply, serve, text};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Requests at the same time on one connection.
const STREAMS: usize = 32;

struct Server {
    address: SocketAddr,
    authority: String,
}

impl Server {
    async fn start<A>(respond: impl Fn(Request<Incoming>) -> A + Clone + Send + 'static) -> Self
    where
        A: Future<Output = Reply> + Send + 'static,
    {
        let identity: Arc<Identity> = Arc::default();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        identity.set(authority.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, identity, Options::default(), respond));
        Self { address, authority }
    }

    async fn connect(&self, protocol: &[u8]) -> TokioIo<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }

    async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let (sender, connection) = http1::handshake(self.connect(b"http/1.1").await).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = self.connect(b"h2").await;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.unwrap();
}

#[tokio::test]
async fn headers_are_those_of_some_hundred_groups_and_no_more() {
    let server = Server::start(async |request: Request<Incoming>| {
        text(StatusCode::OK, request.headers().len().to_string())
    })
    .await;
    let of = |groups: usize| {
        let mut request = Request::get("https://localhost/").header("host", "localhost");
        for group in 0..groups {
            request = request.header("x-remote-group", format!("{group:050}"));
        }
        request.body(Full::default()).unwrap()
    };
    // HTTP/1.1 looks after each read, of which the last may be as long again.
    for (groups, code) in [(300, StatusCode::OK), (1000, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)] {
        let answer = server.http1().await.send_request(of(groups)).await.unwrap();
        assert_eq!(answer.status(), code, "{groups} by HTTP/1.1");
        // Its own client keeps what the server has said about headers, or is answered.
        let answer = server.http2().await.send_request(of(groups)).await;
        assert_eq!(
            answer.is_ok_and(|answer| answer.status().is_success()),
            code == StatusCode::OK,
            "{groups}"
        );
    }
}

#[tokio::test]
async fn a_connection_has_so_many_requests_at_the_same_time() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (end, ended) = watch::channel(false);
    let counts = (Arc::clone(&running), Arc::clone(&most));
    let server = Server::start(move |_| {
        let ((running, most), mut ended) = (counts.clone(), ended.clone());
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            ended.wait_for(|ended| *ended).await.unwrap();
            running.fetch_sub(1, Ordering::SeqCst);
            text(StatusCode::OK, String::new())
        }
    })
    .await;
    let mut sender = server.http2().await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 * STREAMS {
        sender.ready().await.unwrap();
        let answer = sender.send_request(Request::get("https://localhost/").body(Full::default()).unwrap());
        all.spawn(async move { answer.await.map(|answer| answer.status()) });
    }
    until(|| running.load(Ordering::SeqCst) >= STREAMS).await;
    end.send_replace(true);
    // What the client has sent before it knew is refused, and what was answered was never more.
    let answered = all.join_all().await.into_iter().filter(|answer| answer.is_ok()).count();
    assert!(answered >= STREAMS, "{answered}");
    assert_eq!(most.load(Ordering::SeqCst), STREAMS);
}

#[tokio::test]
async fn the_headers_of_who_waits_for_room_are_gone() {
    // Room for one body.
    let bodies = Arc::new(Bodies::new("a body", 4 << 10, 5));
    let headers: Arc<Mutex<Vec<Weak<()>>>> = Arc::default();
    let (end, ended) = watch::channel(false);
    let shared = (Arc::clone(&bodies), Arc::clone(&headers));
    let server = Server::start(move |mut request: Request<Incoming>| {
        let ((bodies, headers), mut ended) = (shared.clone(), ended.clone());
        async move {
            // Kept as long as the headers are.
            let witness = Arc::new(());
            headers.lock().unwrap().push(Arc::downgrade(&witness));
            request.extensions_mut().insert(witness);
            let read = bodies.read(request).await;
            ended.wait_for(|ended| *ended).await.unwrap();
            text(read.map_or_else(|(code, _)| code, |_| StatusCode::OK), String::new())
        }
    })
    .await;
    let mut answers = tokio::task::JoinSet::new();
    let body =
        || Request::post("/").header("host", "localhost").body(Full::from(vec![b' '; 4 << 10])).unwrap();
    for _ in 0..3 {
        let mut sender = server.http1().await;
        answers.spawn(async move { sender.send_request(body()).await.unwrap().status() });
    }
    until(|| headers.lock().unwrap().len() == 3).await;
    until(|| headers.lock().unwrap().iter().all(|headers| headers.strong_count() == 0)).await;
    end.send_replace(true);
    assert_eq!(answers.join_all().await.len(), 3);
}
