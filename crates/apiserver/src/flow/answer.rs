//! Answers on their way to clients: what they hold is given back at their end, and clients that take nothing are cut off.
//!
//! Nobody looks at an answer while its client takes nothing: the time is kept here and looked at by the connection.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use super::Place;
use crate::answer::{Answer, Body};

/// How long a client may take nothing of an answer that is there, before its connection is closed.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The same for streams: somebody reads a log page by page.
pub(crate) const STREAM_LIMIT: Duration = Duration::from_secs(600);

/// The answers of one connection that have something for the client, and until when it has to be taken.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    answers: Mutex<(u64, HashMap<u64, Instant>)>,
}

impl Pending {
    fn set(&self, id: u64, until: Option<Instant>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(until) => answers.1.insert(id, until),
            None => answers.1.remove(&id),
        };
    }

    /// True when the client took nothing of an answer for too long.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.1.values().any(|until| *until < now)
    }

    /// Holds `place` until the answer has been sent, and watches that it is taken.
    pub(crate) fn hold(self: &Arc<Self>, answer: Answer, place: Arc<Place>, limit: Duration) -> Answer {
        let id = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.0 += 1;
            answers.0
        };
        if !answer.body().is_end_stream() {
            self.set(id, Some(Instant::now() + limit));
        }
        answer.map(|body| Held { body, pending: Arc::clone(self), id, limit, _place: place }.boxed_unsync())
    }
}

struct Held {
    body: Body,
    pending: Arc<Pending>,
    id: u64,
    limit: Duration,
    _place: Arc<Place>,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // Asked for more, the client has room; with nothing for it, nothing is late.
        let until = frame.is_ready().then(|| Instant::now() + self.limit);
        self.pending.set(self.id, until);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pending.set(self.id, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;

    #[tokio::test]
    async fn an_answer_that_nobody_takes_is_late_and_one_that_waits_for_events_is_not() {
        let pending = Arc::new(Pending::default());
        let soon = Duration::from_secs(5);
        let later = || Instant::now() + 2 * soon;
        let answer = pending.hold(answer::json(200, &serde_json::json!({})), Arc::default(), soon);
        assert!(!pending.is_late(Instant::now()) && pending.is_late(later()));
        answer.into_body().collect().await.unwrap();
        assert!(!pending.is_late(later()), "it was taken");

        let quiet = http_body_util::StreamBody::new(futures::stream::pending()).boxed_unsync();
        let mut body = pending.hold(http::Response::new(quiet), Arc::default(), soon).into_body();
        assert!(futures::FutureExt::now_or_never(body.frame()).is_none());
        assert!(!pending.is_late(later()), "there is nothing to take");
        drop(body);
        assert!(pending.answers.lock().unwrap().1.is_empty());
    }
}
