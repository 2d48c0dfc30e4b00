//! For which pods a node does anything: those that are what the controller has made of a machine, and no others.
//!
//! The controller records what it has made. Where there is no record of a pod, it is compared with what is rendered now.
//!
//! Asked before anything privileged is done, and again whenever a pod may have changed. Each time the pod is read from the
//! API server and not from a watch: a watch may be behind by as much as somebody wants who changes the pod, and its objects
//! have lost the fields that this program does not know.

use ferrovirt_api::{
    kubevirt::{KubeVirt, VirtualMachineInstance},
    rejection,
};
use ferrovirt_kubernetes::{json, object::is_deleting, segment::segment};
use ferrovirt_model::{Machine, Profile};
pub use ferrovirt_plan::decide::place::NOT_AS_RENDERED;
use ferrovirt_plan::{
    config::{ClusterConfig, KUBEVIRT, NAMESPACE},
    decide::accept::{
        Place, Standing, Step, candidates, differences, essence, least, record_of, refusal, sentence,
        standing,
    },
    decide::{claim_names, is_final},
    lift::made,
    render::pod::pod_name,
};
use k8s_openapi::{
    api::core::v1::{Namespace, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Resource, api::GetParams, core::Request};
use serde_json::Value;
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Why nothing is done for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason that people are shown, in CamelCase.
    pub reason: &'static str,
    /// What to do about it.
    pub message: String,
    /// Whether that can change.
    pub lasts: Lasts,
}

/// For how long a pod is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// Another look may find something else.
    Now,
    /// Until there is another pod.
    ThisPod,
    /// And nobody may do anything for this one.
    Ever,
}

impl Refusal {
    fn new(reason: &'static str, message: impl ToString, lasts: Lasts) -> Self {
        Self { reason, message: message.to_string(), lasts }
    }

    fn now(message: impl ToString) -> Self {
        Self::new("FailedStart", message, Lasts::Now)
    }
}

/// The machine that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The instance's name; its namespace is the pod's.
    pub name: String,
    /// The instance's UID.
    pub uid: String,
}

/// The instance that a pod belongs to. Anybody can write an owner into a pod; only the pod that the controller makes has
/// the instance's one name, so that no second launcher gets its disks, console and status.
pub fn owner(pod: &ObjectMeta) -> Option<Owner> {
    let owner = pod.owner_references.as_ref()?.iter().find(|owner| {
        owner.kind == "VirtualMachineInstance"
            && owner.api_version.starts_with("kubevirt.io/")
            && owner.controller == Some(true)
    })?;
    let name = pod_name(&owner.name, &owner.uid);
    (pod.name.as_ref() == Some(&name)).then(|| Owner { name: owner.name.clone(), uid: owner.uid.clone() })
}

/// A pod that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID, where it is known already.
    pub uid: Option<&'a str>,
    /// Its owner, where a watch has shown it: what the machine is is read at the same time as the pod then.
    pub owner: Option<&'a Owner>,
}

/// A pod that is what the controller makes, its machine and what both name.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The pod as it was read for this.
    pub pod: Arc<Pod>,
    /// What later looks compare it with.
    pub essence: Value,
    /// The machine.
    pub vmi: VirtualMachineInstance,
    /// The same, validated.
    pub machine: Machine,
    /// The configuration in force, with what the pod fixes in its place.
    pub config: ClusterConfig,
    /// The machine's claims, as far as they exist.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Those that the pod has as devices.
    pub block: BTreeSet<String>,
}

/// Reads pods and what decides about them.
#[derive(Clone)]
pub struct Reader {
    /// For pods, namespaces and claims.
    pub pods: Client,
    /// For machines and the configuration.
    pub machines: Client,
    /// The node that asks.
    pub node: String,
    /// The configuration that holds without a KubeVirt object.
    pub defaults: ClusterConfig,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads a pod and everything that decides what it should be, and compares: it is what the controller has recorded, or
    /// what it makes now. `knows` says for a profile whether this node's SELinux policy has the types of launcher pods.
    ///
    /// # Errors
    /// Why nothing may be done for the pod.
    pub async fn accept<F>(
        &self,
        asked: &Asked<'_>,
        step: Step,
        knows: impl FnOnce(Profile) -> F,
    ) -> Result<Accepted, Refusal>
    where
        F: Future<Output = Result<bool, String>>,
    {
        let actual = async { self.fresh(asked).await.map_err(Refusal::now) };
        let (actual, owner, rest) = match asked.owner {
            Some(owner) => {
                let (actual, rest) = tokio::join!(actual, self.surroundings(asked.namespace, owner));
                (actual?, owner.clone(), rest)
            }
            None => {
                let actual = actual.await?;
                let owner = metadata(&actual).as_ref().and_then(owner).ok_or_else(stranger)?;
                let rest = self.surroundings(asked.namespace, &owner).await;
                (actual, owner, rest)
            }
        };
        let (home, vmi, config) = rest?;
        if vmi.metadata.uid.as_deref() != Some(&owner.uid) {
            let message = "the pod belongs to an earlier machine of this name";
            return Err(Refusal::new("FailedStart", message, Lasts::ThisPod));
        }
        if step == Step::Start {
            if is_deleting(&actual) {
                return Err(Refusal::now("the pod is being deleted"));
            }
            if is_final(&vmi) {
                let message =
                    "the VirtualMachineInstance of this pod has ended and is not started again: delete both";
                return Err(Refusal::new("MachineEnded", message, Lasts::Ever));
            }
        }
        let invalid = |message| Refusal::new("CreateContainerConfigError", message, Lasts::ThisPod);
        let machine = ferrovirt_api::machine(&vmi).map_err(|causes| invalid(rejection(&causes)))?;
        let (claims, block) = self.claims(asked.namespace, &vmi).await.map_err(Refusal::now)?;
        let place = Place { node: &self.node, namespace: &home };
        let standing = standing(&actual, record_of(&vmi), &place, step);
        let wrong = match &standing {
            Standing::Recorded(wrong) => wrong.clone(),
            _ => {
                let knows = knows(config.profile).await.map_err(Refusal::now)?;
                let all =
                    candidates(&vmi, &config, &block, knows).map_err(|causes| invalid(causes.join("; ")))?;
                least(&actual, &all, &place, step)
            }
        };
        let differs = |message| Refusal::new(NOT_AS_RENDERED, message, Lasts::Ever);
        if !wrong.is_empty() {
            return Err(differs(refusal(&wrong, &standing)));
        }
        let essence = essence(&actual);
        let pod: Pod = serde_json::from_value(actual)
            .map_err(|error| differs(format!("the pod cannot be read: {error}")))?;
        let (config, block) = (made::config(&pod, &config), made::block_claims(&pod));
        Ok(Accepted { pod: Arc::new(pod), essence, vmi, machine, config, claims, block })
    }

