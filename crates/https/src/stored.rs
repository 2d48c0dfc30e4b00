//! The Secrets that certificates are kept in.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::time::Duration;

/// Who has made it, in its managed fields.
const MANAGER: &str = "ferrovirt";
/// When a round that failed is done again: somebody mends it, and waits.
const AGAIN: Duration = Duration::from_secs(2);

/// How long to wait for the next round, `look` after one that went well. What is wrong is logged when it is news.
pub(crate) fn next(done: Result<(), String>, look: Duration, complaint: &mut String) -> Duration {
    let Err(text) = done else {
        complaint.clear();
        return look;
    };
    if text != *complaint {
        tracing::warn!("{text}");
        *complaint = text;
    }
    AGAIN
}

/// A Secret, which is made again, without anything in it, where somebody has deleted it.
///
/// # Errors
/// Why it cannot be read or made, in words.
pub(crate) async fn secret(secrets: &Api<Secret>, name: &str) -> Result<Secret, String> {
    let found = secrets.get_opt(name).await;
    if let Some(found) = found.map_err(|why| format!("the Secret {name} cannot be read: {why}"))? {
        return Ok(found);
    }
    // By server-side apply, whose path has the name: a role cannot limit the creation in a collection to names.
    let empty = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque"});
    let made =
        secrets.patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(empty)).await.map_err(|why| {
            format!(
                "the Secret {name} was deleted, and cannot be made again: apply the manifest again ({why})"
            )
        })?;
    tracing::info!("made the Secret {name} again, which was deleted");
    Ok(made)
}
