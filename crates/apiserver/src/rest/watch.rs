//! Watch: a stream of events, pushed as they are committed.

use std::convert::Infallible;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, stream};
use http::{Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::Call;
use super::negotiate::Form;
use crate::answer::{self, Answer};
use crate::flow::{LARGE, Place};
use crate::quota;
use crate::status::ApiError;
use crate::store::{Event, EventKind, StoreError, Watcher};

/// How long a watch lasts when neither the client nor the server's configuration says; clients then watch again from
/// where they are. Upstream: 30 to 60 minutes.
const DEFAULT_LIFE: Duration = Duration::from_secs(45 * 60);
/// Upstream's interval of bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Frames larger than this are split, so that a list of many objects does not become one piece of memory.
const FRAME: usize = 256 * 1024;

struct Stream {
    call: Call,
    watcher: Watcher,
    shutdown: tokio::sync::watch::Receiver<bool>,
    end: Instant,
    next_bookmark: Instant,
    /// Initial state that is still to be sent, as lines.
    initial: Peekable<std::vec::IntoIter<Arc<Value>>>,
    /// What the initial state counts as, until it is sent.
    kept: Place,
    /// Where the last or the next piece is large: until the client has taken it.
    room: Option<Place>,
    initial_bookmark: Option<u64>,
    /// No event was sent yet: tables name their columns in the first.
    first: bool,
    ended: bool,
}

/// What a change is to a client.
struct Line {
    kind: &'static str,
    object: Arc<Value>,
    /// The revision to write instead of the object's own.
    revision: Option<u64>,
}

/// Why a waiting stream goes on.
enum Woken {
    Events(Result<Vec<Arc<Event>>, StoreError>),
    Bookmark,
    End,
}

impl Call {
    /// Starts a watch.
    pub(super) async fn watch(self) -> Result<Answer, ApiError> {
        self.query.fields.check(self.kind.group, self.kind.plural)?;
        let store = &self.app.store;
        let version = self.query.resource_version.unwrap_or(0);
        if self.query.send_initial_events && version > store.revision() {
            // Asked for: a state that is at least so new. Clients list on this cause, as on upstream's.
            let error = StoreError::FromTheFuture { asked: version, current: store.revision() };
            let status = ApiError::from_store(error, self.kind.group, self.kind.plural, "");
            return Ok(self.only_error(&status));
        }
        // Without a revision the stream starts with the state as it is.
        let (kept, initial, from) = if version == 0 || self.query.send_initial_events {
            let kept = self.keep().await?;
            let snapshot = store.list(&self.prefix());
            let wanted = snapshot.entries.into_iter().filter(|(_, entry)| self.selects(&entry.object));
            let entries: Vec<_> = wanted.map(|(_, entry)| entry.object).collect();
            (kept, entries, snapshot.revision)
        } else {
            (Place::default(), Vec::new(), version)
        };
        let watcher = match store.watch(self.prefix(), from) {
            Ok(watcher) => watcher,
            // As upstream, within the stream: many clients list again on such an event, but try the same revision for
            // ever after an HTTP error. A store that was restored has not reached revisions that clients know: those
            // must list, too.
            Err(error @ (StoreError::Expired { .. } | StoreError::FromTheFuture { .. })) => {
                self.app.metrics.expired();
                return Ok(self.only_error(&ApiError::expired(error.to_string())));
            }
            Err(error) => return Err(self.store_error(error, "")),
        };
        let initial_bookmark = (self.query.send_initial_events && self.query.bookmarks).then_some(from);
        let now = Instant::now();
        let longest = self.app.longest_watch.unwrap_or(DEFAULT_LIFE);
        let life = match self.query.timeout_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs) {
            Some(asked) if self.app.longest_watch.is_some() => asked.min(longest),
            Some(asked) => asked,
            None => longest,
        };
        let content_type = self.output.form.content_type();
        let state = Stream {
            watcher,
            shutdown: self.app.shutdown.clone(),
            end: now.checked_add(life).unwrap_or(now + DEFAULT_LIFE),
            next_bookmark: now + BOOKMARKS,
            initial: initial.into_iter().peekable(),
            kept,
            room: None,
            initial_bookmark,
            first: true,
            ended: false,
            call: self,
        };
        let frames = stream::unfold(state, |mut state| async move {
            let bytes = state.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), state))
        });
        let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        answer
            .headers_mut()
            .insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, private"));
        Ok(answer)
    }

    /// A stream that says what is wrong and ends.
    fn only_error(&self, status: &ApiError) -> Answer {
        let mut out = Vec::new();
        put(&mut out, "ERROR", status.to_json().to_string().as_bytes());
        answer::bytes(200, self.output.form.content_type(), out)
    }
}

