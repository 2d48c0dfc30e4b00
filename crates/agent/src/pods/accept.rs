//! Which pods this node acts for: those that are what the controller makes of a machine, and no others.
//!
//! Asked before anything privileged is done: when a pod is started, at every connection of its launcher, and before
//! descriptors and an order are handed out. Each time the pod is read from the API server and not from the watch: a watch
//! may be behind by as much as somebody wants who changes the pod, and its objects have lost the fields that this program
//! does not know. A container is made of the very object that was accepted.

use super::{
    Shared,
    pipeline::{self, Failure},
    record::Record,
};
use crate::volumes::{self, Claim, Objects, disks};
use ferrovirt_api::{
    kubevirt::{KubeVirt, VirtualMachineInstance},
    rejection, segment,
};
use ferrovirt_kubernetes::{json, object::is_deleting};
use ferrovirt_model::Machine;
use ferrovirt_plan::{
    config::{ClusterConfig, KUBEVIRT, NAMESPACE},
    decide::{claim_names, is_final},
    launcher_pod::{Difference, Place, Step, candidates, differences, essence, sentence},
};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{Api, Resource, api::GetParams, core::Request};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};
use tokio::task::spawn_blocking;

/// Reason of conditions and events about a pod that the controller did not make, or that was changed.
pub(super) const NOT_AS_RENDERED: &str = "NotAsRendered";

/// A pod that is what the controller makes, its machine and what both name.
pub(super) struct Accepted {
    /// The pod as it was read for this.
    pub(super) pod: Arc<Pod>,
    /// What later looks compare it with.
    pub(super) essence: Value,
    pub(super) vmi: VirtualMachineInstance,
    pub(super) machine: Machine,
    pub(super) config: ClusterConfig,
    pub(super) objects: Objects,
}

/// What a later look found.
pub(super) enum Look {
    /// The pod is as it was accepted.
    Same {
        /// Its deletion was asked for.
        deleting: bool,
    },
    /// It is not; the sentence says which fields.
    Differs(String),
    /// Nobody knows now.
    Unknown(String),
}

async fn read<K>(shared: &Shared, namespace: Option<&str>, name: &str) -> kube::Result<Value>
where
    K: Resource<DynamicType = ()>,
{
    let request = Request::new(K::url_path(&(), namespace)).get(&segment(name), &GetParams::default());
    shared.node.client.0.request(request.map_err(kube::Error::BuildRequest)?).await
}

/// The pod as the API server has it, every field; the error is for a person.
async fn fresh(shared: &Shared, pod: &Pod) -> Result<Value, String> {
    let metadata = &pod.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let found = read::<Pod>(shared, metadata.namespace.as_deref(), name).await;
    let found = found.map_err(|error| format!("reading the pod: {error}"))?;
    if json::string(&found, "/metadata/uid") != metadata.uid.as_deref() {
        return Err("reading the pod: another one has its name".to_owned());
    }
    Ok(found)
}

/// Reads a pod and everything that decides what it should be, and compares.
pub(super) async fn accept(shared: &Arc<Shared>, pod: &Pod, step: Step) -> Result<Accepted, Failure> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let (name, uid) = pipeline::owner(pod).ok_or_else(|| {
        let message = "the pod is not the launcher pod of a VirtualMachineInstance: create a VirtualMachineInstance, \
                       and leave its pod to the controller";
        Failure::new("CreateContainerConfigError", message, false)
    })?;
    let machines: Api<VirtualMachineInstance> = Api::namespaced(shared.handler.client.0.clone(), &namespace);
    let kubevirts: Api<KubeVirt> = Api::namespaced(shared.handler.client.0.clone(), NAMESPACE);
    let encoded = segment(&name);
    let (actual, home, vmi, kubevirt) = tokio::join!(
        fresh(shared, pod),
        read::<Namespace>(shared, None, &namespace),
        machines.get(&encoded),
        kubevirts.get_opt(KUBEVIRT)
    );
    let actual = actual.map_err(Failure::node)?;
    let home = home.map_err(|error| Failure::node(format!("reading the namespace {namespace}: {error}")))?;
    let vmi =
        vmi.map_err(|error| Failure::node(format!("reading the machine {namespace}/{name}: {error}")))?;
    if vmi.metadata.uid.as_deref() != Some(&uid) {
        return Err(Failure::new("FailedStart", "the pod belongs to an earlier machine of this name", false));
    }
    if step == Step::Start {
        if is_deleting(&actual) {
            return Err(Failure::node("the pod is being deleted"));
        }
        if is_final(&vmi) {
            let message =
                "the VirtualMachineInstance of this pod has ended and is not started again: delete both";
            return Err(Failure::rejected("MachineEnded", message));
        }
    }
    let kubevirt =
        kubevirt.map_err(|error| Failure::node(format!("reading the KubeVirt object: {error}")))?;
    let config = match &kubevirt {
        Some(object) => ClusterConfig::from_kubevirt(object).map_err(Failure::node)?,
        None => ClusterConfig::default(),
    };
    let machine = ferrovirt_api::machine(&vmi)
        .map_err(|causes| Failure::new("CreateContainerConfigError", rejection(&causes), false))?;
    let mut objects = Objects::default();
    let block = claims(shared, &namespace, &vmi, &mut objects).await?;
    let knows = {
        let (shared, profile) = (shared.clone(), config.profile);
        // Blocks for a while after a policy was loaded.
        spawn_blocking(move || shared.policy.look(profile).state.knows_types())
            .await
            .map_err(Failure::node)?
    };
    let all = candidates(&vmi, &config, &block, knows)
        .map_err(|causes| Failure::new("CreateContainerConfigError", causes.join("; "), false))?;
    let place = Place { node: &shared.config.node, namespace: &home };
    let wrong: Vec<Vec<Difference>> =
        all.iter().map(|should| differences(&actual, should, &place, step)).collect();
    if let Some(least) = wrong.into_iter().min_by_key(Vec::len).filter(|least| !least.is_empty()) {
        return Err(Failure::rejected(NOT_AS_RENDERED, sentence(&least)));
    }
    let essence = essence(&actual);
    let pod = serde_json::from_value(actual)
        .map_err(|error| Failure::rejected(NOT_AS_RENDERED, format!("the pod cannot be read: {error}")))?;
    Ok(Accepted { pod: Arc::new(pod), essence, vmi, machine, config, objects })
}

