//! Subresources: what is below an object and is not its status, and the API group subresources.kubevirt.io.
//!
//! Who asks has been authorized before, on exactly the resource and subresource of the path.

mod agent;
mod machine;
mod pod;

use std::sync::Arc;

use bytes::Bytes;
use ferrovirt_machines::subresource::{self, Call, Refused};
use http::{Method, Request};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::admission::webhook;
use crate::answer::{self, Answer};
use crate::app::App;
use crate::flow::{self, Place};
use crate::request::Target;
use crate::rest::query::Query;
use crate::status::ApiError;

/// API group of the machines' subresources.
pub const MACHINES: &str = subresource::GROUP;
/// Bodies here are small; a larger one is refused.
const MAX_BODY: usize = 1 << 20;

/// Answers a request for a subresource.
///
/// # Errors
/// The refusal that the client gets.
pub async fn handle(
    app: &Arc<App>,
    target: Target,
    request: Request<Incoming>,
    place: &Arc<Place>,
) -> Result<Answer, ApiError> {
    let asked = &target.attributes;
    let parts = (asked.group.as_str(), asked.resource.as_str(), asked.subresource.as_str());
    let method = request.method().clone();
    if asked.group == MACHINES {
        return of_machines(app, &target, request, place).await;
    }
    match (method, parts) {
        (Method::GET, ("", "pods", "log")) => pod::log(app, &target, &request).await,
        (Method::POST, ("", "pods", "binding")) => {
            let dry_run = dry_run(&request)?;
            let mut body = json_body(app, &target, request).await?;
            webhook::subresource(app, &target, ("", "v1", "Binding"), &mut body, dry_run).await?;
            pod::binding(app, &target, body, dry_run).await
        }
        (Method::POST, ("", "pods", "eviction")) => {
            let dry_run = dry_run(&request)?;
            let mut body = json_body(app, &target, request).await?;
            webhook::subresource(app, &target, ("policy", "v1", "Eviction"), &mut body, dry_run).await?;
            pod::eviction(app, &target, body, dry_run).await
        }
        (Method::POST, ("", "serviceaccounts", "token")) => {
            let dry_run = dry_run(&request)?;
            let mut body = json_body(app, &target, request).await?;
            let kind = ("authentication.k8s.io", "v1", "TokenRequest");
            webhook::subresource(app, &target, kind, &mut body, dry_run).await?;
            let answer = app.auth.token_request(&asked.namespace, &asked.name, body)?;
            Ok(answer::json(201, &answer))
        }
        (_, (_, resource, subresource)) if target.kind.is_some() && !subresource.is_empty() => {
            Err(ApiError::new(501, "NotImplemented", format!("not supported yet: {resource}/{subresource}")))
        }
        _ => Err(ApiError::no_such_path()),
    }
}

/// The group [`MACHINES`].
async fn of_machines(
    app: &Arc<App>,
    target: &Target,
    request: Request<Incoming>,
    place: &Arc<Place>,
) -> Result<Answer, ApiError> {
    let asked = &target.attributes;
    let get = request.method() == Method::GET;
    match (asked.resource.as_str(), asked.name.as_str()) {
        ("version", "") if get => return Ok(answer::json(200, &subresource::version())),
        ("healthz", "") if get => {
            return Ok(answer::json(200, &json!({"apiserver": {"connectivity": "ok"}})));
        }
        (subresource::EXPAND, "") if !asked.namespace.is_empty() => {}
        (word @ subresource::EXPAND, _) | (word, "") => return unanswered("", word),
        _ => {}
    }
    // Of a subresource that has more parts each is part of its name.
    let name = target.rest.iter().fold(asked.subresource.clone(), |name, part| name + "/" + part);
    let call = Call::find(request.method().as_str(), &asked.resource, &name);
    let Some(call) = call else { return unanswered(&asked.resource, &name) };
    match call {
        Call::Start | Call::Stop | Call::Restart => {
            machine::run(app, target, call, json_body(app, target, request).await?).await
        }
        Call::Expand => machine::expand(app, target),
        Call::ExpandGiven => {
            let body = json_body(app, target, request).await?;
            Ok(answer::json(200, &subresource::expanded(&asked.namespace, body)?))
        }
        Call::Pause | Call::Unpause => {
            machine::pause(app, target, call, json_body(app, target, request).await?).await
        }
        Call::Console | Call::Vnc => machine::stream(app, target, call, request, place).await,
    }
}

/// What is said to a request that no call answers.
fn unanswered(resource: &str, name: &str) -> Result<Answer, ApiError> {
    let refused = Refused::unanswered(resource, name);
    if subresource::is_read_as_text(name) {
        return Ok(answer::bytes(refused.code, "text/plain; charset=utf-8", refused.message));
    }
    Err(refused.into())
}

/// Whether the query says that nothing is to be done.
fn dry_run(request: &Request<Incoming>) -> Result<bool, ApiError> {
    Ok(Query::parse(request.uri().query().unwrap_or_default())?.dry_run)
}

/// The body as JSON; an empty one is an empty object.
async fn json_body(app: &App, target: &Target, request: Request<Incoming>) -> Result<Value, ApiError> {
    let (parts, body) = request.into_parts();
    let (bytes, _taken) =
        flow::body::read(&app.flow, &target.requester, &parts.headers, body, MAX_BODY).await?;
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    // Typed clients send protobuf here too.
    let value = if bytes.len() > flow::LARGE {
        app.flow.apart(&target.requester, move || crate::rest::body::read(&parts.headers, &bytes)).await??
    } else {
        crate::rest::body::read(&parts.headers, &bytes)?
    };
    if value.is_object() { Ok(value) } else { Err(ApiError::bad_request("the body is not a JSON object")) }
}

/// An answer without content.
fn empty(code: u16) -> Answer {
    answer::bytes(code, "application/json", Bytes::new())
}