impl Stream {
    /// The next piece of the stream; nothing at its end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        // Asked for more, the client has taken the last one.
        self.room = None;
        let mut lines = Vec::new();
        let mut size = 0;
        while size <= FRAME
            && let Some(object) = self.initial.next()
        {
            size += quota::serialized(&object);
            lines.push(Line { kind: "ADDED", object, revision: None });
        }
        // These are counted as what the stream keeps, so they may wait.
        if self.is_large(&lines) && !self.wait_for_room().await {
            return None;
        }
        self.lines(&mut out, lines).await;
        if self.initial.peek().is_some() {
            return Some(out.into());
        }
        self.kept = Place::default();
        if let Some(revision) = self.initial_bookmark.take() {
            put(&mut out, "BOOKMARK", &self.call.output.bookmark(revision, true));
        }
        if !out.is_empty() {
            return Some(out.into());
        }
        if self.ended {
            return None;
        }
        loop {
            let read = self.watcher.revision();
            let woken = tokio::select! {
                events = self.watcher.next() => Woken::Events(events),
                () = sleep_until(self.next_bookmark), if self.call.query.bookmarks => Woken::Bookmark,
                () = sleep_until(self.end) => Woken::End,
                _ = self.shutdown.wait_for(|stop| *stop) => Woken::End,
            };
            match woken {
                Woken::Events(Ok(events)) => {
                    let Some(lines) = self.fitting(events, read) else {
                        self.wait_for_room().await;
                        continue;
                    };
                    self.lines(&mut out, lines).await;
                }
                Woken::Events(Err(StoreError::Closed)) => return None,
                Woken::End => {
                    // The last word says from where to go on: of a quiet kind the client's own revision is old by now,
                    // and the history may not reach back to it. What happened until now comes first.
                    if self.call.query.bookmarks {
                        if let Some(Ok(events)) = self.watcher.next().now_or_never()
                            && let Some(lines) = self.fitting(events, read)
                        {
                            self.lines(&mut out, lines).await;
                        }
                        put(&mut out, "BOOKMARK", &self.call.output.bookmark(self.watcher.revision(), false));
                    }
                    self.ended = true;
                    if out.is_empty() {
                        return None;
                    }
                }
                Woken::Events(Err(error)) => {
                    if matches!(error, StoreError::Expired { .. }) {
                        self.call.app.metrics.expired();
                    }
                    let status = ApiError::from_store(error, self.call.kind.group, self.call.kind.plural, "");
                    put(&mut out, "ERROR", status.to_json().to_string().as_bytes());
                    self.ended = true;
                }
                Woken::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARKS;
                    put(&mut out, "BOOKMARK", &self.call.output.bookmark(self.watcher.revision(), false));
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    /// What an event means to a client that sees only what its selectors want: an object that no longer fits is
    /// deleted for it.
    fn seen(&self, event: &Event) -> Option<Line> {
        let fits_now = event.kind != EventKind::Deleted && self.call.selects(&event.object);
        let fitted = event.old.as_ref().is_some_and(|old| self.call.selects(old));
        let line = |kind, object, revision| Some(Line { kind, object: Arc::clone(object), revision });
        match (fitted, fits_now) {
            (false, true) => line("ADDED", &event.object, None),
            (true, true) => line("MODIFIED", &event.object, None),
            // Upstream sends the last state that the client knew, with the revision of the change.
            (true, false) => {
                line("DELETED", event.old.as_ref().unwrap_or(&event.object), Some(event.revision))
            }
            (false, false) => None,
        }
    }

    /// What these events, which came after the revision `read`, are to the client; nothing where there is no room for them.
    /// Then the watcher has gone back: old versions of objects count for nobody, so a stream that waits does not keep them
    /// in memory, and reads them again, or learns that it was too slow.
    fn fitting(&mut self, events: Vec<Arc<Event>>, read: u64) -> Option<Vec<Line>> {
        let lines: Vec<_> = events.iter().filter_map(|event| self.seen(event)).collect();
        if self.room.is_none() && self.is_large(&lines) {
            self.watcher.go_back(read);
            return None;
        }
        Some(lines)
    }

    /// Whether a piece with these lines needs a place. Of tables and metadata little of an object is written.
    fn is_large(&self, lines: &[Line]) -> bool {
        !self.call.requester.is_system()
            && self.call.output.form == Form::Whole
            && lines.iter().map(|line| quota::serialized(&line.object)).sum::<usize>() > LARGE
    }

    /// Waits for a place: there are many watches, and each may have a client that takes nothing. False when the stream is
    /// over before.
    async fn wait_for_room(&mut self) -> bool {
        tokio::select! {
            room = self.call.app.flow.room(&self.call.requester) => self.room = Some(room),
            () = sleep_until(self.end) => {}
            _ = self.shutdown.wait_for(|stop| *stop) => {}
        }
        self.room.is_some()
    }

    async fn lines(&mut self, out: &mut Vec<u8>, lines: Vec<Line>) {
        let (flow, user) = (&self.call.app.flow, &self.call.requester);
        for Line { kind, object, revision } in lines {
            let (output, first) = (self.call.output.clone(), std::mem::take(&mut self.first));
            // The object is shared by all watches: one that is written differently is copied here, one at a time.
            let write = move |object: &Value| match revision {
                Some(revision) => output.event_object(&with_revision(object, revision), first),
                None => output.event_object(object, first),
            };
            put(out, kind, &flow.written(user, object, write).await);
        }
    }
}

fn with_revision(object: &Value, revision: u64) -> Value {
    let mut object = object.clone();
    if let Some(known) = object.pointer_mut("/metadata/resourceVersion") {
        *known = Value::String(revision.to_string());
    }
    object
}

fn put(out: &mut Vec<u8>, kind: &str, object: &[u8]) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}
