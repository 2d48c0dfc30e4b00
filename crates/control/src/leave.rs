//! What a replica does at its end.

use std::time::Duration;

use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_plan::config::{KUBEVIRT, NAMESPACE};
use ferrovirt_plan::decide::uninstall::{self, Uninstall};
use ferrovirt_plan::render::api::service_names;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};

use crate::apply::{Failure, json_patch};
use crate::reconcile::is_leaving;

/// How long it may take.
const LONGEST: Duration = Duration::from_secs(5);

/// Takes away what would keep the namespace where that is being deleted: Kubernetes ends its pods first, and nobody comes after
/// them. It waits for the KubeVirt object's finalizer, and, as every namespace that is deleted, for an answer of each aggregated
/// API. For every replica that is asked to end.
pub async fn leave(client: &Client) {
    match tokio::time::timeout(LONGEST, go(client)).await {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => tracing::info!(
            "the namespace {NAMESPACE} is deleted: it waits for no machine and no API of ours any more"
        ),
        Ok(Err(why)) => tracing::warn!("what the namespace {NAMESPACE} waits for is not known: {why}"),
        Err(_) => tracing::warn!("what the namespace {NAMESPACE} waits for is not known: no answer"),
    }
}

/// Whether the namespace is being deleted; then nothing of ours is waited for.
async fn go(client: &Client) -> Result<bool, Failure> {
    if !is_leaving(client).await? {
        return Ok(false);
    }
    // Neither waits for the other.
    let (services, object) = tokio::join!(services(client), free(client));
    services.and(object).map(|()| true)
}

/// Deletes the APIServices: whose Service has no pod any more gives no answer.
async fn services(client: &Client) -> Result<(), Failure> {
    let all: Api<APIService> = Api::all(client.clone());
    let mut done = Ok(());
    for name in service_names() {
        let deleted = match all.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop).map_err(|why| Failure::Unavailable(Box::new(why))),
        };
        done = done.and(deleted);
    }
    done
}

/// Takes our finalizer from the KubeVirt object.
async fn free(client: &Client) -> Result<(), Failure> {
    let objects: Api<KubeVirt> = Api::namespaced(client.clone(), NAMESPACE);
    let unavailable = |why| Failure::Unavailable(Box::new(why));
    // Others write it, too.
    for _ in 0..4 {
        let name = kube::api::ListParams::default().fields(&format!("metadata.name={KUBEVIRT}"));
        let found = objects.list(&name).await.map_err(unavailable)?;
        let Some(cluster) = found.items.first() else { return Ok(()) };
        let Uninstall::Patch(ops) = uninstall::uninstall(cluster, true, true) else { return Ok(()) };
        let patch: Patch<()> = Patch::Json(json_patch(&ops)?);
        match objects.patch(KUBEVIRT, &PatchParams::default(), &patch).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(why) => tracing::debug!("the KubeVirt object was not written: {why}"),
        }
    }
    Err(Failure::Overtaken)
}
