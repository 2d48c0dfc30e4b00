//! Which pod holds which slot, and how long a slot's directory lives.
//!
//! Each `Allocate` makes an entry with a directory of its own. Which pod it was for, the kubelet does not say then; it
//! says afterwards which pod holds the slot, by name alone, and slots are used again. So:
//!
//! ```text
//!   allocate ──► Waiting ──one holder──► Held ──────────────┐ not shown for longer than a container's restart takes
//!                   │                     │  ▲              ▼
//!                   └─two holders, twins──┴► Refused ──►  removed
//! ```
//!
//! * Only what was looked up after the call counts, and only for the latest entry of a slot: the kubelet gives a slot
//!   away again when the containers of its last pod have ended.
//! * A slot is refused while two containers are shown with it, while its pod's name is that of two pods, and when it is
//!   another holder's than before without another `Allocate`.
//! * A directory that was deleted and made again is never seen by a running container. So nothing is concluded from one
//!   look in which a pod is missing, nor from the time in which the kubelet was away.
//!
//! The time is an argument; what is to be done on the disk comes back as [`Action`]s.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

/// Between the beginnings of two look-ups: at most 100 in a second.
const GAP: Duration = Duration::from_millis(10);
/// From an `Allocate` to the first look-up for it; then it doubles.
const FIRST: Duration = Duration::from_millis(20);
/// Between two look-ups while there are slots in use, whatever happens.
const PERIOD: Duration = Duration::from_secs(10);

/// A container that holds a slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Of the pod.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

/// Why nobody is served in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// More than one container is shown with it.
    Shared,
    /// Two pods of its pod's namespace and name are shown.
    Twins,
    /// Another holder than before.
    Changed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "more than one container holds it",
            Self::Twins => "two pods have its pod's namespace and name",
            Self::Changed => "another container holds it than the one that it was given to",
        })
    }
}

/// What is known of the container for which a directory was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum State {
    /// Nothing yet.
    Waiting,
    /// This container has it.
    Held(Holder),
    /// Nobody is served.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// Why.
        why: Refusal,
        /// Who had it before.
        before: Option<Holder>,
    },
}

/// What is kept of one `Allocate`, beside the name of its directory.
///
/// On the disk a version is beside these fields, which says that there are no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The name of the slot, which other records may have, too; the one with the highest number counts.
    pub slot: String,
    /// Grows with each `Allocate` on the node.
    pub number: u64,
    /// See [`State`].
    pub state: State,
}

/// What the kubelet shows: who holds which slot, and names that two pods have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// By slot.
    pub holders: BTreeMap<String, BTreeSet<Holder>>,
    /// Namespaces and names.
    pub twins: BTreeSet<(String, String)>,
}

/// What is to be done on the disk: given again with each look until it was [done](Table::done).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep this of a directory.
    Write(String, Record),
    /// Remove a directory and what is kept of it.
    Remove(String),
}

#[derive(Clone, Debug)]
struct Entry {
    record: Record,
    /// Looks that began before this say nothing.
    made: Instant,
    /// The next look for it, and how many there were.
    look: Option<(Instant, u32)>,
    /// Since when it has not been shown.
    absent: Option<Instant>,
    /// Whether the slot was given away again.
    replaced: bool,
    /// Whether the disk has something older than the record.
    dirty: bool,
    /// Whether the directory is to be removed. Nothing brings it back, and it counts until it is gone.
    leaving: bool,
}

impl Entry {
    fn new(record: Record, made: Instant) -> Self {
        Self { record, made, look: None, absent: None, replaced: false, dirty: false, leaving: false }
    }

    fn leave(&mut self) {
        (self.leaving, self.look) = (true, None);
    }
}

/// There are more directories than a node can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are too many directories of machines that have ended: try again in some minutes")]
pub struct Full;

/// All directories, by name.
#[derive(Clone, Debug)]
pub struct Table {
    entries: BTreeMap<String, Entry>,
    number: u64,
    keep: Duration,
    limit: usize,
    /// When the last look began, and the earliest next one after failures.
    last: Option<Instant>,
    earliest: Option<Instant>,
    failures: u32,
}

impl Table {
    /// An empty one. A directory is kept for `keep` after its pod was last shown; there are never more than `limit`.
    pub fn new(keep: Duration, limit: usize) -> Self {
        let entries = BTreeMap::new();
        Self { entries, number: 0, keep, limit, last: None, earliest: None, failures: 0 }
    }

    /// Takes what was kept when this program ran before.
    pub fn restore(&mut self, kept: impl IntoIterator<Item = (String, Record)>, now: Instant) {
        for (name, record) in kept {
            self.number = self.number.max(record.number);
            let later =
                self.entries.values_mut().find(|entry| !entry.replaced && entry.record.slot == record.slot);
            let replaced = match later {
                Some(other) if other.record.number > record.number => true,
                Some(other) => {
                    other.replaced = true;
                    other.absent = Some(now);
                    false
                }
                None => false,
            };
            let (absent, look) = (replaced.then_some(now), (!replaced).then_some((now, 0)));
            self.entries.insert(name, Entry { look, absent, replaced, ..Entry::new(record, now) });
        }
    }

