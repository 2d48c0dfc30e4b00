//! From manifests to the pods that they imply.

use crate::explain::{of_instance, of_machine, refused};
use anyhow::{Context, Result, bail, ensure};
use ferrovirt_api::{config::ClusterDefaults, convert::machine, kubevirt::VirtualMachineInstance};
use ferrovirt_apiserver::admission::complete_pod;
use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_kubernetes::object::{self, kind};
use ferrovirt_model::Profile;
use ferrovirt_plan::{
    config::{ClusterConfig, LauncherRights},
    render,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// Most that is read of one input, in bytes.
const LIMIT: u64 = 64 << 20;

/// A pod that an object of the input implies, with what the API adds before SCCs are asked.
pub(super) struct Implied {
    /// `Kind name`.
    pub(super) object: String,
    pub(super) namespace: String,
    pub(super) pod: Value,
}

/// Every document of these files; lists are taken apart.
pub(super) fn documents(files: &[PathBuf]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file)?);
    }
    Ok(all)
}

fn read(file: &Path) -> Result<Vec<Value>> {
    let name = file.display().to_string();
    let mut text = String::new();
    if name == "-" {
        std::io::stdin().take(LIMIT).read_to_string(&mut text)?;
    } else {
        let opened = std::fs::File::open(file).with_context(|| name.clone())?;
        opened.take(LIMIT).read_to_string(&mut text).with_context(|| name.clone())?;
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(|| name.clone())?;
    let mut out = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        ensure!(document.is_object(), "{name}: a document is no object");
        match document.get("items") {
            Some(Value::Array(items)) if kind(&document).ends_with("List") => {
                out.extend(items.iter().cloned())
            }
            _ => out.push(document),
        }
    }
    Ok(out)
}

/// The pods that a file implies; objects that imply none are left out.
pub(super) fn implied(file: &Path, namespace: &str, profile: Profile) -> Result<Vec<Implied>> {
    let mut all = Vec::new();
    for document in read(file)? {
        let own = object::namespace(&document);
        let namespace = if own.is_empty() { namespace } else { own }.to_owned();
        let name = match (object::name(&document), text(&document, "/metadata/generateName")) {
            ("", "") => "without a name".to_owned(),
            ("", prefix) => format!("{prefix}..."),
            (name, _) => name.to_owned(),
        };
        let object = format!("{} {name}", kind(&document));
        let pod = pod(document, &namespace, profile).with_context(|| object.clone())?;
        all.extend(pod.map(|pod| Implied { object, namespace, pod }));
    }
    if all.is_empty() {
        bail!("no pod, workload or machine in {}", file.display());
    }
    Ok(all)
}

fn pod(document: Value, namespace: &str, profile: Profile) -> Result<Option<Value>> {
    let template = match kind(&document) {
        "Pod" => Some(""),
        "PodTemplate" => Some("/template"),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job"
        | "DeploymentConfig" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    };
    let Some(pointer) = template else { return launcher(document, namespace, profile) };
    let found = document.pointer(pointer).with_context(|| format!("{pointer} is missing"))?;
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": found.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "spec": found.get("spec").cloned().unwrap_or_default(),
    });
    claims(&document, &mut pod);
    let mut unknown = Vec::new();
    let typed: Pod = serde_ignored::deserialize(pod, |path| {
        // What may be absent stands in the path as a question mark.
        let path = path.to_string().replace(".?", "");
        unknown.push(format!("unknown field \"{path}\""));
    })?;
    ensure!(unknown.is_empty(), "{}", unknown.join(", "));
    let no_containers = typed.spec.as_ref().is_none_or(|spec| spec.containers.is_empty());
    ensure!(!no_containers, "{pointer}/spec/containers: a pod needs a container");
    let mut pod = serde_json::to_value(typed)?;
    complete_pod(&mut pod);
    Ok(Some(pod))
}

/// The pods of a StatefulSet have a volume for each of its claims.
fn claims(document: &Value, pod: &mut Value) {
    let claims = json::list(document, "/spec/volumeClaimTemplates");
    let names: Vec<&str> = claims.map(object::name).filter(|n| !n.is_empty()).collect();
    let Some(Value::Object(spec)) = pod.get_mut("spec").filter(|_| !names.is_empty()) else { return };
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Value::Array(volumes) = volumes {
        volumes.retain(|volume| !names.contains(&text(volume, "name")));
        volumes.extend(
            names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
        );
    }
}

/// The pod that the controller would make for a machine.
fn launcher(document: Value, namespace: &str, profile: Profile) -> Result<Option<Value>> {
    let mut config = ClusterDefaults::default();
    config.feature_gates.insert("HostDisk".to_owned());
    let mut instance: VirtualMachineInstance = match kind(&document) {
        "VirtualMachine" => of_machine(document, &config)?,
        "VirtualMachineInstance" => of_instance(document, &config)?,
        _ => return Ok(None),
    };
    instance.metadata.namespace = Some(namespace.to_owned());
    let machine = machine(&instance).map_err(|causes| refused(&causes))?;
    // The pod as it is, not bound to an SCC: which one it needs is the question.
    let launcher_rights = Some(LauncherRights::Controller);
    let config = ClusterConfig { profile, launcher_rights, ..ClusterConfig::default() };
    Ok(Some(serde_json::to_value(render::pod(&machine, &instance, &config))?))
}
