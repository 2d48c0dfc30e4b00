//! Gives each namespace its uid range, SELinux level and groups, where nobody else does.
//!
//! Replicas need no lease: the ledger is written by its resource version before a block is used, and remembers for whom it
//! was. Anyone who comes second reads the same block out of it.

use std::sync::Arc;
use std::time::Duration;

use ferrovirt_kubernetes::object;
use ferrovirt_plan::render::scc_webhook::LEDGER;
use ferrovirt_scc::{Ledger, MCS, UID_RANGE};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Owner};

/// Pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Never ends.
pub(crate) async fn run(client: Client, cluster: Arc<Cluster>, home: String) {
    let mut changes = cluster.changes();
    let ledgers: Api<ConfigMap> = Api::namespaced(client.clone(), &home);
    let namespaces: Api<Namespace> = Api::all(client);
    let mut complaint = String::new();
    loop {
        let mut failed = false;
        // On OKD the cluster does it.
        let bare = if cluster.owner() == Owner::Us { without_range(&cluster) } else { Vec::new() };
        for name in bare {
            match give(&namespaces, &ledgers, &cluster, &name).await {
                Ok(()) => complaint.clear(),
                // Somebody else wrote in between; the next round sees what.
                Err(kube::Error::Api(status)) if status.is_conflict() => failed = true,
                Err(error) => {
                    failed = true;
                    let text = format!("namespace {name} cannot be given a uid range: {error}");
                    if text != complaint {
                        tracing::warn!("{text}");
                        complaint = text;
                    }
                }
            }
        }
        let pause =
            async { if failed { tokio::time::sleep(AGAIN).await } else { std::future::pending().await } };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

fn without_range(cluster: &Cluster) -> Vec<String> {
    let all = cluster.namespaces.read();
    let bare = all.iter().flatten().filter(|(_, namespace)| range(namespace).is_none());
    let mut names: Vec<String> = bare.map(|((_, name), _)| name.clone()).collect();
    names.sort();
    names
}

fn range(namespace: &Value) -> Option<&str> {
    object::annotation(namespace, UID_RANGE)
}

async fn give(
    namespaces: &Api<Namespace>,
    ledgers: &Api<ConfigMap>,
    cluster: &Cluster,
    name: &str,
) -> kube::Result<()> {
    // The cache may be behind: another replica may have done it.
    let Some(namespace) = namespaces.get_opt(name).await? else { return Ok(()) };
    if namespace.annotations().contains_key(UID_RANGE) || namespace.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let mut stored = ledgers.get(LEDGER).await?;
    let data = stored.data.as_ref().map(|data| json!(data));
    let ledger = Ledger::of(data.as_ref());
    let assigned = {
        let all = cluster.namespaces.read();
        let taken = all.iter().flatten().filter_map(|(_, namespace)| range(namespace));
        ledger.assign(&namespace.uid().unwrap_or_default(), taken)
    };
    let Some((number, next)) = assigned else {
        tracing::error!("no uid block is left for namespace {name}: pods will be refused in it");
        return Ok(());
    };
    if next != ledger {
        stored.data = serde_json::from_value(next.data()).ok();
        ledgers.replace(LEDGER, &PostParams::default(), &stored).await?;
    }
    let Some(values) = ferrovirt_scc::allocate(number) else { return Ok(()) };
    let mut annotations = serde_json::Map::new();
    for (key, value) in values {
        // The level is kept when somebody chose one.
        if key != MCS || !namespace.annotations().contains_key(MCS) {
            annotations.insert(key.to_owned(), value.into());
        }
    }
    let patch =
        json!({"metadata": {"annotations": annotations, "resourceVersion": namespace.resource_version()}});
    namespaces.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    tracing::info!("namespace {name} has uid block {number}");
    Ok(())
}
