//! Pauses, consoles and screens: what is forwarded to the handler of the instance's node, who is believed to be one, and how
//! many streams there may be.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

mod common;

use common::{Api, Cluster, PROXY, SUBRESOURCES, asked, eventually, log, request};

/// So many of one user.
const STREAMS: usize = 32;
/// And so many calls that wait for a handler.
const WAITING: usize = 8;
const SECRET: &str = "/api/v1/namespaces/kubevirt/secrets/virt-handler-certificate";

/// What stands for the handler of a node: it takes calls of who has the certificate that it was made for, repeats what
/// streams say, and remembers what it was asked.
struct Handler {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    tls: Arc<Mutex<Option<Arc<rustls::ServerConfig>>>>,
    says: Arc<Says>,
}

/// How it answers what is no stream.
#[derive(Default)]
struct Says {
    /// With which code.
    code: Mutex<StatusCode>,
    /// Not before this is false.
    held: watch::Sender<bool>,
}

impl Handler {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let handler = Self { port, asked: Arc::default(), tls: Arc::default(), says: Arc::default() };
        let (asked, tls) = (Arc::clone(&handler.asked), Arc::clone(&handler.tls));
        let says = Arc::clone(&handler.says);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Some(config) = tls.lock().unwrap().clone() else { continue };
                let (asked, says) = (Arc::clone(&asked), Arc::clone(&says));
                tokio::spawn(answer(TlsAcceptor::from(config), stream, asked, says));
            }
        });
        handler
    }

    /// Uses what its Secret has, or a pair of its own with the same authorities.
    async fn mount(&self, cluster: &Cluster, own: Option<(String, String)>) {
        let whole = async || {
            let secret = cluster.get(SECRET).await;
            secret["data"]["tls.key"].is_string().then_some(secret)
        };
        let secret = eventually("the certificate of handlers", whole).await;
        let text = |key: &str| STANDARD.decode(secret["data"][key].as_str().unwrap()).unwrap();
        let (certificate, key) = match own {
            Some((certificate, key)) => (certificate.into_bytes(), key.into_bytes()),
            None => (text("tls.crt"), text("tls.key")),
        };
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&text("ca.crt")) {
            roots.add(authority.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_client_cert_verifier(clients.build().unwrap());
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>().unwrap();
        let config = config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(&key).unwrap()).unwrap();
        *self.tls.lock().unwrap() = Some(Arc::new(config));
    }

    /// What it was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream, asked: Arc<Mutex<Vec<String>>>, says: Arc<Says>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let has_requester = request.headers().keys().any(|name| name.as_str().starts_with("x-remote"));
        let requester = if has_requester { " and who asks" } else { "" };
        asked.lock().unwrap().push(format!("{} {}{requester}", request.method(), request.uri()));
        let says = Arc::clone(&says);
        async move {
            let mut response = Response::new(Full::new(Bytes::new()));
            let html = HeaderValue::from_static("text/html");
            response.headers_mut().insert(header::CONTENT_TYPE, html);
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("https://elsewhere/"));
            *response.status_mut() = *says.code.lock().unwrap();
            says.held.subscribe().wait_for(|held| !held).await.unwrap();
            if let Some(protocol) = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).cloned() {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
                response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
            Ok::<_, Infallible>(response)
        }
    });
    let builder = hyper::server::conn::http1::Builder::new();
    let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

fn path(verb: &str) -> String {
    format!("{SUBRESOURCES}/namespaces/team/virtualmachineinstances/m/{verb}")
}

