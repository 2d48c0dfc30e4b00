//! Events: writing our own, and forgetting all of them after an hour.

use std::time::Duration;

use ferrovirt_api::text::plain;
use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::json::{set, text};
use ferrovirt_kubernetes::object::uid;
use ferrovirt_kubernetes::time;
use serde_json::{Value, json};

use super::Wake;
use super::object::create;
use crate::clock;
use crate::store::{Change, Key, Preconditions, Prefix, Store, StoreError};

/// How long an event is kept after it last happened, as Kubernetes' API server keeps it.
const LIFETIME: i64 = 3600;

/// Most characters of a message, as the API allows.
const LONGEST: usize = 1000;

/// Writes an event about an object. The same thing happening again is counted in the same event. An event that cannot
/// be written is only logged.
pub async fn record(
    store: &Store,
    about: &Value,
    kind: &str,
    level: &str,
    reason: &str,
    message: &str,
    source: &str,
) {
    let message = &plain(message, LONGEST);
    let (namespace, name) = (text(about, "/metadata/namespace"), text(about, "/metadata/name"));
    let home = if namespace.is_empty() { "default" } else { namespace };
    let digest = {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for part in [uid(about), reason, message, source] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        context.finish()
    };
    let hash: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let event_name = format!("{name}.{hash}");
    let now = clock::stamp();
    let key = Key::new("", "events", home, &event_name);
    let again = store
        .guaranteed_update(&key, |event| -> Result<Change, StoreError> {
            let mut event = event.clone();
            let count = event.get("count").and_then(Value::as_i64).unwrap_or(1).saturating_add(1);
            set(&mut event, &["count"], count.into());
            set(&mut event, &["lastTimestamp"], now.as_str().into());
            Ok(Change::Write(event))
        })
        .await;
    let result = match again {
        Err(StoreError::NotFound) => {
            let event = json!({
                "apiVersion": "v1", "kind": "Event", "type": level, "reason": reason, "message": message,
                "involvedObject": {
                    "apiVersion": json::string(about, "apiVersion").unwrap_or("v1"), "kind": kind,
                    "name": name, "namespace": namespace, "uid": uid(about),
                    "resourceVersion": text(about, "/metadata/resourceVersion"),
                },
                "source": {"component": source}, "reportingComponent": source, "reportingInstance": "",
                "firstTimestamp": now, "lastTimestamp": now, "count": 1, "eventTime": null,
            });
            create(store, ("", "events"), home, &event_name, event).await
        }
        other => other.map(|_| ()),
    };
    if let Err(error) = result {
        tracing::warn!(%error, reason, message, "an event could not be written");
    }
}

/// Deletes events an hour after they last happened.
pub async fn run(store: Store) {
    let mut wake = Wake::new(&store, vec![Prefix::resource("", "events")]);
    loop {
        let now = clock::now();
        let mut oldest: Option<i64> = None;
        for (key, entry) in store.list(&Prefix::resource("", "events")).entries {
            let last = last_seen(&entry.object).unwrap_or(now);
            if last.saturating_add(LIFETIME) <= now {
                let preconditions = Preconditions { uid: None, revision: Some(entry.revision) };
                if let Err(StoreError::Closed) = store.delete(key, preconditions).await {
                    return;
                }
            } else {
                oldest = Some(oldest.map_or(last, |o| o.min(last)));
            }
        }
        match oldest {
            // Nothing stored can expire before the oldest one does; what comes later expires later.
            Some(last) => {
                // Of an event that is ahead of the clock nothing is known.
                let left = last.saturating_add(LIFETIME).saturating_sub(now).clamp(1, LIFETIME);
                let left = u64::try_from(left).unwrap_or(1);
                tokio::time::sleep(Duration::from_secs(left)).await;
            }
            None => {
                if !wake.next().await {
                    return;
                }
            }
        }
    }
}

/// When the event last happened, whichever of its generations of fields says so.
fn last_seen(event: &Value) -> Option<i64> {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .into_iter()
        .find_map(|path| time::parse(text(event, path)))
}