    /// The pod as the API server has it, every field.
    ///
    /// # Errors
    /// For a person.
    pub async fn fresh(&self, asked: &Asked<'_>) -> Result<Value, String> {
        let found = self.read::<Pod>(Some(asked.namespace), asked.name).await;
        let found = found.map_err(|error| format!("reading the pod: {error}"))?;
        let uid = json::string(&found, "/metadata/uid");
        if asked.uid.is_some_and(|wanted| uid != Some(wanted)) {
            return Err("reading the pod: another one has its name".to_owned());
        }
        Ok(found)
    }

    /// What has changed since a pod was accepted, as a sentence.
    pub fn changes(&self, actual: &Value, accepted: &Value) -> Option<String> {
        // What admission may add it has added before.
        let place = Place { node: &self.node, namespace: &Value::Null };
        let found = differences(actual, accepted, &place, Step::Serve);
        (!found.is_empty()).then(|| sentence(&found))
    }

    async fn read<K>(&self, namespace: Option<&str>, name: &str) -> kube::Result<Value>
    where
        K: Resource<DynamicType = ()>,
    {
        let request = Request::new(K::url_path(&(), namespace)).get(&segment(name), &GetParams::default());
        self.pods.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    /// What decides about a pod beside the pod: its namespace, its machine, the configuration.
    async fn surroundings(
        &self,
        namespace: &str,
        owner: &Owner,
    ) -> Result<(Value, VirtualMachineInstance, ClusterConfig), Refusal> {
        let name = &owner.name;
        let machines: Api<VirtualMachineInstance> = Api::namespaced(self.machines.clone(), namespace);
        let kubevirts: Api<KubeVirt> = Api::namespaced(self.machines.clone(), NAMESPACE);
        let encoded = segment(name);
        let (home, vmi, kubevirt) = tokio::join!(
            self.read::<Namespace>(None, namespace),
            machines.get(&encoded),
            kubevirts.get_opt(KUBEVIRT)
        );
        let failed =
            |what: String| move |error: kube::Error| Refusal::now(format!("reading {what}: {error}"));
        let home = home.map_err(failed(format!("the namespace {namespace}")))?;
        let vmi = vmi.map_err(failed(format!("the machine {namespace}/{name}")))?;
        let kubevirt = kubevirt.map_err(failed("the KubeVirt object".to_owned()))?;
        let config = ClusterConfig::in_force(kubevirt.as_ref(), &self.defaults).map_err(Refusal::now)?;
        Ok((home, vmi, config))
    }

    /// The machine's claims, and which of them are in block mode.
    async fn claims(
        &self,
        namespace: &str,
        vmi: &VirtualMachineInstance,
    ) -> Result<(Vec<PersistentVolumeClaim>, BTreeSet<String>), String> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.pods.clone(), namespace);
        let (mut claims, mut block) = (Vec::new(), BTreeSet::new());
        for name in claim_names(&vmi.spec) {
            let found = api.get_opt(&segment(&name)).await;
            let found = found.map_err(|error| format!("reading what the machine names: {error}"))?;
            let Some(claim) = found else { continue };
            let mode = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
            if mode == Some("Block") {
                block.insert(name);
            }
            claims.push(claim);
        }
        Ok((claims, block))
    }
}

fn metadata(pod: &Value) -> Option<ObjectMeta> {
    serde_json::from_value(pod.get("metadata")?.clone()).ok()
}

/// The refusal of a pod that belongs to no machine.
pub fn stranger() -> Refusal {
    let message = "the pod is not the launcher pod of a VirtualMachineInstance: create a VirtualMachineInstance, and leave \
                   its pod to the controller";
    Refusal::new("CreateContainerConfigError", message, Lasts::ThisPod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_one_pod_of_an_instance_belongs_to_it() {
        let good = json!({
            "name": pod_name("m", "u"),
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "m",
                "uid": "u", "controller": true}],
        });
        let of = |path: &str, value: Value| {
            let mut changed = good.clone();
            if let Some(place) = changed.pointer_mut(path) {
                *place = value;
            }
            owner(&metadata(&json!({"metadata": changed})).unwrap())
        };
        assert_eq!(of("/none", json!(null)), Some(Owner { name: "m".to_owned(), uid: "u".to_owned() }));
        for (path, value) in [
            ("/name", json!("another")),
            ("/ownerReferences/0/uid", json!("v")),
            ("/ownerReferences/0/name", json!("n")),
            ("/ownerReferences/0/kind", json!("VirtualMachine")),
            ("/ownerReferences/0/apiVersion", json!("example.com/v1")),
            ("/ownerReferences/0/controller", json!(false)),
        ] {
            assert_eq!(of(path, value), None, "{path}");
        }
    }
}
