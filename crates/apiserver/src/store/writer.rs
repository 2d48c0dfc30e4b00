//! The thread that owns the database.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, PoisonError, mpsc};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Entry, Event, EventKind, Key, Operation, Preconditions, Request, Shared, StoreError};

/// Objects: key to serialized JSON, which carries its revision in `metadata.resourceVersion`.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Counters of the store itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The latest revision; kept apart from the objects because the latest write may have been a delete.
const REVISION: &str = "revision";
/// The version of this layout.
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;
/// redb's own cache. Objects are all in memory already, so it only has to hold the inner pages of the tree.
const CACHE_BYTES: usize = 2 << 20;
/// How many writes share one commit at most: bounds the time that the first of them waits.
const MAX_BATCH: usize = 512;

type Loaded = (Database, BTreeMap<Key, Entry>, u64);

fn disk(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Disk(error.into().to_string())
}

/// Opens the database and reads everything.
pub(super) fn load(path: &Path) -> Result<Loaded, StoreError> {
    make_private(path).map_err(|error| StoreError::Disk(format!("{}: {error}", path.display())))?;
    let database =
        Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Disk(format!(
                "{} is in use by another process; stop it or choose another --data-dir",
                path.display()
            )),
            error => StoreError::Disk(format!("{}: {error}", path.display())),
        })?;
    let transaction = database.begin_write().map_err(disk)?;
    {
        transaction.open_table(OBJECTS).map_err(disk)?;
        let mut meta = transaction.open_table(META).map_err(disk)?;
        let format = meta.get(FORMAT).map_err(disk)?.map(|value| value.value());
        match format {
            Some(FORMAT_NOW) => {}
            Some(other) => {
                return Err(StoreError::Disk(format!(
                    "{} has format {other}, this version reads format {FORMAT_NOW}; use the version that wrote it",
                    path.display()
                )));
            }
            None => {
                meta.insert(FORMAT, FORMAT_NOW).map_err(disk)?;
                // Revision 0 means "any" in the API, so the first list must not be at 0.
                meta.insert(REVISION, 1).map_err(disk)?;
            }
        }
    }
    transaction.commit().map_err(disk)?;

    let transaction = database.begin_read().map_err(disk)?;
    let meta = transaction.open_table(META).map_err(disk)?;
    let revision = meta.get(REVISION).map_err(disk)?.map_or(1, |value| value.value());
    let mut objects = BTreeMap::new();
    for row in transaction.open_table(OBJECTS).map_err(disk)?.iter().map_err(disk)? {
        let (key, bytes) = row.map_err(disk)?;
        let object: Value = serde_json::from_slice(bytes.value())
            .map_err(|error| StoreError::Disk(format!("object {} is damaged: {error}", key.value())))?;
        let revision = revision_of(&object)
            .ok_or_else(|| StoreError::Disk(format!("object {} has no revision", key.value())))?;
        objects.insert(Key::from_stored(key.value()), Entry { revision, object: Arc::new(object) });
    }
    drop(meta);
    drop(transaction);
    Ok((database, objects, revision))
}

/// Makes the file, or takes an existing one away from everybody but its owner: all secrets are in it, and the database
/// would leave its mode to the umask.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path)?.set_permissions(std::fs::Permissions::from_mode(0o600))
}

fn revision_of(object: &Value) -> Option<u64> {
    object.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()
}

/// What a batch has decided so far: the reply to send and the event to publish once the batch is on disk.
struct Pending {
    event: Event,
    bytes: usize,
    reply: oneshot::Sender<Result<Entry, StoreError>>,
}

/// Takes batches from the queue until all senders are gone.
pub(super) fn run(
    database: &Database,
    shared: &Shared,
    queue: &mpsc::Receiver<Request>,
    tick: &tokio::sync::watch::Sender<u64>,
) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH {
            match queue.try_recv() {
                Ok(request) => batch.push(request),
                Err(_) => break,
            }
        }
        commit(database, shared, tick, batch);
    }
}

