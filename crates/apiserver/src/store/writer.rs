//! The thread that owns the database.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batch;
use super::disk::{Disk, Failure, Rows};
use super::growth::Growth;
use super::reserve::Reserve;
use super::{Entry, Event, EventKind, Health, Key, Request, Shared, StoreError};

/// How many writes share one commit at most: bounds the time that the first of them waits.
const MAX_BATCH: usize = 512;
/// Pause between two looks at a disk that is full or failed.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause between two tries to open a file that failed.
const MAX_BACK_OFF: Duration = Duration::from_secs(10);
/// How long nothing has to be written before a file is made smaller: writes wait for its end.
const IDLE: Duration = Duration::from_secs(5);

type Reply = oneshot::Sender<Result<Entry, StoreError>>;

/// What a batch has decided so far: the reply to send and the event to publish once the batch is on disk.
struct Pending {
    event: Event,
    bytes: usize,
    of_user: bool,
    record: Option<Vec<u8>>,
    reply: Reply,
}

/// A batch whose outcome is not known yet.
#[derive(Default)]
struct Batch {
    pending: Vec<Pending>,
    /// What is refused may be refused because of something that is not on disk yet, so this answer waits, too.
    refused: Vec<(Reply, StoreError)>,
}

/// The thread's own state.
pub(super) struct Writer {
    disk: Disk,
    reserve: Reserve,
    shared: Arc<Shared>,
    tick: tokio::sync::watch::Sender<u64>,
    health: Health,
    /// The last failure was that of a full disk.
    full: bool,
    growth: Growth,
    back_off: Duration,
    /// When to look at disk and file, if there is something to look for.
    look: Option<Instant>,
}

impl Writer {
    pub(super) fn new(disk: Disk, shared: Arc<Shared>, tick: tokio::sync::watch::Sender<u64>) -> Self {
        let reserve = Reserve::new(disk.path());
        let mut writer = Self {
            disk,
            reserve,
            shared,
            tick,
            health: Health::Good,
            full: false,
            growth: Growth::default(),
            back_off: LOOK,
            look: None,
        };
        writer.make_reserve();
        writer.plan();
        writer
    }

