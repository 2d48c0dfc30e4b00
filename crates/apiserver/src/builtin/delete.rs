//! Deletion as the API means it: finalizers first, pods with grace.

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::json::{set, text};
use ferrovirt_kubernetes::object::{is_deleting, no_finalizers};
use ferrovirt_kubernetes::time;
use serde_json::{Value, json};

use crate::clock;
use crate::store::{Change, Key, Store, StoreError};

/// Asks for the deletion of an object. It goes at once when nothing holds it; otherwise it is marked, and anyone who
/// holds it (finalizers, for pods the node's agent) lets go of it. Something that is gone already is fine.
///
/// # Errors
/// Only the store's own.
pub async fn request(store: &Store, key: &Key) -> Result<(), StoreError> {
    request_if(store, key, |_| true).await
}

/// As [`request`], while `wanted` holds for the object at the moment of its deletion.
///
/// # Errors
/// Only the store's own.
pub async fn request_if(store: &Store, key: &Key, wanted: impl Fn(&Value) -> bool) -> Result<(), StoreError> {
    let result = store
        .guaranteed_update(key, |object| -> Result<Change, StoreError> {
            if !wanted(object) {
                return Ok(Change::Keep);
            }
            let grace = grace(key, object);
            if no_finalizers(object) && grace == 0 && !has_content(object) {
                return Ok(Change::Delete);
            }
            if is_deleting(object) {
                return Ok(Change::Keep);
            }
            Ok(Change::Write(marked(object, grace)))
        })
        .await;
    match result {
        Ok(_) | Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Seconds that a pod gets to end. Only one that an agent may be running needs any.
fn grace(key: &Key, object: &Value) -> i64 {
    let pod = key.as_str().starts_with("//pods/");
    let over = ["Succeeded", "Failed"].contains(&text(object, "/status/phase"));
    if !pod || over || text(object, "/spec/nodeName").is_empty() {
        return 0;
    }
    // The second step of a pod's deletion is the agent's: it asks with grace 0 when the containers are gone.
    object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30).max(1)
}

/// A namespace is removed only by the controller that has emptied it, and that takes its name off `spec.finalizers`.
fn has_content(object: &Value) -> bool {
    json::list(object, "/spec/finalizers").len() > 0
}

fn marked(object: &Value, grace: i64) -> Value {
    let mut object = object.clone();
    let when = time::text(clock::now().saturating_add(grace));
    set(&mut object, &["metadata", "deletionTimestamp"], when.into());
    set(&mut object, &["metadata", "deletionGracePeriodSeconds"], json!(grace));
    object
}
