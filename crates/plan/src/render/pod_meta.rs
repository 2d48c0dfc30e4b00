//! Name, labels and annotations of a launcher pod.

use super::scc;
use crate::{
    config::{ClusterConfig, LauncherRights},
    scc::rights,
    user_namespace,
};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_model::{Bytes, Machine};
use ferrovirt_privilege::Surroundings;
use ferrovirt_scc::REQUIRED_SCC;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// Longest value of a label.
const LABEL: usize = 63;
/// Longest name of an object.
const NAME: usize = 253;

/// Annotations that ask a node or an admission plug-in for privileges. They are not passed on from a machine: what
/// its pod may do is decided by the table alone.
pub(crate) const KEPT_BACK: [&str; 9] = [
    "kubectl.kubernetes.io/",
    "ferrovirt.io/",
    "openshift.io/",
    "security.openshift.io/",
    "container.apparmor.security.beta.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "io.kubernetes.cri",
    "run.oci.",
];
/// Labels that launcher pods are found by, whatever else their machines are labelled with.
pub const LABELS: [&str; 4] =
    ["kubevirt.io", "kubevirt.io/created-by", "vm.kubevirt.io/name", "vmi.kubevirt.io/id"];
/// Marks of the API's own versions, which say nothing about a pod.
const VERSION_MARKS: [&str; 2] =
    ["kubevirt.io/storage-observed-api-version", "kubevirt.io/latest-observed-api-version"];

/// The name of the machine's pod: the same for the same instance, so that a second pod cannot exist, and another
/// one for the next instance of the same name.
pub fn pod_name(machine_name: &str, uid: &str) -> String {
    let hash = short_hash(uid);
    let room = NAME - "virt-launcher-".len() - 1 - hash.len();
    let name = machine_name.get(..room).unwrap_or(machine_name).trim_end_matches(['-', '.']);
    format!("virt-launcher-{name}-{hash}")
}

/// Host name of guest and pod: the given one, or the machine's name up to its first dot, as upstream.
pub(super) fn hostname(machine: &Machine) -> String {
    let name = machine.scheduling.hostname.as_deref().unwrap_or(&machine.name);
    let first = name.split('.').next().unwrap_or_default();
    first.get(..LABEL).unwrap_or(first).trim_end_matches('-').to_owned()
}

pub(super) fn metadata(
    machine: &Machine,
    owner: &VirtualMachineInstance,
    overhead: Bytes,
    config: &ClusterConfig,
    surroundings: &Surroundings,
) -> ObjectMeta {
    let uid = owner.metadata.uid.clone().unwrap_or_default();
    let mut labels = owner.metadata.labels.clone().unwrap_or_default();
    let own = ["virt-launcher".to_owned(), uid.clone(), hostname(machine), label_value(&machine.name)];
    labels.extend(LABELS.map(str::to_owned).into_iter().zip(own));
    let mut annotations: BTreeMap<_, _> = owner
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !KEPT_BACK.iter().any(|prefix| key.starts_with(prefix)))
        .filter(|(key, _)| !VERSION_MARKS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    annotations.extend(
        [
            ("kubevirt.io/domain", machine.name.clone()),
            ("kubevirt.io/memory-overhead-bytes", overhead.0.to_string()),
            ("kubectl.kubernetes.io/default-container", "compute".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    // The controller may use more than the requester: the pod is bound to what was found for the machine.
    if config.rights() == LauncherRights::Requester {
        let bound = match rights::pod_scc(owner.metadata.annotations.as_ref()) {
            // The same, and a label of the machine's own.
            rights::EVERYBODYS if surroundings.label.is_some() => scc::MACHINE,
            other => other,
        };
        annotations.insert(REQUIRED_SCC.to_owned(), bound.to_owned());
    }
    // Another constraint would give it a user of the namespace's range, which is none of a user namespace.
    if surroundings.user_namespace {
        annotations.insert(REQUIRED_SCC.to_owned(), user_namespace::CONSTRAINT.to_owned());
    }
    let owner_reference = OwnerReference {
        api_version: "kubevirt.io/v1".to_owned(),
        kind: "VirtualMachineInstance".to_owned(),
        name: machine.name.clone(),
        uid: uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ObjectMeta {
        name: Some(pod_name(&machine.name, &uid)),
        namespace: Some(machine.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations),
        // A machine that was read from a file has no instance that could own the pod.
        owner_references: (!uid.is_empty()).then(|| vec![owner_reference]),
        ..Default::default()
    }
}

/// A label, also the value of one, for a name: itself, or cut and made distinct by a hash.
pub(super) fn label_value(name: &str) -> String {
    if name.len() <= LABEL {
        return name.to_owned();
    }
    let hash = short_hash(name);
    let start = name.get(..LABEL - 1 - hash.len()).unwrap_or_default();
    format!("{}-{hash}", start.trim_end_matches(['-', '.']))
}

/// Five characters of the alphabet that names made by Kubernetes use, out of FNV-1a: names must differ between
/// instances, nobody gains by making two alike.
fn short_hash(text: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The low bits of FNV are its weak ones.
    hash ^= hash >> 32;
    let mut out = String::new();
    for _ in 0..5 {
        let index = usize::try_from(hash % 27).unwrap_or_default();
        out.extend(ALPHABET.get(index).copied().map(char::from));
        hash /= 27;
    }
    out
}