    /// At the limit: the oldest directory whose slot was given away again before its pod was ever shown. A pod that is
    /// refused for another of its containers leaves one each time, and they must not take the places of those that run.
    pub fn spare(&mut self) -> Option<Action> {
        if self.entries.len() < self.limit {
            return None;
        }
        let unused = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.replaced && !entry.leaving && entry.record.state == State::Waiting);
        let (name, entry) = unused.min_by_key(|(_, entry)| entry.record.number)?;
        entry.leave();
        Some(Action::Remove(name.clone()))
    }

    /// A slot is given to a container, with a directory of this name.
    ///
    /// # Errors
    /// [`Full`].
    pub fn allocate(&mut self, slot: &str, name: &str, now: Instant) -> Result<Record, Full> {
        if self.entries.len() >= self.limit {
            return Err(Full);
        }
        for entry in self.entries.values_mut().filter(|entry| entry.record.slot == slot && !entry.replaced) {
            entry.replaced = true;
            entry.absent = Some(now);
            entry.look = None;
        }
        self.number += 1;
        let record = Record { slot: slot.to_owned(), number: self.number, state: State::Waiting };
        let look = Some((now + FIRST, 0));
        self.entries.insert(name.to_owned(), Entry { look, ..Entry::new(record.clone(), now) });
        Ok(record)
    }

    /// The directory could not be made. What there is of it is removed with the next look.
    pub fn cancel(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.leave();
        }
    }

    /// It is on the disk.
    pub fn done(&mut self, action: &Action) {
        match action {
            Action::Write(name, record) => {
                if let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.record == *record) {
                    entry.dirty = false;
                }
            }
            Action::Remove(name) => drop(self.entries.remove(name)),
        }
    }

    /// When to look up next; never where nothing is in use.
    pub fn next(&self) -> Option<Instant> {
        if self.entries.is_empty() {
            return None;
        }
        let wanted = self.entries.values().filter_map(|entry| entry.look.map(|(at, _)| at)).min();
        let period = self.last.map(|last| last + PERIOD);
        let soonest = match (wanted, period) {
            (Some(wanted), Some(period)) => wanted.min(period),
            (Some(at), None) | (None, Some(at)) => at,
            // There was no look at all yet.
            (None, None) => self.entries.values().map(|entry| entry.made).min()?,
        };
        let gap = self.last.map(|last| last + GAP);
        Some([gap, self.earliest].into_iter().flatten().fold(soonest, Instant::max))
    }

    /// Whether to begin a look-up now.
    pub fn begin(&mut self, now: Instant) -> bool {
        let due = self.next().is_some_and(|at| at <= now);
        if due {
            self.last = Some(now);
        }
        due
    }

    /// A look-up failed.
    pub fn failed(&mut self, now: Instant) {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(PERIOD);
        self.failures = self.failures.saturating_add(1);
        self.earliest = Some(now + pause);
        self.away();
    }

    /// The kubelet is away, or was started again: until it has shown its pods once more, none is known to be missing.
    pub fn away(&mut self) {
        for entry in self.entries.values_mut().filter(|entry| !entry.replaced) {
            entry.absent = None;
        }
    }

    /// What a look-up that began at `began` has shown.
    pub fn seen(&mut self, shown: &Shown, began: Instant, now: Instant) -> Vec<Action> {
        (self.failures, self.earliest) = (0, None);
        let mut actions = Vec::new();
        for (name, entry) in &mut self.entries {
            if !entry.replaced && !entry.leaving && entry.made <= began {
                let before = entry.record.state.clone();
                entry.see(shown, now);
                entry.dirty |= entry.record.state != before;
            }
            if entry.absent.is_some_and(|since| now.saturating_duration_since(since) > self.keep) {
                entry.leave();
            }
            if entry.leaving {
                actions.push(Action::Remove(name.clone()));
            } else if entry.dirty {
                actions.push(Action::Write(name.clone(), entry.record.clone()));
            }
        }
        actions
    }

    /// What is known of each directory, by its name.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), &entry.record))
    }
}

impl Entry {
    fn see(&mut self, shown: &Shown, now: Instant) {
        let mut holders = shown.holders.get(&self.record.slot).into_iter().flatten();
        let before = match &self.record.state {
            State::Waiting => None,
            State::Held(holder) => Some(holder.clone()),
            State::Refused { before, .. } => before.clone(),
        };
        let state = match (holders.next(), holders.next()) {
            (None, _) => {
                self.absent.get_or_insert(now);
                self.look_again(now);
                return;
            }
            (Some(_), Some(_)) => State::Refused { why: Refusal::Shared, before },
            (Some(one), None) if before.as_ref().is_some_and(|before| before != one) => {
                State::Refused { why: Refusal::Changed, before }
            }
            (Some(one), None) if shown.twins.contains(&(one.namespace.clone(), one.pod.clone())) => {
                State::Refused { why: Refusal::Twins, before }
            }
            (Some(one), None) => State::Held(one.clone()),
        };
        self.absent = None;
        match state {
            State::Held(_) => self.look = None,
            _ => self.look_again(now),
        }
        self.record.state = state;
    }

    /// Later each time; in the end with the look-ups that there are anyway.
    fn look_again(&mut self, now: Instant) {
        let Some((at, count)) = self.look else { return };
        if at <= now {
            let pause = FIRST.saturating_mul(1 << count.min(16));
            self.look = (pause < PERIOD).then_some((now + pause, count + 1));
        }
    }
}

#[cfg(test)]
mod tests;
