//! Reading and making objects as JSON.

use serde_json::{Value, json};

use crate::clock;
use crate::store::{Key, Store, StoreError};

/// Text at a path; empty when it is absent or no text.
pub(crate) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The objects of the list at a path.
pub(crate) fn list<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

/// `metadata.uid`.
pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Whether deletion was asked for.
pub(crate) fn deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
}

/// Whether `metadata.finalizers` has this one.
pub(crate) fn has_finalizer(object: &Value, name: &str) -> bool {
    list(object, "/metadata/finalizers").any(|f| f.as_str() == Some(name))
}

/// Whether nobody has something left to do before the object goes.
pub(crate) fn no_finalizers(object: &Value) -> bool {
    list(object, "/metadata/finalizers").next().is_none()
}

/// Sets a field of the object at a path of existing objects, making the last parents where they are missing.
pub(crate) fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut place = object;
    for parent in parents {
        let Value::Object(fields) = place else { return };
        place = fields.entry(*parent).or_insert_with(|| json!({}));
        if place.is_null() {
            *place = json!({});
        }
    }
    if let Value::Object(fields) = place {
        fields.insert((*last).to_owned(), value);
    }
}

/// Removes one finalizer.
pub(crate) fn drop_finalizer(object: &mut Value, name: &str) {
    if let Some(Value::Array(list)) = object.pointer_mut("/metadata/finalizers") {
        list.retain(|f| f.as_str() != Some(name));
        if list.is_empty()
            && let Some(Value::Object(metadata)) = object.get_mut("metadata")
        {
            metadata.remove("finalizers");
        }
    }
}

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
    let old = list(object, "/status/conditions").find(|c| text(c, "/type") == kind);
    let since = match old {
        Some(old) if text(old, "/status") == status => text(old, "/lastTransitionTime").to_owned(),
        _ => now,
    };
    let mut new = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
    for (field, value) in [("reason", reason), ("message", message)] {
        if !value.is_empty() {
            set(&mut new, &[field], value.into());
        }
    }
    if object.pointer("/status/conditions").and_then(Value::as_array).is_none() {
        set(object, &["status", "conditions"], json!([]));
    }
    if let Some(Value::Array(conditions)) = object.pointer_mut("/status/conditions") {
        match conditions.iter_mut().find(|c| text(c, "/type") == kind) {
            Some(place) => *place = new,
            None => conditions.push(new),
        }
    }
}