    /// Takes batches from the queue until all senders are gone.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Request>) {
        loop {
            let first = match self.look {
                None => queue.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(look) => queue.recv_timeout(look.saturating_duration_since(Instant::now())),
            };
            match first {
                Ok(first) => {
                    let mut requests = vec![first];
                    requests.extend(queue.try_iter().take(MAX_BATCH - 1));
                    self.commit(requests);
                    // Where the disk is in order, looking is for idle times.
                    if self.health == Health::Good {
                        self.plan();
                    } else if self.look.is_some_and(|look| look <= Instant::now()) {
                        self.look_after();
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => self.look_after(),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.disk.close();
    }

    /// Decides when to look again.
    fn plan(&mut self) {
        self.look = match self.health {
            Health::Good if self.disk.is_wasteful() => Some(Instant::now() + IDLE),
            Health::Good | Health::Closed => None,
            Health::Full => Some(Instant::now() + LOOK),
            Health::Failed(_) => Some(Instant::now() + self.back_off),
        };
    }

    fn set(&mut self, health: Health) {
        if self.health != health {
            match &health {
                Health::Good => tracing::info!("the store takes all writes again"),
                Health::Full => tracing::error!(
                    "the disk of the store is full: only deletions and changes that need no space are stored; free \
                     space on it"
                ),
                Health::Failed(why) => tracing::error!("the store cannot be written; trying again: {why}"),
                Health::Closed => {}
            }
            *self.shared.health.write().unwrap_or_else(PoisonError::into_inner) = health.clone();
            self.health = health;
        }
    }

    /// What is done besides writing: opening again, the reserve, the size of the file.
    fn look_after(&mut self) {
        if matches!(self.health, Health::Failed(_)) {
            self.reopen();
        }
        // On a full disk, what deletions freed inside the file helps nobody until the file is smaller.
        if !matches!(self.health, Health::Failed(_))
            && self.disk.is_wasteful()
            && let Err(error) = self.disk.compact()
        {
            tracing::warn!("making the store's file smaller: {error}");
            self.fail(&error);
        }
        if self.health == Health::Full {
            self.make_reserve();
        }
        self.plan();
    }

    fn make_reserve(&mut self) {
        match self.reserve.make() {
            Ok(true) => {
                self.full = false;
                self.set(Health::Good);
            }
            Ok(false) => {
                if self.health != Health::Full {
                    self.growth = Growth::default();
                }
                self.set(Health::Full);
            }
            Err(error) => {
                tracing::warn!("space for deletions on a full disk cannot be kept: {error}");
                self.set(Health::Good);
            }
        }
    }

    /// After an error the database answers nothing more: it is opened again, and what it holds is made equal to what
    /// was answered.
    fn fail(&mut self, error: &Failure) {
        tracing::error!("writing the store: {error}");
        self.full = error.is_full();
        self.back_off = LOOK;
        self.disk.close();
        self.reopen();
    }

    fn reopen(&mut self) {
        if self.full {
            self.reserve.release();
        }
        let opened = {
            let state = self.shared.read();
            self.disk.reopen(&state.objects, state.revision)
        };
        match opened {
            Ok(()) if self.full => {
                if self.health != Health::Full {
                    self.growth = Growth::default();
                }
                self.set(Health::Full);
            }
            Ok(()) => self.set(Health::Good),
            Err(error) => {
                self.full |= error.is_full();
                self.back_off = (self.back_off * 2).min(MAX_BACK_OFF);
                self.set(Health::Failed(error.to_string()));
            }
        }
        self.plan();
    }

    fn why_not(&self) -> StoreError {
        if self.full || self.health == Health::Full { StoreError::Full } else { StoreError::Unavailable }
    }

    fn commit(&mut self, requests: Vec<Request>) {
        let mut batch = self.decide(requests);
        if let Err(error) = self.write(&batch) {
            self.fail(&error);
            // What needs no space is tried once more, with the reserve.
            let again =
                if self.health == Health::Full { self.keep_what_needs_no_space(&mut batch) } else { false };
            if !again || self.write(&batch).inspect_err(|error| self.fail(error)).is_err() {
                let replies = batch.pending.into_iter().map(|pending| pending.reply);
                for reply in replies.chain(batch.refused.into_iter().map(|(reply, _)| reply)) {
                    // The caller may have gone away; then nobody wants to know.
                    let _ = reply.send(Err(self.why_not()));
                }
                return;
            }
        }
        self.publish(batch);
    }

    /// Checks each request against what is there and against those before it.
    fn decide(&mut self, requests: Vec<Request>) -> Batch {
        // Only this thread changes the state, so it cannot move between here and the publication.
        let mut revision = self.shared.read().revision;
        let mut overlay: HashMap<Key, Option<Entry>> = HashMap::new();
        let mut batch = Batch::default();
        for Request { operation, reply, of_user } in requests {
            let current = |key: &Key| match overlay.get(key) {
                Some(entry) => entry.clone(),
                None => self.shared.read().objects.get(key).cloned(),
            };
            let decided = batch::apply(operation, revision + 1, current).and_then(|(event, json)| {
                let may = match self.health {
                    Health::Good => true,
                    Health::Full => self.growth.take(&event, json.len(), of_user),
                    Health::Failed(_) | Health::Closed => false,
                };
                if !may {
                    return Err(self.why_not());
                }
                let bytes = json.len();
                let kept = event.kind != EventKind::Deleted;
                let record = kept.then(|| self.disk.record(&event.key, event.revision, json)).transpose();
                record.map(|record| (event, bytes, record)).map_err(|error| {
                    tracing::error!("{error}");
                    StoreError::Unavailable
                })
            });
            match decided {
                Err(error) => batch.refused.push((reply, error)),
                Ok((event, bytes, record)) => {
                    revision += 1;
                    let entry =
                        record.is_some().then(|| Entry { revision, object: Arc::clone(&event.object) });
                    overlay.insert(event.key.clone(), entry);
                    batch.pending.push(Pending { event, bytes, of_user, record, reply });
                }
            }
        }
        batch
    }

    /// Refuses what needs space, and what came after that of the same object. False when nothing is left.
    fn keep_what_needs_no_space(&mut self, batch: &mut Batch) -> bool {
        let mut gone: HashSet<Key> = HashSet::new();
        for pending in std::mem::take(&mut batch.pending) {
            let Pending { event, bytes, of_user, .. } = &pending;
            if !gone.contains(&event.key) && self.growth.take(event, *bytes, *of_user) {
                batch.pending.push(pending);
            } else {
                gone.insert(pending.event.key.clone());
                batch.refused.push((pending.reply, StoreError::Full));
            }
        }
        // Some were refused because of an object that is not there now.
        for (_, error) in &mut batch.refused {
            *error = StoreError::Full;
        }
        !batch.pending.is_empty()
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Failure> {
        let Some(last) = batch.pending.last() else { return Ok(()) };
        let row = |pending: &Pending| (pending.event.key.clone(), pending.record.clone());
        let rows: Rows = batch.pending.iter().map(row).collect();
        self.disk.write(last.event.revision, &rows)
    }

    /// Shows what is on disk now: to readers, watchers and callers, in this order.
    fn publish(&mut self, batch: Batch) {
        let mut replies = Vec::with_capacity(batch.pending.len());
        if !batch.pending.is_empty() {
            let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
            for Pending { event, bytes, reply, .. } in batch.pending {
                if self.health == Health::Full {
                    self.growth.give_back(&event, bytes);
                }
                let entry = Entry { revision: event.revision, object: Arc::clone(&event.object) };
                if event.kind == EventKind::Deleted {
                    state.objects.remove(&event.key);
                } else {
                    state.objects.insert(event.key.clone(), entry.clone());
                }
                state.revision = event.revision;
                state.history.push(event, bytes);
                replies.push((reply, entry));
            }
            let revision = state.revision;
            drop(state);
            self.tick.send_replace(revision);
        }
        for (reply, entry) in replies {
            let _ = reply.send(Ok(entry));
        }
        for (reply, error) in batch.refused {
            let _ = reply.send(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::disk::Damage;
    use crate::store::watch::History;
    use crate::store::{Keys, Operation, RwLock, State};

    #[test]
    fn a_refusal_comes_after_what_it_is_because_of() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::open(&directory.path().join("keys")).unwrap();
        let (disk, objects, revision, _) =
            Disk::load(&directory.path().join("s"), keys, Damage::Refuse).unwrap();
        let (ticker, tick) = tokio::sync::watch::channel(revision);
        let state = State { objects, revision, history: History::new(revision) };
        let shared = Arc::new(Shared { state: RwLock::new(state), health: RwLock::new(Health::Good), tick });
        let key = Key::new("", "configmaps", "n", "a");
        let create = || {
            let (reply, answer) = oneshot::channel();
            let operation = Operation::Create { key: key.clone(), object: json!({"metadata": {}}) };
            (Request { operation, reply, of_user: false }, answer)
        };
        let ((first, _made), (second, refused)) = (create(), create());
        let asker = std::thread::spawn({
            let (shared, key) = (Arc::clone(&shared), key.clone());
            move || (refused.blocking_recv().unwrap(), shared.read().objects.contains_key(&key))
        });
        Writer::new(disk, shared, ticker).commit(vec![first, second]);
        let (refused, visible) = asker.join().unwrap();
        assert!(matches!(refused, Err(StoreError::AlreadyExists)) && visible);
    }
}
