//! The way of one request: authenticate, authorize, body, and on to what answers it.

use std::sync::Arc;

use bytes::Bytes;
use ferrovirt_api::document::MAX_BYTES;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use hyper::body::Incoming;

use super::listen::{Door, Visitor};
use crate::answer::{self, Answer};
use crate::app::App;
use crate::audit::Trail;
use crate::flow::{self, answer::ANSWER_LIMIT, answer::STREAM_LIMIT};
use crate::registry::SUBRESOURCES_GROUP;
use crate::request::{Attributes, Decision, Requester, Target, UserInfo};
use crate::rest::Call;
use crate::rest::path::{self, ResourcePath, Route};
use crate::rest::query::Query;
use crate::status::ApiError;
use crate::store::{Health, StoreError};
use crate::{auth, discovery, openapi, quota, subresource};

/// Answers one request, whatever happens.
pub(super) async fn answer(app: &Arc<App>, visitor: &Visitor, request: Request<Incoming>) -> Answer {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let trail = Trail::new(app.audit.as_ref(), visitor.peer, &request);
    let mut answer = match respond(app, visitor, &trail, request).await {
        Ok(answer) => trail.answered(answer, None),
        Err(error) => {
            tracing::debug!(%method, %path, code = error.code, "{}", for_log(&error));
            if error.code == 429 {
                app.metrics.too_many();
            }
            trail.answered(answer::refusal(&error), Some(&error))
        }
    };
    // Clients identify what they cached by this; answers are for one user.
    answer
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    answer
}

/// What a log may say of a refusal. Where the content is at fault, the message quotes it: secrets among others.
fn for_log(error: &ApiError) -> &str {
    if matches!(error.code, 400 | 422) { &error.reason } else { &error.message }
}

async fn respond(
    app: &Arc<App>,
    visitor: &Visitor,
    trail: &Trail,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let own = app.auth.identify(request.headers(), visitor.certificate.as_deref())?;
    trail.user(&own);
    if visitor.door == Door::System && !own.is_system() {
        visitor.connection.close.notify_one();
        return Err(ApiError::forbidden(
            "",
            "",
            "",
            "this address is for the system's own parts: use the server of your kubeconfig",
        ));
    }
    let user = app.auth.impersonate(own.clone(), request.headers())?;
    if user != own {
        trail.impersonated(&user);
    }
    let requester = Requester::of(&own);
    if !own.in_group(ferrovirt_kubernetes::subject::UNAUTHENTICATED) {
        visitor.connection.belongs_to(&requester, &app.flow, &visitor.waiting).await?;
    }
    match path::route(request.uri().path())? {
        Route::Other(parts) if is_health(&parts) => other(app, &user, &parts, trail, &request),
        Route::Other(parts) => {
            let place = app.flow.seats.take(&requester, 1).await?;
            let answer = other(app, &user, &parts, trail, &request)?;
            Ok(visitor.connection.pending.hold(answer, place.into(), ANSWER_LIMIT))
        }
        Route::Resource(path) => resource(app, visitor, trail, (user, requester), path, request).await,
    }
}

/// Anyone who looks after the server is answered also when it is busy.
fn is_health(parts: &[String]) -> bool {
    parts.first().is_some_and(|word| matches!(word.as_str(), "healthz" | "readyz" | "livez"))
}

/// Paths that are no resources.
fn other(
    app: &App,
    user: &UserInfo,
    parts: &[String],
    trail: &Trail,
    request: &Request<Incoming>,
) -> Result<Answer, ApiError> {
    let path = request.uri().path().to_owned();
    let attributes =
        Attributes { verb: request.method().as_str().to_lowercase(), path, ..Attributes::default() };
    authorize(app, user, &attributes, trail)?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    if let (true, [probe, ..]) = (is_health(parts), parts) {
        return Ok(health(probe, &app.store.health(), app.metrics.certificates_end()));
    }
    if parts.is_empty() {
        let paths = [
            "/api",
            "/api/v1",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v3",
            "/readyz",
            "/version",
        ];
        return Ok(answer::json(200, &serde_json::json!({"paths": paths})));
    }
    if let [word] = parts
        && word == "metrics"
    {
        return Ok(answer::bytes(200, "text/plain; version=0.0.4; charset=utf-8", app.metrics.text()));
    }
    discovery::answer(parts, request.headers())
        .or_else(|| openapi::answer(parts, request.headers()))
        .ok_or_else(ApiError::no_such_path)
}

const CERTIFICATES: &str =
    "[-] certificates: they are near their end and cannot be renewed: the server's log says why";

