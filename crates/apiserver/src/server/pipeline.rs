//! The way of one request: authenticate, authorize, body, and on to whoever answers it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::Notify;

use super::MAX_BODY;
use crate::app::{self, Answer, App};
use crate::auth;
use crate::registry::SUBRESOURCES_GROUP;
use crate::request::{Attributes, Decision, Target, UserInfo};
use crate::rest::Call;
use crate::rest::path::{self, ResourcePath, Route};
use crate::rest::query::Query;
use crate::status::ApiError;
use crate::{discovery, openapi, subresource};

/// How much of a body that is too large is still read.
const MAX_DISCARDED: usize = 8 * MAX_BODY;
/// How long a client may take to send its body.
const BODY_PATIENCE: Duration = Duration::from_secs(60);

/// Answers one request, whatever happens.
///
/// `known` is told when the client has said who it is.
pub(super) async fn answer(
    app: &Arc<App>,
    certificate: Option<&[u8]>,
    known: &Notify,
    request: Request<Incoming>,
) -> Answer {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut answer = match respond(app, certificate, known, request).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%method, %path, code = error.code, "{}", for_log(&error));
            app::refusal(&error)
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
    certificate: Option<&[u8]>,
    known: &Notify,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let user = app.auth.authenticate(request.headers(), certificate)?;
    if !user.in_group(auth::user::UNAUTHENTICATED) {
        known.notify_one();
    }
    match path::route(request.uri().path())? {
        Route::Other(parts) => other(app, &user, &parts, &request),
        Route::Resource(path) => resource(app, user, path, request).await,
    }
}

/// Paths that are no resources.
fn other(
    app: &App,
    user: &UserInfo,
    parts: &[String],
    request: &Request<Incoming>,
) -> Result<Answer, ApiError> {
    let path = request.uri().path().to_owned();
    let attributes =
        Attributes { verb: request.method().as_str().to_lowercase(), path, ..Attributes::default() };
    authorize(app, user, &attributes)?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    if let [word, ..] = parts
        && matches!(word.as_str(), "healthz" | "readyz" | "livez")
    {
        if !app.store.is_open() {
            return Ok(app::bytes(
                500,
                "text/plain; charset=utf-8",
                "[-] the store is closed: start the server again",
            ));
        }
        return Ok(app::bytes(200, "text/plain; charset=utf-8", "ok"));
    }
    if parts.is_empty() {
        let paths = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"];
        return Ok(app::json(200, &serde_json::json!({"paths": paths})));
    }
    discovery::answer(parts, request.headers())
        .or_else(|| openapi::answer(parts, request.headers()))
        .ok_or_else(ApiError::no_such_path)
}

async fn resource(
    app: &Arc<App>,
    user: UserInfo,
    path: ResourcePath,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let mut attributes = path.attributes(request.method(), query.watch, request.uri().path());
    // Who may list or watch one object by its name asks for it like this.
    if let ("list" | "watch", Some(name)) = (attributes.verb.as_str(), query.fields.name()) {
        attributes.name = name.to_owned();
    }
    authorize(app, &user, &attributes)?;
    let own_handler = path.kind.is_some_and(|kind| {
        !matches!(path.subresource.as_str(), "" | "status" | "finalize")
            && kind.subresource(&path.subresource).is_some()
    });
    if path.group == SUBRESOURCES_GROUP || own_handler {
        let target = Target { kind: path.kind, attributes, rest: path.rest, user };
        return subresource::handle(app, target, request).await;
    }
    let kind = path.kind.ok_or_else(ApiError::no_such_path)?;
    if !path.rest.is_empty()
        || (!path.subresource.is_empty() && kind.subresource(&path.subresource).is_none())
    {
        return Err(ApiError::no_such_path());
    }
    let (parts, body) = request.into_parts();
    let call = Call::new(Arc::clone(app), user, kind, path, query, &parts.headers)?;
    let body = read(&parts.headers, body).await?;
    call.run(&parts.method, &parts.headers, body).await
}

fn authorize(app: &App, user: &UserInfo, attributes: &Attributes) -> Result<(), ApiError> {
    match app.auth.authorize(user, attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) => Err(auth::denied(user, attributes, &reason)),
    }
}

/// Reads a body of bounded length in bounded time.
async fn read(headers: &HeaderMap, body: Incoming) -> Result<Bytes, ApiError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    match tokio::time::timeout(BODY_PATIENCE, collect(body, announced.unwrap_or(0))).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::new(408, "Timeout", "the request body did not arrive in time")),
    }
}

/// Collects a body. One that is too large is read on for a while and thrown away: a client that is still sending does
/// not see an answer that comes before it has ended.
async fn collect(mut body: Incoming, announced: usize) -> Result<Bytes, ApiError> {
    let mut collected = BytesMut::new();
    let mut length = 0usize;
    let mut too_large = announced > MAX_BODY;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::bad_request(format!("the request body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        too_large = too_large || length > MAX_BODY;
        if too_large {
            collected = BytesMut::new();
            if length > MAX_DISCARDED {
                break;
            }
        } else {
            collected.extend_from_slice(&data);
        }
    }
    if too_large {
        let message = format!("Request entity too large: limit is {MAX_BODY}");
        return Err(ApiError::new(413, "RequestEntityTooLarge", message));
    }
    Ok(collected.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_does_not_quote_what_was_sent() {
        assert_eq!(for_log(&ApiError::new(422, "Invalid", "Invalid value: \"password\"")), "Invalid");
        assert_eq!(for_log(&ApiError::forbidden("", "pods", "p", "no right")), "no right");
    }
}
