//! Making objects as JSON.

use ferrovirt_kubernetes::json::{self, list, set, text};
use serde_json::{Value, json};

use crate::clock;
use crate::store::{Key, Store, StoreError};

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

/// Sets a condition in `status.conditions`; the transition time moves only when the status does.
pub(crate) fn set_condition(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let now = clock::stamp();
    let old = list(object, "/status/conditions").find(|c| text(c, "type") == kind);
    let since = match old {
        Some(old) if text(old, "status") == status => text(old, "lastTransitionTime").to_owned(),
        _ => now,
    };
    let mut new = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
    for (field, value) in [("reason", reason), ("message", message)] {
        if !value.is_empty() {
            set(&mut new, &[field], value.into());
        }
    }
    if json::at(object, "/status/conditions").is_none_or(|list| !list.is_array()) {
        set(object, &["status", "conditions"], json!([]));
    }
    if let Some(Value::Array(conditions)) = object.pointer_mut("/status/conditions") {
        match conditions.iter_mut().find(|c| text(c, "type") == kind) {
            Some(place) => *place = new,
            None => conditions.push(new),
        }
    }
}
