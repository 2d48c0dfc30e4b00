//! What one user may take of the server at a time, so that there is always something for the others.
//!
//! Modelled on Kubernetes' API priority and fairness, with two levels: the system's own accounts
//! ([`crate::request::UserInfo::is_system`]) are not held back, and all other users share what is here, each of them a part of
//! it. A user is who the credential says, no matter who they act as; the service accounts of a namespace are one ([`Requester`]). Anyone who comes when everything is taken waits for a moment in the queue of the user, and users take turns; then the
//! answer is 429 with `Retry-After`, on which Kubernetes' clients try again.
//!
//! | what | one user | all users |
//! |---|---|---|
//! | seats of requests, from after the body to the last byte of the answer; large lists take several | 12 | 48 |
//! | KiB of bodies that are being read | 6,144 | 24,576 |
//! | large requests that are worked on, apart from the async workers | 1 | 3 |
//! | KiB of objects that lists, and watches before their first event, keep until their client has taken them | 65,536 | 393,216 |
//! | pieces of watches, of more than 32 KiB each, that their client has not taken; the next ones wait | 4 | 64 |
//! | watches | 64 | 1,024 |
//! | followed logs, consoles, screens | 32 | 256 |
//! | connections | 100 | 1,000 |
//! | connections on which nobody said yet who they are; the oldest gives way | | 256 |
//!
//! A client that does not take what it asked for is cut off: see `answer`. The threads that serve users give way to those of
//! the system, which has a listener of its own ([`crate::server::Listeners`]).

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod connections;
mod share;
pub(crate) mod workers;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub use share::{Place, Share};
use workers::Workers;

use crate::quota;
use crate::request::{Attributes, Requester};
use crate::status::ApiError;

/// How many objects in a list make it take one seat more.
const OBJECTS_PER_SEAT: usize = 500;
/// Pause before something that has to be done is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// Most seats of one request.
const MAX_SEATS: usize = 4;
/// What is larger than this many bytes is worked on apart.
pub(crate) const LARGE: usize = 32 << 10;

tokio::task_local! {
    /// Set where something is worked on apart.
    static APART: ();
}

/// The limits of the running server.
pub struct Flow {
    /// Requests.
    pub(crate) seats: Arc<Share>,
    /// KiB of bodies.
    pub(crate) bodies: Arc<Share>,
    /// Large requests.
    pub(crate) large: Arc<Share>,
    /// KiB of objects, as they weigh in memory, that are kept for answers on their way: stored ones may be others by then.
    pub(crate) snapshots: Arc<Share>,
    /// Large pieces of watches that their clients have not taken.
    pieces: Arc<Share>,
    /// Watches.
    pub(crate) watches: Arc<Share>,
    /// Logs that are followed, consoles and screens.
    pub(crate) streams: Arc<Share>,
    /// Connections.
    pub(crate) connections: Arc<Share>,
    /// Where large requests of users are worked on.
    workers: Workers,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            seats: Share::queued(12, 48),
            bodies: Share::queued(6 << 10, 24 << 10),
            large: Share::queued(1, 3),
            snapshots: Share::queued(64 << 10, 384 << 10),
            pieces: Share::queued(4, 64),
            watches: Share::strict(64, 1024),
            streams: Share::strict(32, 256),
            connections: Share::strict(100, 1000),
            workers: Workers::default(),
        }
    }
}

impl Flow {
    /// The place of a request that is authorized: a seat, or the place of a stream.
    ///
    /// # Errors
    /// 429.
    pub(crate) async fn place(
        &self,
        user: &Requester,
        asked: &Attributes,
        objects: impl FnOnce() -> usize,
    ) -> Result<Place, ApiError> {
        let share = match asked.verb.as_str() {
            "watch" => &self.watches,
            _ if is_stream(asked) => &self.streams,
            _ => &self.seats,
        };
        let seats = match asked.verb.as_str() {
            "list" | "deletecollection" if asked.name.is_empty() => {
                (1 + objects() / OBJECTS_PER_SEAT).min(MAX_SEATS)
            }
            _ => 1,
        };
        share.take(user, seats).await
    }

    /// Does what can take long, apart from the workers that answer everybody; each user in turn.
    ///
    /// # Errors
    /// 429, and 500 when `work` panics.
    pub(crate) async fn apart<T: Send + 'static>(
        &self,
        user: &Requester,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        // What is worked on apart has the user's place already, and would wait for it without end.
        if APART.try_with(|()| ()).is_ok() {
            return Ok(work());
        }
        let place = self.large.take(user, 1).await?;
        let work = move || {
            let _place = place;
            APART.sync_scope((), work)
        };
        let work = match user.key() {
            Some(_) => self.workers.spawn(work),
            None => tokio::task::spawn_blocking(work),
        };
        work.await.map_err(|_| ApiError::internal("the request could not be worked on"))
    }
}

