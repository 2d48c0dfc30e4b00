//! The shape of answers, for every stage that gives one.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde_json::Value;

use crate::status::ApiError;

/// Body of every answer; streams end, they do not fail.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub type Answer = Response<Body>;

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
