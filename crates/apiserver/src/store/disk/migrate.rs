//! Stores of format 1: plain JSON without checks.

use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::{Disk, Failure, META, Objects, failed, replace, revision_of, shown};
use crate::store::{Entry, Key, StoreError};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const REVISION: &str = "revision";

/// Reads the old file and replaces it: in its free pages, Secrets would stay readable.
pub(super) fn from_format_1(old: Disk) -> Result<(Disk, Objects, u64), StoreError> {
    let (objects, revision) = read(&old)?;
    let path = old.path.clone();
    let disk = replace::with(old, &objects, revision).map_err(|error| {
        let path = path.display();
        StoreError::Disk(format!("{path}: bringing it to the format of this version: {error}"))
    })?;
    tracing::info!("the store has checks of every object now, and Secrets in it are encrypted");
    Ok((disk, objects, revision))
}

fn read(old: &Disk) -> Result<(Objects, u64), StoreError> {
    let disk = |error: Failure| StoreError::Disk(format!("{}: {error}", old.path.display()));
    let rows = || -> Result<_, Failure> {
        let transaction = old.open_database()?.begin_read().map_err(failed)?;
        let meta = transaction.open_table(META).map_err(failed)?;
        let revision = meta.get(REVISION).map_err(failed)?.map_or(1, |value| value.value());
        let mut rows = Vec::new();
        for row in transaction.open_table(OBJECTS).map_err(failed)?.iter().map_err(failed)? {
            let (key, bytes) = row.map_err(failed)?;
            rows.push((key.value().to_owned(), serde_json::from_slice::<Value>(bytes.value()).ok()));
        }
        Ok((rows, revision))
    };
    let (rows, revision) = rows().map_err(disk)?;
    let (mut objects, mut damaged) = (Objects::new(), Vec::new());
    for (key, object) in rows {
        match object.and_then(|object| Some((revision_of(&object)?, object))) {
            Some((revision, object)) => {
                objects.insert(Key::from_stored(&key), Entry { revision, object: Arc::new(object) });
            }
            None => damaged.push(shown(&key)),
        }
    }
    if !damaged.is_empty() {
        return Err(StoreError::Damaged { path: old.path.clone(), what: damaged });
    }
    let latest = objects.values().map(|entry| entry.revision).max().unwrap_or(1);
    Ok((objects, revision.max(latest)))
}