/// The answer to a probe. A server whose disk is full or failed is alive, since a restart would not help, and is not
/// ready, and so is one that will have to be looked after. Probes are for everybody: reasons that name files are in the log.
fn health(probe: &str, store: &Health, certificates_end: bool) -> Answer {
    let text = "text/plain; charset=utf-8";
    match store {
        Health::Closed => answer::bytes(500, text, "[-] the store is closed: start the server again"),
        Health::Full | Health::Failed(_) if probe == "livez" => answer::bytes(200, text, "ok"),
        Health::Full => answer::bytes(500, text, format!("[-] store: {}", StoreError::Full)),
        Health::Failed(_) => answer::bytes(500, text, format!("[-] store: {}", StoreError::Unavailable)),
        Health::Good if probe == "readyz" && certificates_end => answer::bytes(500, text, CERTIFICATES),
        Health::Good => answer::bytes(200, text, "ok"),
    }
}

async fn resource(
    app: &Arc<App>,
    visitor: &Visitor,
    trail: &Trail,
    (user, requester): (UserInfo, Requester),
    path: ResourcePath,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let mut attributes = path.attributes(request.method(), query.watch, request.uri().path());
    // Who may list or watch one object by its name asks for it like this.
    if let ("list" | "watch", Some(name)) = (attributes.verb.as_str(), query.fields.name()) {
        attributes.name = name.to_owned();
    }
    authorize(app, &user, &attributes, trail)?;
    let stream = flow::is_stream(&attributes);
    // Who takes no event for so long watches again; others count on the place of a large one.
    let limit = if stream && attributes.verb != "watch" { STREAM_LIMIT } else { ANSWER_LIMIT };
    let hold = |answer, place| visitor.connection.pending.hold(answer, place, limit);
    let own_handler = path.kind.is_some_and(|kind| {
        !matches!(path.subresource.as_str(), "" | "status" | "finalize")
            && kind.subresource(&path.subresource).is_some()
    });
    if path.group == SUBRESOURCES_GROUP || own_handler {
        let place = Arc::new(app.flow.place(&requester, &attributes, || 0).await?);
        let target = Target { kind: path.kind, attributes, rest: path.rest, user, requester };
        let answer = subresource::handle(app, target, request, &place).await?;
        return Ok(hold(answer, place));
    }
    let kind = path.kind.ok_or_else(|| ApiError::no_such_resource(&path.group, &path.resource))?;
    if !path.rest.is_empty()
        || (!path.subresource.is_empty() && kind.subresource(&path.subresource).is_none())
    {
        return Err(ApiError::no_such_path());
    }
    let (parts, body) = request.into_parts();
    let (mut body, _taken) = flow::body::read(&app.flow, &requester, &parts.headers, body, MAX_BYTES).await?;
    if !matches!(parts.method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        // Read for clients that look at the answer only after they have sent it, and of no meaning, as upstream.
        body = Bytes::new();
    }
    let place = app.flow.place(&requester, &attributes, || app.quota.count(&path.namespace)).await?;
    let call = Call::new(Arc::clone(app), (user, requester), kind, path, query, &parts.headers)?;
    let answer = if !stream && is_large(&call, &body) {
        apart(call, parts.method, parts.headers, body).await?
    } else {
        call.run(&parts.method, &parts.headers, body).await?
    };
    Ok(hold(answer, place.into()))
}

/// Whether a request can keep a worker busy for long.
fn is_large(call: &Call, body: &Bytes) -> bool {
    let stored = || call.app.store.get(&call.kind.key(&call.namespace, &call.name));
    body.len() > flow::LARGE
        || (!call.name.is_empty() && stored().is_some_and(|entry| quota::exceeds(&entry.object, flow::LARGE)))
}

async fn apart(call: Call, method: Method, headers: HeaderMap, body: Bytes) -> Result<Answer, ApiError> {
    let (app, requester) = (Arc::clone(&call.app), call.requester.clone());
    let work = async move { call.run(&method, &headers, body).await };
    app.flow.apart_until_left(&requester, work).await?
}

fn authorize(app: &App, user: &UserInfo, attributes: &Attributes, trail: &Trail) -> Result<(), ApiError> {
    let decision = app.auth.authorize(user, attributes);
    trail.decided(attributes, &decision);
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) => Err(auth::denied(user, attributes, &reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_end_soon_make_a_server_unready_and_not_dead() {
        let code = |probe, end| health(probe, &Health::Good, end).status().as_u16();
        assert_eq!([code("readyz", false), code("livez", false)], [200, 200]);
        assert_eq!([code("readyz", true), code("livez", true), code("healthz", true)], [500, 200, 200]);
    }

    #[test]
    fn the_log_does_not_quote_what_was_sent() {
        assert_eq!(for_log(&ApiError::new(422, "Invalid", "Invalid value: \"password\"")), "Invalid");
        assert_eq!(for_log(&ApiError::forbidden("", "pods", "p", "no right")), "no right");
    }
}
