//! Audit events of `audit.k8s.io/v1` at the level Metadata: who asked for what, whether they might, and what came of it.
//!
//! No bodies, no credentials: of a query only parameters that cannot hold one, and no message that quotes what was sent.
//! Stages are `ResponseStarted` for streams, `ResponseComplete`, and `Panic` for a request whose client went away before
//! its answer.

mod file;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, SizeHint};
use serde_json::{Value, json};

pub use file::{Log, Options};

use crate::answer::{Answer, Body};
use crate::request::{Attributes, Decision, UserInfo};
use crate::status::ApiError;
use crate::{auth, clock, flow};

/// Parameters of queries that are written; the others may hold commands or credentials.
const SAFE: [&str; 19] = [
    "allowWatchBookmarks",
    "container",
    "continue",
    "dryRun",
    "fieldManager",
    "fieldSelector",
    "fieldValidation",
    "follow",
    "force",
    "labelSelector",
    "limit",
    "previous",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "tailLines",
    "timeoutSeconds",
    "watch",
];
/// Most characters of the path and query, as of every other text that a client chooses.
const MOST_URI: usize = 4096;
const MOST_AGENT: usize = 1024;
/// What is known of one request so far.
pub(crate) struct Trail(Option<Open>);

struct Open {
    log: Arc<Log>,
    event: Mutex<Value>,
    long: Mutex<bool>,
}

impl Trail {
    /// Begins with what the request says of itself. Costs nothing without a log.
    pub(crate) fn new<B>(log: Option<&Arc<Log>>, peer: Option<SocketAddr>, request: &Request<B>) -> Self {
        Self(log.map(|log| {
            let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
            let peer = peer.map(|peer| peer.ip().to_string());
            let event = json!({
                "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
                "auditID": auth::unique().unwrap_or_default(),
                "requestURI": shown(request.uri()),
                "verb": verb(request.method()),
                "user": {},
                "sourceIPs": peer.into_iter().collect::<Vec<_>>(),
                "userAgent": cut(agent.unwrap_or_default(), MOST_AGENT),
                "requestReceivedTimestamp": clock::micro_stamp(),
            });
            Open { log: Arc::clone(log), event: Mutex::new(event), long: Mutex::new(false) }
        }))
    }

    /// Who asks, by their own credentials.
    pub(crate) fn user(&self, user: &UserInfo) {
        self.set("user", || person(user));
    }

    /// As whom they act.
    pub(crate) fn impersonated(&self, user: &UserInfo) {
        self.set("impersonatedUser", || person(user));
    }

    /// What they ask for, and whether they may.
    pub(crate) fn decided(&self, attributes: &Attributes, decision: &Decision) {
        let Some(open) = &self.0 else { return };
        *open.long.lock().unwrap_or_else(PoisonError::into_inner) = flow::is_stream(attributes);
        self.set("verb", || attributes.verb.clone().into());
        if !attributes.resource.is_empty() {
            self.set("objectRef", || object(attributes));
        }
        self.set("annotations", || {
            let (decision, reason) = match decision {
                Decision::Allow(reason) => ("allow", reason),
                Decision::Deny(reason) => ("forbid", reason),
            };
            json!({"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason})
        });
    }

    fn set(&self, field: &str, value: impl FnOnce() -> Value) {
        if let Some(open) = &self.0
            && let Value::Object(fields) = &mut *open.event()
        {
            fields.insert(field.to_owned(), value());
        }
    }

    /// Writes how it ended; for an answer that is not whole yet, when it is over.
    pub(crate) fn answered(mut self, mut answer: Answer, error: Option<&ApiError>) -> Answer {
        let Some(open) = self.0.take() else { return answer };
        let id =
            open.event().get("auditID").and_then(Value::as_str).and_then(|id| HeaderValue::from_str(id).ok());
        if let Some(id) = id {
            answer.headers_mut().insert("audit-id", id);
        }
        let code = answer.status().as_u16();
        let mut status = json!({"metadata": {}, "code": code});
        if let (Value::Object(fields), Some(error)) = (&mut status, error) {
            fields.insert("status".to_owned(), "Failure".into());
            fields.insert("reason".to_owned(), error.reason.as_ref().into());
            // Where the content is at fault, the message quotes it.
            if !matches!(code, 400 | 422) {
                fields.insert("message".to_owned(), cut(&error.message, MOST_URI).into());
            }
        }
        if let Value::Object(fields) = &mut *open.event() {
            fields.insert("responseStatus".to_owned(), status);
        }
        let upgraded = code == 101;
        if answer.body().size_hint().exact().is_some() && !upgraded {
            open.write("ResponseComplete");
            return answer;
        }
        if upgraded || *open.long.lock().unwrap_or_else(PoisonError::into_inner) {
            open.write("ResponseStarted");
        }
        answer.map(|inner| Followed { inner, open }.boxed_unsync())
    }
}

impl Drop for Trail {
    /// The client went away before there was an answer; what it asked for may have been done.
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.write("Panic");
        }
    }
}

impl Open {
    fn event(&self) -> MutexGuard<'_, Value> {
        self.event.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, stage: &str) {
        let mut event = self.event();
        if let Value::Object(fields) = &mut *event {
            fields.insert("stage".to_owned(), stage.into());
            fields.insert("stageTimestamp".to_owned(), clock::micro_stamp().into());
        }
        // JSON escapes line ends and control characters: an event is one line, whatever is in it.
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        self.log.write(line);
    }
}

/// A body that says when it is over.
struct Followed {
    inner: Body,
    open: Open,
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.open.write("ResponseComplete");
    }
}

fn verb(method: &Method) -> String {
    cut(method.as_str(), 32).to_lowercase()
}

/// Path and harmless parameters.
fn shown(uri: &Uri) -> String {
    let safe: Vec<&str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| part.split_once('=').is_some_and(|(name, _)| SAFE.contains(&name)))
        .collect();
    let text =
        if safe.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), safe.join("&")) };
    cut(&text, MOST_URI)
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn person(user: &UserInfo) -> Value {
    let mut out = json!({"username": user.name, "groups": user.groups});
    if let Value::Object(fields) = &mut out {
        if !user.uid.is_empty() {
            fields.insert("uid".to_owned(), user.uid.clone().into());
        }
        if !user.extra.is_empty() {
            fields.insert("extra".to_owned(), json!(user.extra));
        }
    }
    out
}

fn object(attributes: &Attributes) -> Value {
    let mut out = serde_json::Map::new();
    for (field, value) in [
        ("resource", &attributes.resource),
        ("namespace", &attributes.namespace),
        ("name", &attributes.name),
        ("apiGroup", &attributes.group),
        ("apiVersion", &attributes.version),
        ("subresource", &attributes.subresource),
    ] {
        if !value.is_empty() {
            out.insert(field.to_owned(), cut(value, MOST_URI).into());
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_uri_shows_no_parameter_that_may_hold_a_credential() {
        let uri: Uri =
            "/api/v1/pods?watch=true&token=abc&command=x&labelSelector=a%3Db&access_token=d".parse().unwrap();
        assert_eq!(shown(&uri), "/api/v1/pods?watch=true&labelSelector=a%3Db");
        assert_eq!(shown(&"/x?token=abc".parse().unwrap()), "/x");
    }
}
