//! HTTPS: reviews in, answers out, and whether the server is healthy and ready.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrovirt_https::{Bodies, Identity, Options, Reply, deadline, reply, text};
use ferrovirt_scc::webhook::{Answer, Review};
use ferrovirt_scc::{Operation, Pass, may_enter};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::cluster::{Cluster, GROUP, Owner};

/// How long a pod waits for its namespace's values or for the standard SCCs, at the most.
const WAIT: Duration = Duration::from_secs(10);
/// What a request needs.
pub(crate) struct State {
    client: Client,
    cluster: Arc<Cluster>,
    identity: Arc<Identity>,
    bodies: Bodies,
}

impl State {
    pub(crate) fn new(client: Client, cluster: Arc<Cluster>, identity: Arc<Identity>) -> Self {
        Self { client, cluster, identity, bodies: Bodies::default() }
    }
}

/// Accepts connections. Never ends.
pub(crate) async fn run(listener: TcpListener, state: Arc<State>) {
    let identity = Arc::clone(&state.identity);
    let respond = move |request| {
        let state = Arc::clone(&state);
        async move { respond(&state, request).await }
    };
    ferrovirt_https::serve(listener, identity, Options::default(), respond).await;
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
    let deadline = deadline(request.uri().query().unwrap_or_default(), WAIT);
    match state.bodies.read(request).await {
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
    use bytes::Bytes;
    use http::header;
    use http_body_util::{BodyExt as _, Full};
    use hyper_util::rt::TokioIo;
    use rustls::pki_types::{CertificateDer, ServerName};
    use serde_json::json;
    use std::net::SocketAddr;
    use tokio::net::TcpStream;

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
    async fn requests_that_are_no_reviews_are_answered_so() {
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
        let (code, _) = served.ask("POST", "/mutate/pods", json, vec![b' '; Bodies::MOST + 1]).await;
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
