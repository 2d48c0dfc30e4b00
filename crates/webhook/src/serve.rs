//! HTTPS: reviews in, answers out, and whether the server is healthy and ready.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use ferrovirt_scc::webhook::{Answer, Review};
use ferrovirt_scc::{Operation, Pass, may_enter};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::cluster::{Cluster, GROUP, Owner};
use crate::identity::Identity;

/// A review holds two objects of at most 3 MiB, which is the API server's limit, and little else.
const MAX_BODY: usize = 7 << 20;
/// How much of a body that is too large is still read.
const MAX_DISCARDED: usize = 8 * MAX_BODY;
/// Memory for bodies that are being read or decided, in KiB. Who comes later waits.
const BODIES: u32 = 64 << 10;
/// A client that does not finish its handshake, its request head or its body in this time is dropped.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pod waits for its namespace's values or for the standard SCCs, at the most.
const WAIT: Duration = Duration::from_secs(10);
/// What is left of the caller's own limit for the way back.
const MARGIN: Duration = Duration::from_secs(1);
/// Connections at the same time.
const MAX_CONNECTIONS: usize = 512;
/// Requests at the same time on one connection.
const MAX_STREAMS: u32 = 250;

/// What a request needs.
pub(crate) struct State {
    client: Client,
    cluster: Arc<Cluster>,
    identity: Arc<Identity>,
    bodies: Semaphore,
}

type Reply = Response<Full<Bytes>>;

impl State {
    pub(crate) fn new(client: Client, cluster: Arc<Cluster>, identity: Arc<Identity>) -> Self {
        Self { client, cluster, identity, bodies: Semaphore::new(BODIES as usize) }
    }
}

/// Accepts connections. Never ends.
pub(crate) async fn run(listener: TcpListener, state: Arc<State>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = match config {
        Ok(config) => config.with_no_client_auth().with_cert_resolver(Arc::clone(&state.identity) as Arc<_>),
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
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
                tokio::spawn(async move {
                    connection(acceptor, stream, state).await;
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

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!("TLS handshake: {error}"),
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(respond(&state, request).await) }
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

/// What a path is for.
#[derive(Clone, Copy)]
enum Question {
    Pod(Pass),
    Object(Pass),
    Entry,
}

async fn respond(state: &State, request: Request<Incoming>) -> Reply {
    let question = match request.uri().path() {
        "/healthz" => return text(StatusCode::OK, "ok".to_owned()),
        "/readyz" => return readiness(state),
        "/mutate/pods" => Question::Pod(Pass::Mutating),
        "/validate/pods" => Question::Pod(Pass::Validating),
        "/validate/entry" => Question::Entry,
        "/mutate/securitycontextconstraints" => Question::Object(Pass::Mutating),
        "/validate/securitycontextconstraints" => Question::Object(Pass::Validating),
        other => return text(StatusCode::NOT_FOUND, format!("nothing is served at {other:?}")),
    };
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is sent by POST".to_owned());
    }
    let deadline = deadline(request.uri().query().unwrap_or_default());
    match body(state, request).await {
        Err((code, why)) => text(code, why),
        Ok((bytes, _room)) => match Review::read(&bytes) {
            Err(why) => text(StatusCode::BAD_REQUEST, why.to_string()),
            Ok(review) => {
                // The review has all that is needed of the body.
                drop(bytes);
                let answer = answer(state, question, &review, deadline).await;
                let body = answer.render(&review.uid, |bytes| STANDARD.encode(bytes));
                reply(StatusCode::OK, "application/json", body)
            }
        },
    }
}

fn reply(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = code;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}

fn text(code: StatusCode, text: String) -> Reply {
    reply(code, "text/plain; charset=utf-8", text)
}

fn readiness(state: &State) -> Reply {
    let mut missing = state.cluster.missing();
    if !state.identity.is_there() {
        missing.push("certificate");
    }
    if missing.is_empty() {
        return text(StatusCode::OK, "ok".to_owned());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, format!("not there yet: {}", missing.join(", ")))
}

/// When the answer must be ready: the caller says in the query how long it waits (`timeout=10s`).
fn deadline(query: &str) -> Instant {
    let seconds = query
        .split('&')
        .find_map(|part| part.strip_prefix("timeout=")?.strip_suffix('s')?.parse::<u64>().ok())
        .map(Duration::from_secs)
        .unwrap_or(WAIT);
    Instant::now() + seconds.saturating_sub(MARGIN).min(WAIT)
}

/// Reads a JSON body of bounded length in bounded time. The permit holds its room.
async fn body(
    state: &State,
    request: Request<Incoming>,
) -> Result<(Bytes, tokio::sync::SemaphorePermit<'_>), (StatusCode, String)> {
    let headers = request.headers();
    if !is_json(headers) {
        let why = "the Content-Type of an AdmissionReview is application/json".to_owned();
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let announced = request.body().size_hint().exact();
    let mut too_large = announced.is_some_and(|length| length > MAX_BODY as u64);
    let room = usize::try_from(announced.unwrap_or(MAX_BODY as u64)).unwrap_or(MAX_BODY).min(MAX_BODY);
    let kib = u32::try_from(room / 1024 + 1).unwrap_or(BODIES);
    let collected = async {
        let permit = state.bodies.acquire_many(kib).await.ok();
        let mut body = request.into_body();
        let mut bytes = BytesMut::with_capacity(if announced.is_some() && !too_large { room } else { 0 });
        let mut length = 0usize;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|why| (StatusCode::BAD_REQUEST, format!("the body broke off: {why}")))?;
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len());
            too_large = too_large || length > MAX_BODY;
            if !too_large {
                bytes.extend_from_slice(&data);
                continue;
            }
            // Read on for a while and thrown away: a client that is still sending does not see an early answer.
            bytes = BytesMut::new();
            if length > MAX_DISCARDED {
                break;
            }
        }
        if too_large {
            let why = format!("an AdmissionReview may have {MAX_BODY} bytes at the most");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        let permit = permit.ok_or((StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned()))?;
        Ok((bytes.freeze(), permit))
    };
    match tokio::time::timeout(TIMEOUT, collected).await {
        Ok(result) => result,
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())),
    }
}