/// Whether a pod that was accepted is still the same.
pub(super) async fn look(shared: &Arc<Shared>, pod: &Pod, record: &Record) -> Look {
    let Some(should) = &record.accepted else {
        // Started by an agent that kept nothing to compare with.
        return match accept(shared, pod, Step::Serve).await {
            Ok(accepted) => Look::Same { deleting: accepted.pod.metadata.deletion_timestamp.is_some() },
            Err(failure) if failure.rejected => Look::Differs(failure.message),
            Err(failure) => Look::Unknown(failure.message),
        };
    };
    match fresh(shared, pod).await {
        Ok(actual) => match compare(shared, &actual, should) {
            Some(text) => Look::Differs(text),
            None => Look::Same { deleting: is_deleting(&actual) },
        },
        Err(text) => Look::Unknown(text),
    }
}

/// What has changed since a pod was accepted, as a sentence.
pub(super) fn compare(shared: &Shared, actual: &Value, accepted: &Value) -> Option<String> {
    // What admission may add it has added before.
    let place = Place { node: &shared.config.node, namespace: &Value::Null };
    let found = differences(actual, accepted, &place, Step::Serve);
    (!found.is_empty()).then(|| sentence(&found))
}

fn failed(error: kube::Error) -> Failure {
    Failure::node(format!("reading what the machine names: {error}"))
}

/// Reads the machine's claims and their volumes as far as they exist; which of them are in block mode.
async fn claims(
    shared: &Shared,
    namespace: &str,
    vmi: &VirtualMachineInstance,
    objects: &mut Objects,
) -> Result<BTreeSet<String>, Failure> {
    let client = &shared.node.client.0;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let marks = shared.config.claims();
    let mut block = BTreeSet::new();
    for name in claim_names(&vmi.spec) {
        let Some(claim) = claims.get_opt(&segment(&name)).await.map_err(failed)? else { continue };
        let Some(spec) = &claim.spec else { continue };
        if spec.volume_mode.as_deref() == Some("Block") {
            block.insert(name.clone());
        }
        let Some(bound) = &spec.volume_name else { continue };
        let Some(volume) = volumes.get_opt(&segment(bound)).await.map_err(failed)? else { continue };
        objects.claims.extend(Claim::of(&claim, &volume, &marks).map(|claim| (name, claim)));
    }
    Ok(block)
}

/// Reads the secrets that the machine and its pod name, as far as they exist.
pub(super) async fn secrets(shared: &Shared, accepted: &mut Accepted) -> Result<(), Failure> {
    let namespace = accepted.pod.metadata.namespace.clone().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(shared.node.client.0.clone(), &namespace);
    let mut names = volumes::names(&accepted.pod).secrets;
    names.extend(disks::secrets(&accepted.machine));
    for name in names {
        let found = secrets.get_opt(&segment(&name)).await.map_err(failed)?;
        accepted.objects.secrets.extend(found.map(|secret| (name, secret)));
    }
    Ok(())
}
