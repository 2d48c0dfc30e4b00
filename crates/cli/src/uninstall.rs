//! `ferrovirt uninstall`: removal with an administrator's rights, which needs no controller that works.

use crate::client::connect;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ferrovirt_kubernetes::{json, object};
use ferrovirt_plan::{
    config::NAMESPACE,
    decide::{FOREGROUND_FINALIZER, VM_FINALIZER, uninstall},
    render::{self, cluster, controller, scc_webhook::MANAGED_BY},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct Options {
    /// End and remove every machine of the cluster, too
    #[arg(long)]
    remove_machines: bool,
}

/// Finalizers of ours: without controllers nobody removes them.
const FINALIZERS: [&str; 3] = [FOREGROUND_FINALIZER, VM_FINALIZER, uninstall::MACHINES];
/// Kinds that have them; owners first, so that nobody makes what was removed.
const MACHINES: [&str; 2] = ["VirtualMachine", "VirtualMachineInstance"];
/// How long the cluster has to remove something.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Names of machines that a refusal shows.
const SHOWN: usize = 5;

/// Removes what `deploy/ferrovirt.yaml` installs, says each step, and fails with what is left.
pub(crate) async fn uninstall(options: Options) -> Result<()> {
    let (client, _) = connect().await?;
    is_ours(&client).await?;
    allowed(&client, &options).await?;
    let all = cluster::Options { platform: cluster::Platform::Okd, ..cluster::Options::default() };
    let manifests = render::cluster(&all);
    // Anyone who is asked about machines may be gone.
    for manifest in
        manifests.iter().filter(|manifest| object::kind(manifest).ends_with("WebhookConfiguration"))
    {
        remove(&client, manifest).await?;
    }
    // Controllers that work would put finalizers back.
    let deployment = api(&client, "apps/v1", "Deployment", Some(NAMESPACE));
    if delete(&deployment, controller::NAME, &DeleteParams::foreground()).await? {
        println!("deleting the Deployment {NAMESPACE}/{}", controller::NAME);
        gone(&deployment, controller::NAME).await?;
    }
    // Anyone who made one meanwhile did not know.
    allowed(&client, &options).await?;
    for kind in MACHINES {
        for machine in list(&client, kind).await? {
            let of_kind = api(&client, "kubevirt.io/v1", kind, machine.metadata.namespace.as_deref());
            delete(&of_kind, &machine.name_any(), &DeleteParams::default()).await?;
            release(&of_kind, &machine.name_any()).await?;
            println!("deleted the {kind} {} and removed our finalizers", name(&machine));
        }
    }
    // It has one while there are machines, and goes with its definition.
    for configuration in list(&client, "KubeVirt").await? {
        let of_kind = api(&client, "kubevirt.io/v1", "KubeVirt", configuration.metadata.namespace.as_deref());
        release(&of_kind, &configuration.name_any()).await?;
    }
    for manifest in &manifests {
        remove(&client, manifest).await?;
    }
    for manifest in &manifests {
        gone(&of(&client, manifest), json::text(manifest, "/metadata/name")).await?;
    }
    println!("nothing of Ferrovirt is left in the API; /var/lib/ferrovirt/plug stays on the nodes");
    Ok(())
}

/// Deletes what a manifest has made, and says so.
async fn remove(client: &Client, manifest: &Value) -> Result<()> {
    let (kind, name) = (object::kind(manifest), json::text(manifest, "/metadata/name"));
    if delete(&of(client, manifest), name, &DeleteParams::background()).await? {
        println!("deleting the {kind} {name}");
    }
    Ok(())
}

/// Fails where there are machines and nobody said that they go, too.
async fn allowed(client: &Client, options: &Options) -> Result<()> {
    if options.remove_machines {
        return Ok(());
    }
    let mut machines = Vec::new();
    for kind in MACHINES {
        machines.extend(list(client, kind).await?);
    }
    let names: Vec<String> = machines.iter().take(SHOWN).map(name).collect();
    ensure!(
        machines.is_empty(),
        "there are machines ({} objects: {}...): delete them, or end and remove all of them with --remove-machines",
        machines.len(),
        names.join(", ")
    );
    Ok(())
}

/// Fails where the definitions are another installation's: upstream's have the same names, and with them go all machines.
async fn is_ours(client: &Client) -> Result<()> {
    let definitions = api(client, "apiextensions.k8s.io/v1", "CustomResourceDefinition", None);
    for definition in render::cluster(&cluster::Options::default()) {
        if object::kind(&definition) != "CustomResourceDefinition" {
            continue;
        }
        let name = json::text(&definition, "/metadata/name");
        let found =
            definitions.get_opt(name).await.with_context(|| format!("reading the definition {name}"))?;
        let manager = found.as_ref().map(|found| found.labels().get(MANAGED_BY.0).map(String::as_str));
        ensure!(
            manager.is_none_or(|manager| manager == Some(MANAGED_BY.1)),
            "the definition {name} has no label {}={}: it is of another installation of KubeVirt's API, which stays",
            MANAGED_BY.0,
            MANAGED_BY.1
        );
    }
    Ok(())
}

/// Requests for the kind and namespace of a manifest.
fn of(client: &Client, manifest: &Value) -> Api<DynamicObject> {
    let text = |path| Some(json::text(manifest, path)).filter(|text| !text.is_empty());
    api(client, text("/apiVersion").unwrap_or_default(), object::kind(manifest), text("/metadata/namespace"))
}

fn api(client: &Client, version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, &plural(&kind.kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// The name of a kind's resource in paths. Every kind of our manifests is regular.
fn plural(kind: &str) -> String {
    let name = kind.to_lowercase();
    match name.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if name.ends_with('s') => name,
        None => format!("{name}s"),
    }
}

fn name(object: &DynamicObject) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// All objects of a kind of ours; none where the kind is not defined.
async fn list(client: &Client, kind: &str) -> Result<Vec<DynamicObject>> {
    match api(client, "kubevirt.io/v1", kind, None).list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("listing every {kind}")),
    }
}

