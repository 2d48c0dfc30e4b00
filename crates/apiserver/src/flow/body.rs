//! Bodies of requests: of bounded length, in bounded time, and only so many at once.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrovirt_api::document::MAX_BYTES;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::{Flow, Place};
use crate::request::Requester;
use crate::status::ApiError;

/// How many bytes of a body that is too large are still read: the limit of most bodies again and again.
const MAX_DISCARDED: usize = 8 * MAX_BYTES;
/// How long a client may take to send its body.
const LIMIT: Duration = Duration::from_secs(60);

/// Reads a body of at most `most` bytes. What it takes of the user's part is given back with the place.
///
/// # Errors
/// 413, 408, 429, and 400 when the client ends before its body does.
pub(crate) async fn read(
    flow: &Flow,
    user: &Requester,
    headers: &HeaderMap,
    body: Incoming,
    most: usize,
) -> Result<(Bytes, Place), ApiError> {
    if body.is_end_stream() {
        return Ok((Bytes::new(), Place::default()));
    }
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    // Nothing is kept of what is too large.
    let expected = announced.map_or(most, |length| if length > most { 0 } else { length });
    let place = flow.bodies.take(user, expected / 1024 + 1).await?;
    match tokio::time::timeout(LIMIT, collect(body, announced.unwrap_or(0), most)).await {
        Ok(result) => Ok((result?, place)),
        Err(_) => Err(ApiError::new(408, "Timeout", "the request body did not arrive in time")),
    }
}

/// Collects a body. One that is too large is read on for a while and thrown away: a client that is still sending does
/// not see an answer that comes before it has ended.
async fn collect(mut body: Incoming, announced: usize, most: usize) -> Result<Bytes, ApiError> {
    let mut collected = BytesMut::new();
    let mut length = 0usize;
    let mut too_large = announced > most;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::bad_request(format!("the request body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        too_large = too_large || length > most;
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
        let message = format!("Request entity too large: limit is {most}");
        return Err(ApiError::new(413, "RequestEntityTooLarge", message));
    }
    Ok(collected.freeze())
}
