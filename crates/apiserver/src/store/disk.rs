//! The database file: opened, read with every check, written, brought back to what memory holds, made smaller.

mod migrate;
mod replace;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::keys::Keys;
use super::record::{self, Fault};
use super::{Entry, Key, StoreError};

/// Objects: key to record.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// The store's own numbers: [`Totals`].
const TOTALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("totals");
/// The only row of [`TOTALS`].
const ROW: &str = "now";
/// What every version reads first.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The version of this layout.
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 2;
/// redb's own cache. Objects are all in memory already, so it only has to hold the inner pages of the tree.
const CACHE_BYTES: usize = 2 << 20;
/// A file is made smaller when it has grown by this since the last time.
const GROWN: u64 = 16 << 20;
/// A file is made smaller when it has this many times the bytes of the records in it.
const WASTE: u64 = 4;

/// What a batch of writes changes: each key with its record, or without one where the object is removed.
pub(super) type Rows = Vec<(Key, Option<Vec<u8>>)>;
pub(super) type Objects = BTreeMap<Key, Entry>;

/// Why the file could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Database(redb::Error),
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// True when it says that there is no space.
    pub(super) fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Database(redb::Error::Io(error)) if matches!(error.kind(), StorageFull | QuotaExceeded))
    }
}

fn failed(error: impl Into<redb::Error>) -> Failure {
    Failure::Database(error.into())
}

/// The latest revision, and what all records together have to be: a record that is missing, or that is one of an
/// earlier time, has a good check of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    revision: u64,
    count: u64,
    /// All checks, xor.
    sum: u128,
    /// Length of all records.
    bytes: u64,
}

impl Totals {
    fn add(&mut self, bytes: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.change(bytes, u64::wrapping_add);
    }

    fn remove(&mut self, bytes: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.change(bytes, u64::wrapping_sub);
    }

    fn change(&mut self, bytes: &[u8], to: fn(u64, u64) -> u64) {
        self.sum ^= record::peek(bytes).map(|(_, check)| check).unwrap_or_default();
        self.bytes = to(self.bytes, u64::try_from(bytes.len()).unwrap_or_default());
    }

    fn encode(&self) -> Vec<u8> {
        let [revision, count, bytes] = [self.revision, self.count, self.bytes].map(u64::to_be_bytes);
        let data = [&revision[..], &count, &bytes, &self.sum.to_be_bytes()].concat();
        [&record::check(b"ferrovirt store totals", &data)[..], &data].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (check, data) = bytes.split_first_chunk::<16>()?;
        let (revision, rest) = data.split_first_chunk::<8>()?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        let (bytes, sum) = rest.split_first_chunk::<8>()?;
        let sum = u128::from_be_bytes(sum.try_into().ok()?);
        let [revision, count, bytes] = [revision, count, bytes].map(|part| u64::from_be_bytes(*part));
        let good = record::check(b"ferrovirt store totals", data) == *check;
        good.then_some(Self { revision, count, sum, bytes })
    }
}

/// The open file.
pub(super) struct Disk {
    path: PathBuf,
    keys: Keys,
    /// Nothing between a failure and the next successful opening.
    database: Option<Database>,
    totals: Totals,
    /// Bytes on disk after it was made smaller.
    least: u64,
}

/// What to do with records that are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Refuse,
    /// Forget them, and with `true` also those whose key is lost.
    Drop(bool),
}

/// What was read: the open file, all objects, the revision, and the damaged objects that were dropped.
pub(super) type Loaded = (Disk, Objects, u64, Vec<String>);

impl Disk {
    /// Opens or makes the file and reads everything.
    ///
    /// The database checks its pages after a crash only, and trusts lengths and offsets in them otherwise: what it does
    /// with damaged ones is a panic, which ends here.
    pub(super) fn load(path: &Path, keys: Keys, damage: Damage) -> Result<Loaded, StoreError> {
        let structure = || StoreError::Damaged {
            path: path.to_owned(),
            what: vec!["its structure, so that no object can be read (only a backup helps)".to_owned()],
        };
        catch_unwind(AssertUnwindSafe(|| Self::read(path, keys, damage))).unwrap_or_else(|_| Err(structure()))
    }

