//! What a replica does at its end.

use std::time::Duration;

use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_plan::config::{KUBEVIRT, NAMESPACE};
use ferrovirt_plan::decide::uninstall::{self, Uninstall};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use crate::apply::{Failure, json_patch};
use crate::reconcile::is_leaving;

/// How long it may take.
const LONGEST: Duration = Duration::from_secs(5);

/// Takes the finalizer from the KubeVirt object where the namespace is being deleted: Kubernetes ends its pods first and then waits
/// for the object, and nobody comes after them. For every replica that is asked to end.
pub async fn leave(client: &Client) {
    match tokio::time::timeout(LONGEST, free(client)).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => tracing::info!(
            "the namespace {NAMESPACE} is deleted: the KubeVirt object waits for no machine any more"
        ),
        Ok(Err(why)) => tracing::warn!(
            "whether the namespace {NAMESPACE} waits for the KubeVirt object is not known: {why}"
        ),
        Err(_) => tracing::warn!(
            "whether the namespace {NAMESPACE} waits for the KubeVirt object is not known: no answer"
        ),
    }
}

/// Whether there was something to take away.
async fn free(client: &Client) -> Result<bool, Failure> {
    if !is_leaving(client).await? {
        return Ok(false);
    }
    let objects: Api<KubeVirt> = Api::namespaced(client.clone(), NAMESPACE);
    let unavailable = |why| Failure::Unavailable(Box::new(why));
    // Others write it, too.
    for _ in 0..4 {
        let name = kube::api::ListParams::default().fields(&format!("metadata.name={KUBEVIRT}"));
        let found = objects.list(&name).await.map_err(unavailable)?;
        let Some(cluster) = found.items.first() else { return Ok(false) };
        let Uninstall::Patch(ops) = uninstall::uninstall(cluster, true, true) else { return Ok(false) };
        let patch: Patch<()> = Patch::Json(json_patch(&ops)?);
        match objects.patch(KUBEVIRT, &PatchParams::default(), &patch).await {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(why) => tracing::debug!("the KubeVirt object was not written: {why}"),
        }
    }
    Err(Failure::Overtaken)
}
