//! What one write asks for, checked against what is there.

use std::sync::Arc;

use ferrovirt_kubernetes::object;
use serde_json::Value;

use super::{Entry, Event, EventKind, Key, Operation, Preconditions, StoreError};

/// Checks one operation and says what it changes: the event, and its object as bytes.
pub(super) fn apply(
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
        let found = object::uid(&old.object);
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