/// Clients that say nothing mean JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.is_empty() || kind.eq_ignore_ascii_case("application/json")
}

async fn answer(state: &State, question: Question, review: &Review, deadline: Instant) -> Answer {
    if state.cluster.owner() == Owner::Cluster {
        let warning = "this cluster admits pods by its own SecurityContextConstraints: the webhook of Ferrovirt stays \
                       out of the way and should be removed";
        let mut answer = Answer::allowed();
        answer.warnings.push(warning.to_owned());
        return answer;
    }
    match question {
        Question::Object(pass) if review.is_about(GROUP, "securitycontextconstraints") => {
            review.decide_object(pass)
        }
        Question::Object(_) => Answer::allowed(),
        Question::Pod(pass) => pod(state, pass, review, deadline).await,
        Question::Entry => entry(state, review).await,
    }
}

/// Decides about a pod; waits for what a controller adds to a namespace right after it was made.
async fn pod(state: &State, pass: Pass, review: &Review, deadline: Instant) -> Answer {
    let cluster = &state.cluster;
    let mut changes = cluster.changes();
    loop {
        changes.mark_unchanged();
        let missing = cluster.missing();
        let result = if missing.is_empty() {
            let namespace = cluster.namespace(&review.namespace);
            let (constraints, rights) = (cluster.constraints(), cluster.rights());
            review.decide(pass, &constraints, namespace.as_deref(), rights.as_ref()).map_err(|denied| {
                let later = denied.may_pass_later();
                (Answer::denied(denied), later)
            })
        } else {
            let message = format!("securitycontextconstraints.{GROUP} cache is not synchronized");
            Err((Answer::refused(403, "Forbidden", message, Value::Null), true))
        };
        let (refusal, later) = match result {
            Ok(answer) => return answer,
            Err(refused) => refused,
        };
        let waited =
            later && tokio::time::timeout_at(deadline, changes.changed()).await.is_ok_and(|r| r.is_ok());
        if !waited {
            return refusal;
        }
    }
}