    fn read(path: &Path, keys: Keys, damage: Damage) -> Result<Loaded, StoreError> {
        let named = |error: &dyn std::fmt::Display| StoreError::Disk(format!("{}: {error}", path.display()));
        make_private(path).map_err(|error| named(&error))?;
        let database = create(path)?;
        let mut disk = Self {
            path: path.to_owned(),
            keys,
            database: Some(database),
            totals: Totals::default(),
            least: 0,
        };
        match disk.format().map_err(|error| named(&error))? {
            None => {
                // Revision 0 means "any" in the API, so the first list must not be at 0.
                disk.totals.revision = 1;
                disk.write(1, &Rows::new()).map_err(|error| named(&error))?;
                return Ok((disk, Objects::new(), 1, Vec::new()));
            }
            Some(1) => {
                let (disk, objects, revision) = migrate::from_format_1(disk)?;
                return Ok((disk, objects, revision, Vec::new()));
            }
            Some(FORMAT_NOW) => {}
            Some(other) => {
                return Err(StoreError::Disk(format!(
                    "{} has format {other}, this version reads format {FORMAT_NOW}; use the version that wrote it",
                    path.display()
                )));
            }
        }
        let mut objects = Objects::new();
        let found = disk.read_all(&mut objects).map_err(|error| named(&error))?;
        let dropped = found.judge(&disk, damage)?;
        let revision = found.revision(&objects);
        // The pages, and what is free in them. Everything has been read by now, so nothing is lost where the database
        // mends by going back to an earlier state, or cannot mend.
        let intact = disk.database.as_mut().map(Database::check_integrity);
        if !dropped.is_empty() || matches!(intact, Some(Err(_)) | None) {
            tracing::warn!("the store's file is damaged around its objects: they are written into a new one");
            disk = replace::with(disk, &objects, revision).map_err(|error| named(&error))?;
        } else if matches!(intact, Some(Ok(false))) || !found.current {
            disk.match_memory(&objects, revision).map_err(|error| named(&error))?;
        } else {
            disk.totals = found.seen;
        }
        Ok((disk, objects, revision, dropped))
    }

    fn open_database(&self) -> Result<&Database, Failure> {
        self.database.as_ref().ok_or_else(|| Failure::Other("it is closed after a failure".to_owned()))
    }