/// Opens a stream for somebody; it, or the answer's code.
async fn open(cluster: &Cluster, api: &Api, user: &str) -> Result<TlsStream<TcpStream>, u16> {
    let mut stream = api.connect(Some(&cluster.proxy.client(PROXY))).await;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: h\r\nx-remote-user: {user}\r\nx-remote-group: system:masters\r\n\
         connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         sec-websocket-version: 13\r\nsec-websocket-protocol: plain.kubevirt.io\r\n\r\n",
        path("console")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await.unwrap());
    }
    let said = String::from_utf8(said).unwrap();
    let code = said.split(' ').nth(1).unwrap().parse().unwrap();
    if code != 101 {
        return Err(code);
    }
    assert!(said.contains("sec-websocket-protocol: plain.kubevirt.io"), "{said}");
    Ok(stream)
}

async fn echo(stream: &mut TlsStream<TcpStream>, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut said = vec![0; text.len()];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(said, text.as_bytes());
}

/// The pod of a handler on the node.
async fn pod(cluster: &Cluster) {
    let path = "/api/v1/namespaces/kubevirt/pods";
    let body = json!({"metadata": {"name": "handler", "labels": {"kubevirt.io": "virt-handler"}},
        "spec": {"nodeName": "node", "serviceAccountName": "kubevirt-handler",
            "containers": [{"name": "api", "image": "localhost/virt-handler"}]}});
    request(&cluster.admin, "POST", path, &body).await.unwrap();
    let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1"}});
    request(&cluster.admin, "PATCH", &format!("{path}/handler/status"), &status).await.unwrap();
}

/// What is done by the handler, and what is refused before it is asked.
async fn pauses(cluster: &Cluster, api: &Api, handler: &Handler) {
    let own = cluster.proxy.client(PROXY);
    let root = |method: &str, verb: &str| {
        asked(method, &path(verb), "root").header("x-remote-group", "system:masters")
    };
    let ask = async |method: &str, verb: &str, words: &str| {
        let (code, said) = api.send(Some(&own), root(method, verb), "").await;
        let said = said["message"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(words), "{verb}: {code} {said}");
        code
    };
    assert_eq!(ask("PUT", "pause", "the instance is on no node").await, 503);
    cluster.status(&json!({"nodeName": "node"})).await;
    assert_eq!(ask("PUT", "pause", "no pod of it runs on the node node").await, 503);
    pod(cluster).await;
    handler.mount(cluster, None).await;
    let done = async || (api.send(Some(&own), root("PUT", "pause"), "").await.0 == 200).then_some(());
    eventually("a pause", done).await;
    assert_eq!(handler.asked(), ["PUT /v1/namespaces/team/virtualmachineinstances/m/pause"]);
    assert_eq!(ask("PUT", "unpause", "VMI is not paused").await, 409);
    assert_eq!(ask("GET", "console", "ask for it with a WebSocket upgrade").await, 400);
    cluster.status(&json!({"phase": "Succeeded"})).await;
    assert_eq!(ask("PUT", "pause", "VMI is not running").await, 409);
    assert_eq!(ask("GET", "vnc", "VMI is not running").await, 400);
    cluster.status(&json!({"phase": "Running"})).await;
    assert_eq!(handler.asked(), [] as [&str; 0]);

    // Something at the address of a handler, without its certificate.
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["virt-handler".to_owned()]).unwrap();
    let forged = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
    handler.mount(cluster, Some(forged)).await;
    assert_eq!(ask("PUT", "pause", "invalid peer certificate").await, 503);
    assert_eq!(open(cluster, api, "root").await.unwrap_err(), 503);
    assert_eq!(handler.asked(), [] as [&str; 0]);
    handler.mount(cluster, None).await;
}

/// Whatever a handler says, users get a result or an error of theirs or its own, as JSON.
async fn answers(cluster: &Cluster, api: &Api, handler: &Handler) {
    for (said, code) in
        [(200, 200), (202, 202), (409, 409), (500, 500), (206, 502), (302, 502), (401, 502), (407, 502)]
    {
        *handler.says.code.lock().unwrap() = StatusCode::from_u16(said).unwrap();
        let stream = api.connect(Some(&cluster.proxy.client(PROXY))).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let asked = asked("PUT", &path("pause"), "root").header("x-remote-group", "system:masters");
        let asked = asked.header("host", "h").body(Full::<Bytes>::default()).unwrap();
        let answer = sender.send_request(asked).await.unwrap();
        assert_eq!(answer.status().as_u16(), code, "{said}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json", "{said}");
        assert!(!answer.headers().contains_key(header::LOCATION), "{said}");
    }
    *handler.says.code.lock().unwrap() = StatusCode::OK;
    handler.asked();
}