/// Decides whether somebody may enter a running pod.
async fn entry(state: &State, review: &Review) -> Answer {
    let known = review.is_about("", "pods") && matches!(review.sub_resource.as_str(), "exec" | "attach");
    if review.operation != "CONNECT" || !known {
        return Answer::allowed();
    }
    let cluster = &state.cluster;
    let namespace = cluster.namespace(&review.namespace);
    if review.namespace != "default"
        && ferrovirt_scc::exempt_namespace(&review.namespace, namespace.as_deref())
    {
        return Answer::allowed();
    }
    let pods: Api<Pod> = Api::namespaced(state.client.clone(), &review.namespace);
    let pod = match pods.get_opt(&review.name).await {
        Ok(Some(pod)) => serde_json::to_value(pod).unwrap_or_default(),
        Ok(None) => {
            let message = format!("pods {:?} not found", review.name);
            return Answer::refused(404, "NotFound", message, Value::Null);
        }
        Err(error) => {
            let message = format!("the pod cannot be looked at: {error}");
            return Answer::refused(500, "InternalError", message, Value::Null);
        }
    };
    let request = review.request(Operation::Create, namespace.as_deref());
    let (constraints, rights) = (cluster.constraints(), cluster.rights());
    match may_enter(&constraints, &request, rights.as_ref(), &review.sub_resource, &pod) {
        Ok(()) => Answer::allowed(),
        Err(why) => Answer::refused(403, "Forbidden", why, Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{CertificateDer, ServerName};
    use serde_json::json;
    use std::net::SocketAddr;

    #[test]
    fn the_caller_says_how_long_it_waits() {
        let now = Instant::now();
        let left = |query: &str| (deadline(query) - now).as_secs_f64().round();
        assert_eq!(left("timeout=5s"), 4.0);
        assert_eq!(left("timeout=30s"), 10.0);
        assert_eq!(left("timeout=0s"), 0.0);
        assert_eq!(left("timeout=-1s"), 9.0);
        assert_eq!(left(""), 9.0);
    }

    /// A running server that knows no cluster, and what a client needs to reach it.
    struct Served {
        address: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        cluster: Arc<Cluster>,
    }

    impl Served {
        async fn start() -> Self {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            let certificate = certificate.self_signed(&key).unwrap();
            let identity = Arc::new(Identity::default());
            identity.set(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
            let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
            let cluster = Arc::new(Cluster::default());
            let state = State::new(Client::try_from(config).unwrap(), Arc::clone(&cluster), identity);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(run(listener, Arc::new(state)));
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from(certificate.der().to_vec())).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            Self { address, tls: Arc::new(tls), cluster }
        }

        async fn ask(&self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> (u16, String) {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
            let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
            let request = request.header(header::CONTENT_TYPE, kind).body(Full::new(body.into())).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let code = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (code, String::from_utf8(body.to_vec()).unwrap())
        }
    }

    #[tokio::test]
    async fn requests_that_are_no_reviews_are_told_so() {
        let served = Served::start().await;
        let json = "application/json";
        for (method, path, kind, body, code, text) in [
            ("GET", "/healthz", "", "", 200, "ok"),
            (
                "GET",
                "/readyz",
                "",
                "",
                503,
                "not there yet: securitycontextconstraints.security.openshift.io",
            ),
            ("POST", "/other", json, "{}", 404, "/other"),
            ("GET", "/mutate/pods", json, "", 405, "by POST"),
            ("POST", "/mutate/pods", "application/yaml", "{}", 415, "application/json"),
            ("POST", "/mutate/pods", json, "{", 400, "no AdmissionReview"),
            ("POST", "/validate/pods", json, r#"{"kind": "Pod"}"#, 400, "got kind"),
        ] {
            let (found, said) = served.ask(method, path, kind, body).await;
            assert_eq!((found, said.contains(text)), (code, true), "{method} {path}: {said}");
        }
        let (code, _) = served.ask("POST", "/mutate/pods", json, vec![b' '; MAX_BODY + 1]).await;
        assert_eq!(code, 413);
    }

    #[tokio::test]
    async fn where_the_cluster_decides_itself_everything_is_allowed_with_a_warning() {
        let served = Served::start().await;
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "n", "resource": {"group": "", "resource": "pods"},
            "object": {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], "hostPID": true}}}});
        let ask = |path: &'static str| {
            served.ask("POST", path, "application/json; charset=utf-8", review.to_string())
        };
        // Nothing is known yet: nobody is let through.
        let (code, said) = ask("/mutate/pods?timeout=1s").await;
        assert!(code == 200 && said.contains("cache is not synchronized"), "{said}");
        served.cluster.set_owner(Owner::Cluster);
        for path in ["/mutate/pods", "/validate/pods"] {
            let (_, said) = ask(path).await;
            let answer: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(answer["response"]["allowed"], true, "{answer}");
            assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("should be removed"));
        }
        assert_eq!(served.ask("GET", "/readyz", "", "").await.0, 200);
    }
}
