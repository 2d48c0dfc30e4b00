//! The Secrets that certificates are kept in.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// Who has made it, in its managed fields.
const MANAGER: &str = "ferrovirt";

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