/// Whether there was something to delete.
async fn delete(api: &Api<DynamicObject>, name: &str, how: &DeleteParams) -> Result<bool> {
    match api.delete(name, how).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        // A namespace that ends says so to the one who deletes it again.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(true),
        Err(error) => Err(error).with_context(|| format!("deleting {name}")),
    }
}

/// Takes our finalizers from an object; those of others stay.
async fn release(api: &Api<DynamicObject>, name: &str) -> Result<()> {
    loop {
        let Some(object) = api.get_opt(name).await.with_context(|| format!("reading {name}"))? else {
            return Ok(());
        };
        let (ours, others): (Vec<&String>, Vec<&String>) =
            object.finalizers().iter().partition(|finalizer| FINALIZERS.contains(&finalizer.as_str()));
        if ours.is_empty() {
            return Ok(());
        }
        // The version keeps what others write meanwhile.
        let metadata = json!({"finalizers": others, "resourceVersion": object.resource_version()});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match api.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("removing our finalizers of {name}")),
        }
    }
}

/// Returns when an object is gone.
async fn gone(api: &Api<DynamicObject>, name: &str) -> Result<()> {
    let look = async {
        loop {
            match api.get(name).await {
                Err(error) if is_missing(&error) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    match tokio::time::timeout(TIMEOUT, look).await {
        Ok(answer) => answer.with_context(|| format!("waiting for the end of {name}")),
        Err(_) => bail!(
            "{name} is still there after {} seconds: kubectl get -o yaml shows whose finalizer or pod it waits for",
            TIMEOUT.as_secs()
        ),
    }
}

/// Neither the object nor, perhaps, its kind is there.
fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_installation_has_its_path() {
        let options = cluster::Options { platform: cluster::Platform::Okd, ..cluster::Options::default() };
        let manifests = render::cluster(&options);
        let path = |kind: &str| {
            assert!(
                manifests.iter().any(|manifest| object::kind(manifest) == kind),
                "{kind} is not installed"
            );
            plural(kind)
        };
        assert_eq!(path("ClusterRole"), "clusterroles");
        assert_eq!(path("SecurityContextConstraints"), "securitycontextconstraints");
        assert_eq!(path("ValidatingAdmissionPolicy"), "validatingadmissionpolicies");
        assert_eq!(path("ValidatingAdmissionPolicyBinding"), "validatingadmissionpolicybindings");
    }
}
