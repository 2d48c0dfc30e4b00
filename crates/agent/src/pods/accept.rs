//! Whether a pod of this node is what the controller makes of a machine: asked when it is started, at every connection of its
//! launcher, and before descriptors and an order are handed out. A container is made of the very object that was accepted.

use super::{
    Shared,
    pipeline::{Failure, has_place},
    record::Record,
};
use crate::machine::disks;
pub(super) use ferrovirt_handler::machine::accept::owner;
use ferrovirt_handler::machine::accept::{self, Asked, Lasts, Owner, Reader, Refusal, stranger};
use ferrovirt_kubernetes::{object::is_deleting, segment::segment};
use ferrovirt_model::Machine;
use ferrovirt_node::volumes::{self, Claim, Objects};
use ferrovirt_plan::{
    config::{ClusterConfig, World},
    decide::accept::Step,
};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Secret};
use kube::Api;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::task::spawn_blocking;

/// A pod that is what the controller makes, its machine and what both name.
pub(super) struct Accepted {
    /// The pod as it was read for this.
    pub(super) pod: Arc<Pod>,
    /// What later looks compare it with.
    pub(super) essence: Value,
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

impl From<Refusal> for Failure {
    fn from(Refusal { reason, message, lasts }: Refusal) -> Self {
        Self { reason, message, may_pass: lasts == Lasts::Now, rejected: lasts == Lasts::Ever }
    }
}

/// `place`: the pod that is asked about has one. It is compared with what is made of its machine where launchers have places,
/// as on a cluster; a pod without one with what is made where they have none.
fn reader(shared: &Shared, place: bool) -> Reader {
    let world = if place { World::Cluster } else { World::Machine };
    Reader {
        pods: shared.node.client.0.clone(),
        machines: shared.handler.client.0.clone(),
        node: shared.config.node.clone(),
        defaults: ClusterConfig { world, ..ClusterConfig::default() },
    }
}

fn asked<'a>(pod: &'a Pod, owner: Option<&'a Owner>) -> Asked<'a> {
    let metadata = &pod.metadata;
    Asked {
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        name: metadata.name.as_deref().unwrap_or_default(),
        uid: Some(metadata.uid.as_deref().unwrap_or_default()),
        owner,
    }
}

/// Reads a pod and everything that decides what it should be, and compares.
pub(super) async fn accept(shared: &Arc<Shared>, pod: &Pod, step: Step) -> Result<Accepted, Failure> {
    let owner = owner(&pod.metadata).ok_or_else(stranger)?;
    let asked = asked(pod, Some(&owner));
    let knows = |profile| {
        let shared = shared.clone();
        async move {
            // Blocks for a while after a policy was loaded.
            let look = spawn_blocking(move || shared.policy.look(profile).state.knows_types());
            look.await.map_err(|error| error.to_string())
        }
    };
    let accepted = reader(shared, has_place(pod)).accept(&asked, step, knows).await?;
    let accept::Accepted { pod, essence, machine, config, claims, .. } = accepted;
    let mut objects = Objects::default();
    let volumes: Api<PersistentVolume> = Api::all(shared.node.client.0.clone());
    let marks = shared.config.claims();
    for claim in &claims {
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
        let (Some(bound), Some(name)) = (bound, &claim.metadata.name) else { continue };
        let Some(volume) = volumes.get_opt(&segment(bound)).await.map_err(failed)? else { continue };
        objects.claims.extend(Claim::of(claim, &volume, &marks).map(|claim| (name.clone(), claim)));
    }
    Ok(Accepted { pod, essence, machine, config, objects })
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
    match reader(shared, has_place(pod)).fresh(&asked(pod, None)).await {
        Ok(actual) => match compare(shared, &actual, should) {
            Some(text) => Look::Differs(text),
            None => Look::Same { deleting: is_deleting(&actual) },
        },
        Err(text) => Look::Unknown(text),
    }
}

/// What has changed since a pod was accepted, as a sentence.
pub(super) fn compare(shared: &Shared, actual: &Value, accepted: &Value) -> Option<String> {
    reader(shared, false).changes(actual, accepted)
}

fn failed(error: kube::Error) -> Failure {
    Failure::node(format!("reading what the machine names: {error}"))
}

/// Reads the secrets that the machine and its pod name, as far as they exist.
pub(super) async fn secrets(shared: &Shared, accepted: &mut Accepted) -> Result<(), Failure> {
    let namespace = accepted.pod.metadata.namespace.clone().unwrap_or_default();
    let mut names = volumes::names(&accepted.pod).secrets;
    if !has_place(&accepted.pod) {
        names.extend(disks::secrets(&accepted.machine));
    }
    accepted.objects.secrets = read_secrets(shared, &namespace, names).await?;
    Ok(())
}

/// Reads secrets, as far as they exist.
pub(super) async fn read_secrets(
    shared: &Shared,
    namespace: &str,
    names: BTreeSet<String>,
) -> Result<BTreeMap<String, Secret>, Failure> {
    let secrets: Api<Secret> = Api::namespaced(shared.node.client.0.clone(), namespace);
    let mut all = BTreeMap::new();
    for name in names {
        let found = secrets.get_opt(&segment(&name)).await.map_err(failed)?;
        all.extend(found.map(|secret| (name, secret)));
    }
    Ok(all)
}
