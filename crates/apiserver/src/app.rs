//! What every stage of a request can reach, and the shape of answers.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde_json::Value;

use crate::admission::{HookCache, SccCache};
use crate::audit::Log;
use crate::auth::Auth;
use crate::flow::{Flow, Requester};
use crate::metrics::Metrics;
use crate::quota::Quota;
use crate::status::ApiError;
use crate::store::Store;

/// Body of every answer; streams end, they do not fail.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub type Answer = Response<Body>;

/// Who admits pods by security context constraints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SccAdmission {
    /// The server itself.
    #[default]
    InProcess,
    /// A webhook, as on any Kubernetes: it also checks the SCCs themselves and gives namespaces their uid ranges. Without
    /// a registered one, nobody does.
    Webhook,
}

/// The parts of the running server.
pub struct App {
    /// All objects.
    pub store: Store,
    /// Who is asking, and may they?
    pub auth: Auth,
    /// Security context constraints: `admission::constraints(store)`.
    pub constraints: SccCache,
    /// Registered webhooks: `admission::hooks(store)`.
    pub hooks: HookCache,
    /// Who admits pods by security context constraints.
    pub scc_admission: SccAdmission,
    /// What one user may take of the server at a time.
    pub flow: Flow,
    /// What is counted.
    pub metrics: Metrics,
    /// How much may be stored.
    pub quota: Quota,
    /// Where audit events go, if anywhere.
    pub audit: Option<Arc<Log>>,
    /// Unix socket of the node's agent: logs, consoles, pause.
    pub agent_socket: PathBuf,
    /// Certificate of the cluster's authority, PEM.
    pub ca_pem: String,
    /// No watch lasts longer than this; what the client asks for, when there is nothing.
    pub longest_watch: Option<std::time::Duration>,
    /// Becomes true when the server stops; streams end then.
    pub shutdown: tokio::sync::watch::Receiver<bool>,
}

impl App {
    /// The store, where what `requester` writes counts as a user's or as the system's.
    pub(crate) fn writer(&self, requester: &Requester) -> Store {
        if requester.is_system() { self.store.clone() } else { self.store.of_users() }
    }
}

/// A body that is there already.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with bytes of the given type.
#[must_use]
pub fn bytes(code: u16, content_type: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(full(content));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}

/// An answer with one JSON object.
#[must_use]
pub fn json(code: u16, object: &Value) -> Answer {
    bytes(code, "application/json", object.to_string())
}

/// A refusal as an answer.
#[must_use]
pub fn refusal(error: &ApiError) -> Answer {
    let mut answer = json(error.code, &error.to_json());
    let retry = error.details.get("retryAfterSeconds").and_then(Value::as_u64);
    if let Some(seconds) = retry {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if error.code == 401 {
        let scheme = header::HeaderValue::from_static("Bearer realm=\"kubernetes\"");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    answer
}
