//! The recent history, and those who follow it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::forgotten::Forgotten;
use super::{Key, Prefix, Shared, StoreError};

/// How many events the history keeps. A client that is slower than this lists again.
const MAX_EVENTS: usize = 4096;
/// How many bytes of JSON the history keeps alive, at most (counted as serialized).
const MAX_BYTES: usize = 4 << 20;
/// How many bytes its objects may take in memory; with the objects before the changes it is up to twice that.
const MAX_WEIGHT: usize = 16 << 20;
/// How many bytes of events a watcher is given at once, and one event more: a slow one holds no more than that.
const AT_ONCE: usize = 256 << 10;

/// Of how many resources in namespaces the history knows what it has forgotten. Their names are short: it is some MiB at
/// the very most.
const MAX_PLACES: usize = 4096;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Revision of this change.
    pub revision: u64,
    /// Which object.
    pub key: Key,
    /// The object after the change; after a delete its last state, with the revision of the delete.
    pub object: Arc<Value>,
    /// The object before the change, if there was one.
    pub old: Option<Arc<Value>>,
}

/// Ring of recent events, in order of revision.
pub(crate) struct History {
    /// Events with their bytes as JSON and in memory.
    events: VecDeque<(Arc<Event>, usize, usize)>,
    bytes: usize,
    weight: usize,
    /// What is no longer among them.
    forgotten: Forgotten,
}

impl History {
    pub(crate) fn new(revision: u64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, weight: 0, forgotten: Forgotten::new(revision, MAX_PLACES) }
    }

    pub(crate) fn push(&mut self, event: Event, bytes: usize) {
        let weight = crate::quota::weight(&event.object);
        self.bytes = self.bytes.saturating_add(bytes);
        self.weight = self.weight.saturating_add(weight);
        self.events.push_back((Arc::new(event), bytes, weight));
        let full = |history: &Self| history.bytes > MAX_BYTES || history.weight > MAX_WEIGHT;
        while self.events.len() > MAX_EVENTS || (full(self) && self.events.len() > 1) {
            if let Some((event, bytes, weight)) = self.events.pop_front() {
                self.bytes = self.bytes.saturating_sub(bytes);
                self.weight = self.weight.saturating_sub(weight);
                self.forgotten.add(&event.key, event.revision);
            }
        }
    }

    /// Events after `revision` that lie below `prefix`, until there are [`AT_ONCE`] bytes of them; and the revision up to
    /// which these are all.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when one of them is forgotten. Other changes, however many, do not matter.
    fn since(&self, revision: u64, now: u64, prefix: &Prefix) -> Result<(Vec<Arc<Event>>, u64), StoreError> {
        self.forgotten.check(revision, prefix)?;
        let start = self.events.partition_point(|(event, ..)| event.revision <= revision);
        let (mut found, mut size) = (Vec::new(), 0usize);
        for (event, _, weight) in self.events.range(start..).filter(|(event, ..)| prefix.contains(&event.key))
        {
            found.push(Arc::clone(event));
            size = size.saturating_add(*weight);
            if size >= AT_ONCE {
                return Ok((found, event.revision));
            }
        }
        Ok((found, now))
    }
}

/// Follows the changes below one prefix. Holds no queue of its own: it remembers the revision up to which it has
/// read the shared history.
pub struct Watcher {
    shared: Arc<Shared>,
    tick: tokio::sync::watch::Receiver<u64>,
    prefix: Prefix,
    seen: u64,
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, prefix: Prefix, revision: u64) -> Result<Self, StoreError> {
        let tick = shared.tick.clone();
        {
            let state = shared.read();
            if revision > state.revision {
                return Err(StoreError::FromTheFuture { asked: revision, current: state.revision });
            }
            state.history.forgotten.check(revision, &prefix)?;
        }
        Ok(Self { shared, tick, prefix, seen: revision })
    }

    /// The revision up to which everything has been handed out: what a bookmark says.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.seen
    }

    /// Hands out again what came after `revision`, which was this watcher's own before: for a reader that cannot use it now
    /// and does not keep it.
    pub fn go_back(&mut self, revision: u64) {
        self.seen = self.seen.min(revision);
    }

    /// Waits for the next changes: at least one, in order. Cancel-safe: a future that is dropped loses nothing.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when this watcher was too slow: list again. [`StoreError::Closed`] at shutdown.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        loop {
            self.tick.borrow_and_update();
            let (events, revision) = {
                let state = self.shared.read();
                state.history.since(self.seen, state.revision, &self.prefix)?
            };
            self.seen = revision;
            if !events.is_empty() {
                return Ok(events);
            }
            self.tick.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }
}

#[cfg(test)]
mod tests;
