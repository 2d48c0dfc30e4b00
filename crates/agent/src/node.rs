//! The node itself: its object, what it has, and that it is alive.

use crate::{
    clock,
    config::PODS,
    disk,
    oci::bundle::DEVICES,
    pods::Shared,
    policy::{Installer, Report},
};
use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_model::{Bytes, Profile};
use ferrovirt_plan::{
    config::{ClusterConfig, KUBEVIRT, NAMESPACE},
    selinux::{NODE_LABEL, NodeState},
};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How often the lease is renewed, and the pod network looked at.
const BEAT: Duration = Duration::from_secs(10);
/// How often the node looks at what it has: whoever reserves huge pages waits for the scheduler to know.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_millis(500);
const LEASE_SECONDS: i32 = 40;
/// How many machines may use one device of the node at a time, as the device plug-ins upstream offer.
const DEVICE_COUNT: u32 = 1000;

/// Registers the node and keeps it alive for ever. `installer` installs the SELinux policy where it is to be.
pub async fn keep(shared: Arc<Shared>, installer: Option<Installer>) {
    let mut installer = installer;
    let name = shared.config.node.clone();
    let nodes: Api<Node> = Api::all(shared.node.client.0.clone());
    let leases: Api<Lease> = Api::namespaced(shared.node.client.0.clone(), "kube-node-lease");
    let mut reported = None;
    let mut beat: Option<Instant> = None;
    let mut profile = Profile::default();
    let mut network: Option<JoinHandle<()>> = None;
    let mut room = (0, 0);
    loop {
        let due = beat.is_none_or(|last| last.elapsed() >= BEAT);
        if due {
            let config = in_force(&shared).await;
            profile = config.as_ref().map_or(profile, |config| config.profile);
            // Beside the lease, and never two: nothing that nft does may make the node look lost.
            if network.as_ref().is_none_or(JoinHandle::is_finished) {
                let shared = shared.clone();
                network = Some(tokio::task::spawn_blocking(move || {
                    let policy = config.map(|config| config.pod_network);
                    if let Err(error) = shared.network.assert(policy.as_ref()) {
                        tracing::warn!("the pod network: {error}");
                    }
                }));
            }
        }
        let policy = {
            let (shared, mut own) = (shared.clone(), installer.take());
            let looked = tokio::task::spawn_blocking(move || {
                let mut report = shared.policy.look(profile);
                if let Some(installer) = &mut own {
                    installer.repair(&shared.selinux, profile, &report);
                    report = shared.policy.look(profile);
                }
                (report, own)
            });
            match looked.await {
                Ok((report, own)) => {
                    installer = own;
                    report
                }
                Err(error) => {
                    tracing::warn!("looking at the SELinux policy: {error}");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
        };
        room = self::room(&shared, room);
        let now = (capacity(shared.kvm, room), policy, shared.disk_pressure.load(Ordering::Relaxed));
        if !due && reported.as_ref() == Some(&now) {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let node = match register(&nodes, &name, shared.kvm, now.1.state).await {
            Ok(node) => node,
            Err(error) => {
                tracing::warn!("registering node {name}: {error}");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        shared.room.see(&node);
        // What changes is written when it changes; that the node is alive is the lease's to say.
        if reported.as_ref() != Some(&now) {
            let body = status(&name, &now.0, room.1, &now.1, now.2);
            match nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&body)).await {
                Ok(node) => {
                    shared.room.see(&node);
                    reported = Some(now);
                }
                Err(error) => {
                    tracing::warn!("writing the status of node {name}: {error}");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
        }
        if let Err(error) = renew(&leases, &name, &node).await {
            tracing::warn!("renewing the lease of node {name}: {error}");
        }
        beat = Some(Instant::now());
    }
}

/// The cluster's configuration; `None` when it cannot be read or acted on, so that the last one holds.
async fn in_force(shared: &Shared) -> Option<ClusterConfig> {
    let kubevirts: Api<KubeVirt> = Api::namespaced(shared.handler.client.0.clone(), NAMESPACE);
    let object = kubevirts.get_opt(KUBEVIRT).await.ok()?;
    let config = object.as_ref().map(ClusterConfig::from_kubevirt).transpose().ok()?;
    Some(config.unwrap_or_default())
}

async fn register(nodes: &Api<Node>, name: &str, kvm: bool, policy: NodeState) -> kube::Result<Node> {
    let metadata = json!({
        "labels": labels(name, kvm, policy),
        "annotations": {"kubevirt.io/heartbeat": clock::now()},
    });
    match nodes.patch(name, &PatchParams::default(), &Patch::Merge(&json!({"metadata": metadata}))).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let node = Node {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    labels: Some(labels(name, kvm, policy)),
                    annotations: Some(BTreeMap::from([("kubevirt.io/heartbeat".to_owned(), clock::now())])),
                    ..Default::default()
                },
                ..Default::default()
            };
            nodes.create(&PostParams::default(), &node).await
        }
        other => other,
    }
}

fn labels(name: &str, kvm: bool, policy: NodeState) -> BTreeMap<String, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        other => other,
    };
    let mut labels = BTreeMap::new();
    for (key, value) in [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/os", "linux"),
        ("kubevirt.io/schedulable", "true"),
        ("ferrovirt.io/kvm", if kvm { "true" } else { "false" }),
        (NODE_LABEL, policy.name()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// Bytes of the disk in all, and what of it must stay free.
fn room(shared: &Shared, before: (u64, u64)) -> (u64, u64) {
    let capacity = disk::free(&shared.config.data).map_or(0, |free| free.capacity);
    // Some file systems share their space with others and have another size at each look: what differs little is as before.
    if before.0 > 0 && capacity.abs_diff(before.0) <= before.0 / 100 {
        return before;
    }
    (capacity, shared.disk.thresholds.reserve(capacity))
}

/// What the node has.
fn capacity(kvm: bool, room: (u64, u64)) -> Value {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = BTreeMap::from([
        ("cpu".to_owned(), processors.to_string()),
        ("memory".to_owned(), memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())),
        ("pods".to_owned(), PODS.to_string()),
        ("ephemeral-storage".to_owned(), Bytes(room.0).to_string()),
    ]);
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB"));
        let size = size.and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
        let pages = fs::read_to_string(entry.path().join("nr_hugepages")).unwrap_or_default();
        let pages = pages.trim().parse::<u64>().unwrap_or_default();
        let name = format!("hugepages-{}", Bytes(size << 10));
        all.insert(name, Bytes((size << 10).saturating_mul(pages)).to_string());
    }
    for (resource, node) in DEVICES {
        let there = Path::new(node).exists() && (kvm || !resource.ends_with("/kvm"));
        all.insert(resource.to_owned(), if there { DEVICE_COUNT } else { 0 }.to_string());
    }
    json!(all)
}

/// Memory of the node as a quantity, by /proc/meminfo.
pub(crate) fn memory(meminfo: &str) -> String {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    format!("{}Ki", kib.unwrap_or_default())
}

fn status(name: &str, capacity: &Value, reserve: u64, policy: &Report, short: bool) -> Value {
    let mut allocatable = capacity.clone();
    if let Some(all) = allocatable.as_object_mut() {
        let whole = all.get("ephemeral-storage").and_then(Value::as_str).unwrap_or_default();
        let whole = Amount::parse(whole).and_then(Amount::bytes).unwrap_or_default();
        all.insert("ephemeral-storage".to_owned(), json!(Bytes(whole.saturating_sub(reserve)).to_string()));
    }
    let now = clock::now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    json!({"status": {
        "capacity": capacity,
        "allocatable": allocatable,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "memory is not short"),
            if short {
                condition("DiskPressure", "True", "KubeletHasDiskPressure", "disk space is short: free some on the node")
            } else {
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "disk space is not short")
            },
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "processes are not short"),
            condition("Ready", "True", "KubeletReady", "virt-handler is ready to run launcher pods"),
            condition(
                "SELinuxPolicy",
                if policy.state == NodeState::InForce { "True" } else { "False" },
                policy.state.reason(),
                &policy.message,
            ),
        ],
        "addresses": [{"type": "Hostname", "address": name}],
        "nodeInfo": {
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH },
            "bootID": fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim(),
            "containerRuntimeVersion": "crun://1",
            "kernelVersion": kernel.trim(),
            "kubeProxyVersion": "",
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-ferrovirt"),
            "machineID": fs::read_to_string("/etc/machine-id").unwrap_or_default().trim(),
            "operatingSystem": "linux",
            "osImage": system.trim_matches('"'),
            "systemUUID": "",
        },
    }})
}

async fn renew(leases: &Api<Lease>, name: &str, node: &Node) -> kube::Result<()> {
    let patch = json!({"spec": {"renewTime": clock::micro_time(), "holderIdentity": name}});
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    owner_references: Some(vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Node".to_owned(),
                        name: name.to_owned(),
                        uid: node.metadata.uid.clone().unwrap_or_default(),
                        ..Default::default()
                    }]),
                    ..Default::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(name.to_owned()),
                    lease_duration_seconds: Some(LEASE_SECONDS),
                    renew_time: Some(clock::micro_time()),
                    ..Default::default()
                }),
            };
            leases.create(&PostParams::default(), &lease).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        assert_eq!(memory("MemTotal:       24689552 kB\nMemFree: 1 kB\n"), "24689552Ki");
        assert_eq!(memory(""), "0Ki");
    }

    #[test]
    fn a_node_without_kvm_offers_none() {
        assert_eq!(capacity(false, (1, 0))["devices.kubevirt.io/kvm"], "0");
    }
}