impl Flow {
    /// Waits until one more large piece of a watch may be on its way to a client, until the place is dropped.
    pub(crate) async fn room(&self, user: &Requester) -> Place {
        loop {
            match self.pieces.take(user, 1).await {
                Ok(place) => return place,
                // The user's queue is full.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// An object as a client sees it. A large one is written where that holds up nobody else: the answer that it is a part of
    /// has begun and is not refused any more, so it waits.
    pub(crate) async fn written(
        &self,
        user: &Requester,
        object: Arc<Value>,
        write: impl Fn(&Value) -> Vec<u8> + Clone + Send + 'static,
    ) -> Vec<u8> {
        while quota::exceeds(&object, LARGE) {
            let (write, shared) = (write.clone(), Arc::clone(&object));
            match self.apart(user, move || write(&shared)).await {
                Ok(bytes) => return bytes,
                // The user's queue is full.
                Err(error) if error.code == 429 => tokio::time::sleep(AGAIN).await,
                Err(_) => break,
            }
        }
        write(&object)
    }
}

impl Flow {
    /// Does apart what also waits for others. It ends, and gives the place back, when nobody waits for it any more.
    ///
    /// # Errors
    /// As [`Self::apart`].
    pub(crate) async fn apart_until_left<T: Send + 'static>(
        &self,
        user: &Requester,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let runtime = tokio::runtime::Handle::current();
        // Dropped with this future, when the client leaves.
        let (mut left, _waiting) = tokio::sync::oneshot::channel::<()>();
        let work = move || {
            runtime.block_on(async move {
                tokio::select! {
                    done = work => Some(done),
                    () = left.closed() => None,
                }
            })
        };
        self.apart(user, work).await?.ok_or_else(|| ApiError::internal("the client left"))
    }
}

/// Whether the answer goes on for as long as its client wants.
pub(crate) fn is_stream(asked: &Attributes) -> bool {
    asked.verb == "watch" || matches!(asked.subresource.as_str(), "log" | "console" | "vnc")
}

/// Upstream's answer to who comes too often.
pub(crate) fn too_many(what: &str) -> ApiError {
    let mut error =
        ApiError::new(429, "TooManyRequests", format!("Too many requests, please try again later: {what}"));
    error.details = serde_json::json!({"retryAfterSeconds": 1});
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::request::UserInfo;

    fn user() -> Requester {
        Requester::of(&UserInfo::authenticated("u", []))
    }

    #[tokio::test]
    async fn what_is_worked_on_apart_does_not_wait_for_its_own_place() {
        let flow = Arc::new(Flow::default());
        let inner = Arc::clone(&flow);
        let large = Arc::new(Value::String("x".repeat(2 * LARGE)));
        let work =
            async move { inner.written(&user(), large, |object| object.to_string().into_bytes()).await };
        let requester = user();
        let work = flow.apart_until_left(&requester, work);
        // Only ends a test that has failed.
        let written = tokio::time::timeout(Duration::from_secs(60), work).await.unwrap().unwrap();
        assert_eq!(written.len(), 2 * LARGE + 2);
    }

    #[tokio::test]
    async fn many_who_take_all_that_they_may_leave_room_for_others() {
        let flow = Flow::default();
        let somebody = |number: usize| Requester::of(&UserInfo::authenticated(format!("u{number}"), []));
        let mut held = Vec::new();
        for number in 0..12 {
            for _ in 0..4 {
                held.push(flow.room(&somebody(number)).await);
            }
        }
        let room = |number| futures::FutureExt::now_or_never(flow.room(&somebody(number)));
        assert!(room(0).is_none(), "that is all for one");
        assert!(room(12).is_some());
    }

    #[tokio::test]
    async fn a_client_that_leaves_gives_back_its_place() {
        let flow = Arc::new(Flow::default());
        let (started, start) = tokio::sync::oneshot::channel();
        let work = async move {
            let _ = started.send(());
            std::future::pending::<()>().await;
        };
        let request = tokio::spawn({
            let flow = Arc::clone(&flow);
            async move { flow.apart_until_left(&user(), work).await }
        });
        start.await.unwrap();
        request.abort();
        assert!(request.await.is_err());
        flow.apart(&user(), || ()).await.unwrap();
    }
}