fn commit(database: &Database, shared: &Shared, tick: &tokio::sync::watch::Sender<u64>, batch: Vec<Request>) {
    // Only this thread changes the state, so it cannot move between here and the publication below.
    let mut revision = shared.read().revision;
    let mut overlay: HashMap<Key, Option<Entry>> = HashMap::new();
    let mut rows: Vec<(Key, Option<Vec<u8>>)> = Vec::new();
    let mut pending: Vec<Pending> = Vec::new();
    // What is refused may be refused because of something that is not on disk yet, so this answer waits, too.
    let mut refused: Vec<(oneshot::Sender<Result<Entry, StoreError>>, StoreError)> = Vec::new();

    for Request { operation, reply } in batch {
        let current = |key: &Key| match overlay.get(key) {
            Some(entry) => entry.clone(),
            None => shared.read().objects.get(key).cloned(),
        };
        match apply(operation, revision + 1, current) {
            Err(error) => refused.push((reply, error)),
            Ok((event, bytes)) => {
                revision += 1;
                let size = bytes.len();
                let kept = event.kind != EventKind::Deleted;
                let entry = kept.then(|| Entry { revision, object: Arc::clone(&event.object) });
                overlay.insert(event.key.clone(), entry);
                rows.push((event.key.clone(), kept.then_some(bytes)));
                pending.push(Pending { event, bytes: size, reply });
            }
        }
    }
    let refuse = |refused: Vec<(oneshot::Sender<_>, StoreError)>| {
        for (reply, error) in refused {
            // The caller may have gone away; then nobody wants to know.
            let _ = reply.send(Err(error));
        }
    };
    if pending.is_empty() {
        refuse(refused);
        return;
    }
    if let Err(error) = write(database, revision, &rows) {
        let message = error.to_string();
        tracing::error!("{message}");
        for reply in
            pending.into_iter().map(|one| one.reply).chain(refused.into_iter().map(|(reply, _)| reply))
        {
            let _ = reply.send(Err(StoreError::Disk(message.clone())));
        }
        return;
    }

    let mut replies = Vec::with_capacity(pending.len());
    {
        let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        for Pending { event, bytes, reply } in pending {
            let entry = Entry { revision: event.revision, object: Arc::clone(&event.object) };
            if event.kind == EventKind::Deleted {
                state.objects.remove(&event.key);
            } else {
                state.objects.insert(event.key.clone(), entry.clone());
            }
            state.history.push(event, bytes);
            replies.push((reply, entry));
        }
        state.revision = revision;
    }
    tick.send_replace(revision);
    for (reply, entry) in replies {
        let _ = reply.send(Ok(entry));
    }
    refuse(refused);
}

/// Checks one operation and says what it changes: the event, and its object as bytes.
fn apply(
    operation: Operation,
    revision: u64,
    current: impl Fn(&Key) -> Option<Entry>,
) -> Result<(Event, Vec<u8>), StoreError> {
    let (kind, key, mut object, old) = match operation {
        Operation::Create { key, object } => {
            if current(&key).is_some() {
                return Err(StoreError::AlreadyExists);
            }
            (EventKind::Added, key, object, None)
        }
        Operation::Update { key, object, expected } => {
            let old = current(&key).ok_or(StoreError::NotFound)?;
            if old.revision != expected {
                return Err(StoreError::Conflict { expected, found: old.revision });
            }
            (EventKind::Modified, key, object, Some(old.object))
        }
        Operation::Delete { key, preconditions } => {
            let old = current(&key).ok_or(StoreError::NotFound)?;
            check(&preconditions, &old)?;
            (EventKind::Deleted, key, Value::clone(&old.object), Some(old.object))
        }
    };
    set_revision(&mut object, revision);
    let bytes = serde_json::to_vec(&object).map_err(|error| StoreError::Disk(error.to_string()))?;
    Ok((Event { kind, revision, key, object: Arc::new(object), old }, bytes))
}

fn check(preconditions: &Preconditions, old: &Entry) -> Result<(), StoreError> {
    if let Some(expected) = &preconditions.uid {
        let found = old.object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        if found != expected {
            return Err(StoreError::UidMismatch { expected: expected.clone(), found: found.to_owned() });
        }
    }
    match preconditions.revision {
        Some(expected) if expected != old.revision => {
            Err(StoreError::Conflict { expected, found: old.revision })
        }
        _ => Ok(()),
    }
}

fn set_revision(object: &mut Value, revision: u64) {
    if let Value::Object(fields) = object {
        let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Value::Object(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
        }
    }
}

/// One transaction for the whole batch. redb's default durability is immediate: `commit` returns after fsync.
fn write(database: &Database, revision: u64, rows: &[(Key, Option<Vec<u8>>)]) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(disk)?;
    {
        let mut objects = transaction.open_table(OBJECTS).map_err(disk)?;
        for (key, bytes) in rows {
            match bytes {
                Some(bytes) => objects.insert(key.as_str(), bytes.as_slice()).map_err(disk)?,
                None => objects.remove(key.as_str()).map_err(disk)?,
            };
        }
        let mut meta = transaction.open_table(META).map_err(disk)?;
        meta.insert(REVISION, revision).map_err(disk)?;
    }
    transaction.commit().map_err(disk)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::watch::History;
    use crate::store::{RwLock, State};

    #[test]
    fn a_refusal_comes_after_what_it_is_because_of() {
        let folder = tempfile::tempdir().unwrap();
        let (database, objects, revision) = load(&folder.path().join("s")).unwrap();
        let (ticker, tick) = tokio::sync::watch::channel(revision);
        let state = State { objects, revision, history: History::new(revision) };
        let shared = Arc::new(Shared { state: RwLock::new(state), tick });
        let key = Key::new("", "configmaps", "n", "a");
        let create = || {
            let (reply, answer) = oneshot::channel();
            let operation = Operation::Create { key: key.clone(), object: json!({"metadata": {}}) };
            (Request { operation, reply }, answer)
        };
        let ((first, _made), (second, refused)) = (create(), create());
        let asker = std::thread::spawn({
            let (shared, key) = (Arc::clone(&shared), key.clone());
            move || (refused.blocking_recv().unwrap(), shared.read().objects.contains_key(&key))
        });
        commit(&database, &shared, &ticker, vec![first, second]);
        let (refused, visible) = asker.join().unwrap();
        assert!(matches!(refused, Err(StoreError::AlreadyExists)) && visible);
    }
}