/// Who waits for a handler keeps nobody from what needs none, and has a bound.
async fn waits(cluster: &Cluster, api: &Api, handler: &Handler) {
    handler.says.held.send_replace(true);
    let own = cluster.proxy.client(PROXY);
    let root = |path: &str| asked("PUT", path, "root").header("x-remote-group", "system:masters");
    let pause = path("pause");
    let all = futures::future::join_all((0..WAITING).map(|_| api.send(Some(&own), root(&pause), "")));
    let meanwhile = async {
        let waiting = async || (handler.asked.lock().unwrap().len() == WAITING).then_some(());
        eventually("pauses that wait", waiting).await;
        assert_eq!(api.send(Some(&own), root(&pause), "").await.0, 429);
        let start = format!("{SUBRESOURCES}/namespaces/team/virtualmachines/m/start");
        assert_eq!(api.send(Some(&own), root(&start), "").await.0, 409, "it runs");
        handler.says.held.send_replace(false);
    };
    let (answers, ()) = tokio::join!(all, meanwhile);
    assert!(answers.iter().all(|(code, _)| *code == 200), "{answers:?}");
    handler.asked();
}

/// Streams carry what is said, and one user cannot have all of them; the webhooks are answered while there are many.
async fn streams(cluster: &Cluster, api: &Api, handler: &Handler) {
    let mut all = Vec::new();
    for _ in 0..STREAMS {
        all.push(open(cluster, api, "root").await.unwrap());
    }
    assert_eq!(open(cluster, api, "root").await.unwrap_err(), 429);
    let mut other = open(cluster, api, "another").await.unwrap();
    echo(&mut other, "root@guest:~# ").await;
    for stream in &mut all {
        echo(stream, "login: ").await;
    }
    let review = api.send(None, http::Request::post("/validate"), "{}").await;
    assert_eq!(review.0, 400, "{review:?}");
    drop(all.pop());
    let again = async || open(cluster, api, "root").await.ok();
    echo(&mut eventually("a place that was given back", again).await, "again").await;
    let asked = handler.asked();
    assert!(asked.iter().all(|asked| asked.ends_with("/m/console")), "{asked:?}");
}

/// What somebody has damaged is made again, and works.
async fn damaged(cluster: &Cluster, api: &Api, handler: &Handler) {
    let before = cluster.get(SECRET).await["data"]["tls.crt"].clone();
    let damage = json!({"data": {"tls.crt": "", "ca.crt": "eA=="}});
    request(&cluster.admin, "PATCH", SECRET, &damage).await.unwrap();
    let made = async || {
        let data = cluster.get(SECRET).await["data"].clone();
        (data["tls.crt"] != before && data["tls.crt"] != "" && data["ca.crt"] != "eA==").then_some(())
    };
    eventually("another certificate", made).await;
    handler.mount(cluster, None).await;
    let mut stream = open(cluster, api, "root").await.unwrap();
    echo(&mut stream, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_do_what_they_alone_can_and_streams_are_bounded() {
    log();
    let cluster = Cluster::start().await;
    let handler = Handler::listen().await;
    let api = Api::with_handlers(&cluster, handler.port).await;
    api.known(&cluster).await;
    pauses(&cluster, &api, &handler).await;
    answers(&cluster, &api, &handler).await;
    waits(&cluster, &api, &handler).await;
    streams(&cluster, &api, &handler).await;
    damaged(&cluster, &api, &handler).await;
    api.stop().await;
    cluster.end().await;
}
