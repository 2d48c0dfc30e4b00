//! Reviews and requests for subresources in, answers out, and whether the server is healthy and ready.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrovirt_https::{Bodies, ClientTrust, Identity, Options, Reply, deadline, reply, text};
use ferrovirt_scc::webhook::{Answer, Review};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use kube::Client;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::admit::{self, Pass};
use crate::subresource::Subresources;

/// The longest time that an answer takes.
const MOST: Duration = Duration::from_secs(10);

/// What a request needs.
pub(crate) struct State {
    client: Client,
    identity: Arc<Identity>,
    bodies: Bodies,
    subresources: Subresources,
}

impl State {
    pub(crate) fn new(client: Client, identity: Arc<Identity>, subresources: Subresources) -> Self {
        Self { client, identity, bodies: Bodies::default(), subresources }
    }
}

/// Accepts connections. Never ends.
pub(crate) async fn run(listener: TcpListener, state: Arc<State>) {
    let identity = Arc::clone(&state.identity);
    let respond = move |request| {
        let state = Arc::clone(&state);
        async move { respond(&state, request).await }
    };
    // Its callers need no certificate but the front proxy.
    let options = Options { clients: ClientTrust::Any, ..Options::default() };
    ferrovirt_https::serve(listener, identity, options, respond).await;
}

/// The webhooks need no front proxy: a cluster without one has them all the same.
fn ready(certificate: bool, front_proxy: bool) -> Reply {
    let missing = match (certificate, front_proxy) {
        (true, true) => return text(StatusCode::OK, "ok".to_owned()),
        (false, _) => "certificate",
        (true, false) => "whether the API server has a front proxy",
    };
    text(StatusCode::SERVICE_UNAVAILABLE, format!("not there yet: {missing}"))
}

async fn respond(state: &State, request: Request<Incoming>) -> Reply {
    let pass = match request.uri().path() {
        "/healthz" => return text(StatusCode::OK, "ok".to_owned()),
        "/readyz" => return ready(state.identity.is_there(), state.subresources.is_ready()),
        "/mutate" => Pass::Mutating,
        "/validate" => Pass::Validating,
        path if Subresources::serves(path) => return state.subresources.respond(request).await,
        other => return text(StatusCode::NOT_FOUND, format!("nothing is served at {other:?}")),
    };
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is sent by POST".to_owned());
    }
    let deadline = deadline(request.uri().query().unwrap_or_default(), MOST);
    let (bytes, _room) = match state.bodies.read(request).await {
        Ok(read) => read,
        Err((code, why)) => return text(code, why),
    };
    let review = match Review::read(&bytes) {
        Ok(review) => review,
        Err(why) => return text(StatusCode::BAD_REQUEST, why.to_string()),
    };
    // The review has all that is needed of the body.
    drop(bytes);
    let answer = match tokio::time::timeout_at(deadline, admit::answer(&state.client, pass, &review)).await {
        Ok(answer) => answer,
        Err(_) => {
            let message =
                "the cluster's API server has not answered the machine API in time: try again".to_owned();
            Answer::refused(504, "Timeout", message, Value::Null)
        }
    };
    let body = answer.render(&review.uid, |bytes| STANDARD.encode(bytes));
    reply(StatusCode::OK, "application/json", body)
}
