//! JSON bodies of bounded length, read in bounded time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::server::TIMEOUT;

/// A review holds two objects of at most 3 MiB, which is the API server's limit, and little else.
const MAX_BODY: usize = 7 << 20;
/// How much of a body that is too large is still read, in its largest size.
const DISCARDED: usize = 8;
/// Memory for bodies that are being read or decided, in KiB. Who comes later waits.
const BODIES: u32 = 64 << 10;

/// Room for the bodies of all requests.
pub struct Bodies {
    room: Semaphore,
    /// In KiB.
    all: u32,
    /// Bytes of one.
    most: usize,
    /// What a body is called when it is refused.
    name: &'static str,
    /// For room and all bytes.
    time: Duration,
}

/// The room of one body, given back when it is dropped.
pub type Room<'a> = SemaphorePermit<'a>;

impl Default for Bodies {
    fn default() -> Self {
        Self::new("an AdmissionReview", MAX_BODY, BODIES)
    }
}

impl Bodies {
    /// Bytes of the longest review that is read.
    pub const MOST: usize = MAX_BODY;

    /// Bodies of `most` bytes at the most, for which there is room of `all` KiB.
    #[must_use]
    pub fn new(name: &'static str, most: usize, all: u32) -> Self {
        Self { room: Semaphore::new(all as usize), all, most, name, time: TIMEOUT }
    }

    /// The same, with another time than 10 seconds in which there has to be room and the whole body.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// The code and the words of the refusal: another type, too many bytes, or too slow.
    pub async fn read(&self, request: Request<Incoming>) -> Result<(Bytes, Room<'_>), (StatusCode, String)> {
        if !is_json(request.headers()) {
            let why = format!("the Content-Type of {} is application/json", self.name);
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        // The headers of who waits for room would be memory that nobody counts.
        let body = request.into_body();
        match tokio::time::timeout(self.time, self.collect(body)).await {
            Ok(result) => result,
            Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())),
        }
    }

    async fn collect(&self, mut body: Incoming) -> Result<(Bytes, Room<'_>), (StatusCode, String)> {
        let announced = body.size_hint().exact();
        let mut too_large = announced.is_some_and(|length| length > self.most as u64);
        let room =
            announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(self.most).min(self.most);
        let kib = u32::try_from(room / 1024 + 1).unwrap_or(self.all).min(self.all);
        let permit = self.room.acquire_many(kib).await.ok();
        let mut bytes = BytesMut::with_capacity(if announced.is_some() && !too_large { room } else { 0 });
        let mut length = 0usize;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|why| (StatusCode::BAD_REQUEST, format!("the body broke off: {why}")))?;
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len());
            too_large = too_large || length > self.most;
            if !too_large {
                bytes.extend_from_slice(&data);
                continue;
            }
            // Read on for a while and thrown away: a client that is still sending does not see an early answer.
            bytes = BytesMut::new();
            if length > self.most.saturating_mul(DISCARDED) {
                break;
            }
        }
        if too_large {
            let why = format!("{} may have {} bytes at the most", self.name, self.most);
            return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        let permit = permit.ok_or((StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned()))?;
        Ok((bytes.freeze(), permit))
    }
}

/// Clients that say nothing mean JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.is_empty() || kind.eq_ignore_ascii_case("application/json")
}
