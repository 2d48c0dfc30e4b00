//! Making objects as JSON.

use ferrovirt_kubernetes::json::set;
use serde_json::Value;

use crate::clock;
use crate::store::{Change, Key, Store, StoreError};

/// Stores a new object with the metadata that every object has. Nothing happens when it exists.
pub(crate) async fn create(
    store: &Store,
    (group, resource): (&str, &str),
    namespace: &str,
    name: &str,
    mut object: Value,
) -> Result<(), StoreError> {
    let key = Key::new(group, resource, namespace, name);
    if store.get(&key).is_some() {
        return Ok(());
    }
    set(&mut object, &["metadata", "name"], name.into());
    if !namespace.is_empty() {
        set(&mut object, &["metadata", "namespace"], namespace.into());
    }
    set(&mut object, &["metadata", "uid"], crate::auth::unique().unwrap_or_default().into());
    set(&mut object, &["metadata", "creationTimestamp"], clock::stamp().into());
    match store.create(key, object).await {
        Ok(_) | Err(StoreError::AlreadyExists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Changes an object that may be gone by now.
pub(crate) async fn change(
    store: &Store,
    key: &Key,
    mut edit: impl FnMut(&mut Value),
) -> Result<(), StoreError> {
    let result = store
        .guaranteed_update(key, |object| -> Result<Change, StoreError> {
            let mut object = object.clone();
            edit(&mut object);
            Ok(Change::Write(object))
        })
        .await;
    match result {
        Ok(_) | Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}
