//! The durable store: every object of the API, on disk and in memory.
//!
//! One thread owns the database. Writes queue up, are checked against the state and against what is pending before
//! them, get one increasing revision each, and are committed together in one transaction that is on disk before
//! anybody sees them: readers, watchers and the caller, in this order. Reads never touch the disk.
//!
//! Memory holds what was answered, and the disk is brought to it: after an error the file is opened again and whatever it
//! has more or less is put right. Every record has a check; Secrets are encrypted.
//!
//! Objects are plain JSON. The store itself sets `metadata.resourceVersion`, and looks at nothing else but
//! `metadata.uid` (for delete preconditions).

mod batch;
mod disk;
mod error;
mod forgotten;
mod growth;
mod key;
mod keys;
mod record;
mod reserve;
mod watch;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, mpsc};

use serde_json::Value;
use tokio::sync::oneshot;

use disk::{Damage, Disk};

pub use error::{Health, StoreError};
pub use key::{Key, Prefix};
pub use keys::Keys;
pub use watch::{Event, EventKind, Watcher};

/// One stored object and the revision of its last change.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Revision of the last change: the number in `metadata.resourceVersion`.
    pub revision: u64,
    /// The object. Shared, never changed in place.
    pub object: Arc<Value>,
}

/// A consistent list and the revision at which it was taken; a watch from this revision misses nothing.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Revision of the whole store at the time of the list.
    pub revision: u64,
    /// Objects in key order.
    pub entries: Vec<(Key, Entry)>,
}

/// What must hold for a delete to happen.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    /// `metadata.uid` must be this.
    pub uid: Option<String>,
    /// The revision must be this.
    pub revision: Option<u64>,
}

/// What a [`Store::guaranteed_update`] closure decided.
#[derive(Debug)]
pub enum Change {
    /// Store this object.
    Write(Value),
    /// Leave the object as it is.
    Keep,
    /// Remove the object.
    Delete,
}

pub(crate) enum Operation {
    Create { key: Key, object: Value },
    Update { key: Key, object: Value, expected: u64 },
    Delete { key: Key, preconditions: Preconditions },
}

pub(crate) struct Request {
    operation: Operation,
    reply: oneshot::Sender<Result<Entry, StoreError>>,
    /// By a user: see [`Store::of_users`].
    of_user: bool,
}

/// What readers see: the committed state and the recent history.
pub(crate) struct State {
    objects: BTreeMap<Key, Entry>,
    revision: u64,
    history: watch::History,
}

pub(crate) struct Shared {
    state: RwLock<State>,
    health: RwLock<Health>,
    /// Latest revision; watchers sleep on it. The writer thread holds the sender, so that its end wakes everybody.
    tick: tokio::sync::watch::Receiver<u64>,
}

impl Shared {
    /// A poisoned lock only says that a reader died; the state is replaced in whole steps and stays good.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle to the store. Cheap to clone; the last one that is dropped closes the database.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    of_users: bool,
}

struct Queue {
    sender: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread catches its own errors; a join error would be a bug that is logged by the panic itself.
            let _ = thread.join();
        }
    }
}