    fn format(&self) -> Result<Option<u64>, Failure> {
        let transaction = self.open_database()?.begin_read().map_err(failed)?;
        match transaction.open_table(META) {
            Ok(meta) => Ok(meta.get(FORMAT).map_err(failed)?.map(|value| value.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn read_all(&self, objects: &mut Objects) -> Result<Found, Failure> {
        let transaction = self.open_database()?.begin_read().map_err(failed)?;
        let mut found = Found { current: true, ..Found::default() };
        let totals = transaction.open_table(TOTALS).map_err(failed)?;
        found.written = totals.get(ROW).map_err(failed)?.and_then(|row| Totals::decode(row.value()));
        for row in transaction.open_table(RECORDS).map_err(failed)?.iter().map_err(failed)? {
            let (key, bytes) = row.map_err(failed)?;
            let (key, bytes) = (key.value(), bytes.value());
            found.seen.add(bytes);
            let record = match record::decode(&self.keys, key, bytes) {
                Ok(record) => record,
                Err(Fault::Damaged) => {
                    found.damaged.push(shown(key));
                    continue;
                }
                Err(Fault::NoKey(id)) => {
                    found.without_key.push(format!("{} (key {})", shown(key), hex(&id)));
                    continue;
                }
            };
            match serde_json::from_slice::<Value>(&record.json) {
                Ok(object) if revision_of(&object) == Some(record.revision) => {
                    found.current &= record.current;
                    let entry = Entry { revision: record.revision, object: Arc::new(object) };
                    objects.insert(Key::from_stored(key), entry);
                }
                _ => found.damaged.push(shown(key)),
            }
        }
        found.seen.revision = found.written.map(|written| written.revision).unwrap_or_default();
        Ok(found)
    }

    /// One transaction for the whole batch. redb's default durability is immediate: `commit` returns after fsync.
    pub(super) fn write(&mut self, revision: u64, rows: &Rows) -> Result<(), Failure> {
        let mut totals = self.totals;
        totals.revision = revision;
        let transaction = self.open_database()?.begin_write().map_err(failed)?;
        {
            let mut records = transaction.open_table(RECORDS).map_err(failed)?;
            for (key, bytes) in rows {
                let old = match bytes {
                    Some(bytes) => records.insert(key.as_str(), bytes.as_slice()).map_err(failed)?,
                    None => records.remove(key.as_str()).map_err(failed)?,
                };
                if let Some(old) = old {
                    totals.remove(old.value());
                }
                if let Some(bytes) = bytes {
                    totals.add(bytes);
                }
            }
            transaction
                .open_table(TOTALS)
                .map_err(failed)?
                .insert(ROW, totals.encode().as_slice())
                .map_err(failed)?;
            transaction.open_table(META).map_err(failed)?.insert(FORMAT, FORMAT_NOW).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        self.totals = totals;
        Ok(())
    }

    /// Closes the file after a failure: redb answers nothing more until it is opened again.
    pub(super) fn close(&mut self) {
        if let Some(database) = self.database.take()
            && let Err(error) = database.close()
        {
            tracing::debug!("closing the store's file after a failure: {error}");
        }
    }

    /// Opens the file again and makes it hold what memory holds: a write that failed may be in it all the same.
    pub(super) fn reopen(&mut self, objects: &Objects, revision: u64) -> Result<(), Failure> {
        self.close();
        let opened = catch_unwind(AssertUnwindSafe(|| builder().open(&self.path)));
        self.database =
            Some(opened.map_err(|_| Failure::Other("it is damaged".to_owned()))?.map_err(failed)?);
        let matched = self.match_memory(objects, revision);
        if matched.is_err() {
            self.close();
        }
        matched
    }

    /// Makes the file hold exactly these objects, each encrypted as it is to be now.
    fn match_memory(&mut self, objects: &Objects, revision: u64) -> Result<(), Failure> {
        let mut rows = Rows::new();
        let mut seen = Totals { revision, ..Totals::default() };
        let written = {
            let transaction = self.open_database()?.begin_read().map_err(failed)?;
            let mut kept = std::collections::BTreeSet::new();
            for row in transaction.open_table(RECORDS).map_err(failed)?.iter().map_err(failed)? {
                let (key, bytes) = row.map_err(failed)?;
                seen.add(bytes.value());
                let (text, bytes) = (key.value(), bytes.value());
                let key = Key::from_stored(text);
                let good = record::decode(&self.keys, text, bytes).is_ok_and(|record| {
                    record.current && objects.get(&key).is_some_and(|entry| entry.revision == record.revision)
                });
                if good {
                    kept.insert(key);
                } else if !objects.contains_key(&key) {
                    rows.push((key, None));
                }
            }
            for (key, entry) in objects.iter().filter(|(key, _)| !kept.contains(*key)) {
                rows.push((key.clone(), Some(self.encode(key, entry)?)));
            }
            let totals = transaction.open_table(TOTALS).map_err(failed)?;
            totals.get(ROW).map_err(failed)?.and_then(|row| Totals::decode(row.value()))
        };
        self.totals = seen;
        if rows.is_empty() && written == Some(seen) { Ok(()) } else { self.write(revision, &rows) }
    }

    fn encode(&self, key: &Key, entry: &Entry) -> Result<Vec<u8>, Failure> {
        let json = serde_json::to_vec(&*entry.object).map_err(|error| Failure::Other(error.to_string()))?;
        self.record(key, entry.revision, json)
    }

    /// The record of one object.
    pub(super) fn record(&self, key: &Key, revision: u64, json: Vec<u8>) -> Result<Vec<u8>, Failure> {
        record::encode(&self.keys, key.as_str(), revision, json)
            .ok_or_else(|| Failure::Other("the system has no random numbers".to_owned()))
    }

    /// Whether the file takes much more of the disk than what is in it.
    pub(super) fn is_wasteful(&self) -> bool {
        let allocated = self.allocated();
        allocated > self.least.saturating_add(GROWN) && allocated / WASTE > self.totals.bytes
    }

    fn allocated(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |data| data.blocks().saturating_mul(512))
    }

    /// Gives back to the disk what is not used. Takes as long as writing what is used.
    pub(super) fn compact(&mut self) -> Result<(), Failure> {
        let Some(database) = self.database.as_mut() else { return Ok(()) };
        database.compact().map_err(failed)?;
        self.least = self.allocated();
        Ok(())
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What reading found besides objects.
#[derive(Default)]
struct Found {
    written: Option<Totals>,
    seen: Totals,
    damaged: Vec<String>,
    without_key: Vec<String>,
    /// Every record is encrypted as it would be now.
    current: bool,
}

impl Found {
    /// Refuses damage, or says what is dropped.
    fn judge(&self, disk: &Disk, damage: Damage) -> Result<Vec<String>, StoreError> {
        let mut what = self.damaged.clone();
        if what.is_empty() && self.without_key.is_empty() && self.written != Some(self.seen) {
            what.push("some objects are missing or of an earlier time, it is not known which".to_owned());
        }
        if !self.without_key.is_empty() && damage != Damage::Drop(true) {
            let what = self.without_key.clone();
            return Err(StoreError::NoKey {
                path: disk.path.clone(),
                keys: disk.keys.path().to_owned(),
                what,
            });
        }
        if !what.is_empty() && damage == Damage::Refuse {
            return Err(StoreError::Damaged { path: disk.path.clone(), what });
        }
        what.extend(self.without_key.iter().cloned());
        Ok(what)
    }

    /// The latest revision; where it was damaged itself, one that is later than every object's.
    fn revision(&self, objects: &Objects) -> u64 {
        let latest = objects.values().map(|entry| entry.revision).max().unwrap_or(1);
        self.written.map_or(latest.saturating_add(1), |written| written.revision.max(latest))
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn create(path: &Path) -> Result<Database, StoreError> {
    builder().create(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Disk(format!(
            "{} is in use by another process; stop it or choose another --data-dir",
            path.display()
        )),
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(why)) => StoreError::Damaged {
            path: path.to_owned(),
            what: vec![format!("its structure ({why}; only a backup helps)")],
        },
        error => StoreError::Disk(format!("{}: {error}", path.display())),
    })
}

/// Makes the file, or takes an existing one away from everybody but its owner: the database would leave its mode to the
/// umask.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path)?.set_permissions(std::fs::Permissions::from_mode(0o600))
}

fn revision_of(object: &Value) -> Option<u64> {
    object.pointer("/metadata/resourceVersion")?.as_str()?.parse().ok()
}

/// A key for a person: damaged ones may hold anything.
fn shown(key: &str) -> String {
    key.chars().take(300).flat_map(char::escape_default).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