impl Store {
    /// Opens or creates the database file with its keys in a file beside it, and reads all objects into memory.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Keys::open(&path.with_extension("keys"))?)
    }

    /// Opens or creates the database file and reads all objects into memory.
    ///
    /// # Errors
    /// [`StoreError::Disk`] when the file cannot be opened or is in use by another process, [`StoreError::Damaged`] and
    /// [`StoreError::NoKey`] with each object that cannot be read.
    pub fn open_with(path: &Path, keys: Keys) -> Result<Self, StoreError> {
        let (disk, objects, revision, _) = Disk::load(path, keys, Damage::Refuse)?;
        Self::start(disk, objects, revision)
    }

    /// Removes from the file exactly the objects that are damaged, and with `lost_keys` also those whose key is not there;
    /// says which ones these were.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn drop_damaged(path: &Path, keys: Keys, lost_keys: bool) -> Result<Vec<String>, StoreError> {
        let (mut disk, _, _, dropped) = Disk::load(path, keys, Damage::Drop(lost_keys))?;
        disk.close();
        Ok(dropped)
    }

    fn start(disk: Disk, objects: BTreeMap<Key, Entry>, revision: u64) -> Result<Self, StoreError> {
        let (sender_of_ticks, tick) = tokio::sync::watch::channel(revision);
        let shared = Arc::new(Shared {
            state: RwLock::new(State { objects, revision, history: watch::History::new(revision) }),
            health: RwLock::new(Health::Good),
            tick,
        });
        let (sender, receiver) = mpsc::channel();
        let writer = writer::Writer::new(disk, Arc::clone(&shared), sender_of_ticks);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| StoreError::Disk(format!("cannot start the writer thread: {error}")))?;
        Ok(Self {
            shared,
            queue: Arc::new(Queue { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) }),
            of_users: false,
        })
    }

    /// The same store for what users write: on a full disk they have a part of their own, beside that of the system.
    #[must_use]
    pub fn of_users(&self) -> Self {
        Self { of_users: true, ..self.clone() }
    }

    /// Writes what is queued, closes the database, and refuses every later write. Blocks for one commit.
    pub fn close(&self) {
        self.queue.close();
    }

    /// False when no write can be stored any more: the store was closed, or its thread has died.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.tick.has_changed().is_ok()
    }

    /// Whether writes are taken.
    #[must_use]
    pub fn health(&self) -> Health {
        if !self.is_open() {
            return Health::Closed;
        }
        self.shared.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Revision of the latest committed write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.read().revision
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.shared.read().objects.get(key).cloned()
    }

    /// All objects below a prefix, at one revision.
    #[must_use]
    pub fn list(&self, prefix: &Prefix) -> Snapshot {
        let state = self.shared.read();
        let entries = state
            .objects
            .range(prefix.start()..)
            .take_while(|(key, _)| prefix.contains(key))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        Snapshot { revision: state.revision, entries }
    }

    /// Stores a new object; the answer carries its `metadata.resourceVersion`.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`], [`StoreError::Closed`], [`StoreError::Full`], [`StoreError::Unavailable`].
    pub async fn create(&self, key: Key, object: Value) -> Result<Entry, StoreError> {
        self.submit(Operation::Create { key, object }).await
    }

    /// Replaces an object, if it is still at the expected revision.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`], [`StoreError::Closed`], [`StoreError::Full`],
    /// [`StoreError::Unavailable`].
    pub async fn update(&self, key: Key, object: Value, expected: u64) -> Result<Entry, StoreError> {
        self.submit(Operation::Update { key, object, expected }).await
    }

    /// Removes an object; the answer is its last state.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`], [`StoreError::UidMismatch`], [`StoreError::Closed`],
    /// [`StoreError::Unavailable`], [`StoreError::Full`] when not even the reserve is there any more.
    pub async fn delete(&self, key: Key, preconditions: Preconditions) -> Result<Entry, StoreError> {
        self.submit(Operation::Delete { key, preconditions }).await
    }

    /// Reads, lets `change` decide, writes, and starts again when somebody else was faster.
    ///
    /// The closure may run several times. The answer is the object as it is stored afterwards (or, for a delete, as
    /// it was last).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such object, errors of the closure as they are, and the disk's.
    pub async fn guaranteed_update<E, F>(&self, key: &Key, mut change: F) -> Result<Entry, E>
    where
        E: From<StoreError>,
        F: FnMut(&Value) -> Result<Change, E>,
    {
        loop {
            let current = self.get(key).ok_or(StoreError::NotFound)?;
            let result = match change(&current.object)? {
                Change::Keep => return Ok(current),
                Change::Write(object) => {
                    if object == *current.object {
                        return Ok(current);
                    }
                    self.update(key.clone(), object, current.revision).await
                }
                Change::Delete => {
                    let preconditions = Preconditions { uid: None, revision: Some(current.revision) };
                    self.delete(key.clone(), preconditions).await
                }
            };
            match result {
                // Only lost races are tried again: each one means that somebody else got further.
                Err(StoreError::Conflict { .. }) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Follows all changes below a prefix that come after `revision` (normally that of a [`Snapshot`]).
    ///
    /// # Errors
    /// [`StoreError::Expired`] when the history has forgotten one of these changes: list again.
    /// [`StoreError::FromTheFuture`] when the revision was never given out.
    pub fn watch(&self, prefix: Prefix, revision: u64) -> Result<Watcher, StoreError> {
        Watcher::new(Arc::clone(&self.shared), prefix, revision)
    }

    async fn submit(&self, operation: Operation) -> Result<Entry, StoreError> {
        let (reply, answer) = oneshot::channel();
        {
            let sender = self.queue.sender.lock().unwrap_or_else(PoisonError::into_inner);
            let sender = sender.as_ref().ok_or(StoreError::Closed)?;
            sender
                .send(Request { operation, reply, of_user: self.of_users })
                .map_err(|_| StoreError::Closed)?;
        }
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
