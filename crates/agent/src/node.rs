//! The node itself: its object, what it has, and that it is alive.

use crate::{
    clock,
    container::devices::DEVICES,
    pods::Shared,
    policy::{Installer, Report},
};
use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_model::Profile;
use ferrovirt_node::{
    network,
    status::{self, Condition, Resources, Space},
};
use ferrovirt_plan::{
    config::pod_network::{Isolation, PodNetwork},
    config::{ClusterConfig, KUBEVIRT, NAMESPACE},
    selinux::{NODE_LABEL, NodeState},
};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How often the lease is renewed, and the pod network looked at.
const BEAT: Duration = Duration::from_secs(10);
/// How often the node looks at what it has: anybody who reserves huge pages waits for the scheduler to know.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_millis(500);
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
    let mut space = Space::default();
    let mut early: Option<Instant> = None;
    loop {
        let due = beat.is_none_or(|last| last.elapsed() >= BEAT);
        if due {
            let config = in_force(&shared).await;
            profile = config.as_ref().map_or(profile, |config| config.profile);
            // Beside the lease, and never two: nothing that nft does may make the node look lost.
            if network.as_ref().is_none_or(JoinHandle::is_finished) {
                let shared = shared.clone();
                network = Some(tokio::task::spawn_blocking(move || {
                    let policy = config.map(|config| policy_of(&config.pod_network));
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
        space = space.look(&shared.config.data, shared.disk.thresholds);
        let resources =
            Resources { capacity: capacity(shared.kvm, space), space, devices: shared.devices.counts() };
        let now = (resources, policy, shared.disk_pressure.load(Ordering::Relaxed));
        if !due && reported.as_ref() == Some(&now) {
            // Machines may wait for devices that have just come. One that comes and goes without end is seen once in a while.
            let may = early.is_none_or(|last| last.elapsed() >= LOOK);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shared.devices.changed(), if may => early = Some(Instant::now()),
            }
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
            let body = status::status(&name, &now.0, now.2, &conditions(&now.1));
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
        if let Err(error) = status::renew(&leases, &name, &node).await {
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

/// The configuration's rules of the pod network, as the network takes them.
pub(crate) fn policy_of(given: &PodNetwork) -> network::Policy {
    network::Policy {
        isolation: match given.isolation {
            Isolation::Namespace => network::Isolation::Namespace,
            Isolation::None => network::Isolation::None,
        },
        tcp: given.tcp.clone(),
        udp: given.udp.clone(),
    }
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
    let mut labels = status::labels(name);
    for (key, value) in [
        ("kubevirt.io/schedulable", "true"),
        ("ferrovirt.io/kvm", if kvm { "true" } else { "false" }),
        (NODE_LABEL, policy.name()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// What the node has: a kubelet's own, and the devices of the node that machines use.
fn capacity(kvm: bool, space: Space) -> BTreeMap<String, String> {
    let mut all = status::capacity(space);
    for (resource, node) in DEVICES {
        let there = Path::new(node).exists() && (kvm || !resource.ends_with("/kvm"));
        all.insert(resource.to_owned(), if there { DEVICE_COUNT } else { 0 }.to_string());
    }
    all
}

/// The conditions of the node that are not a kubelet's own.
fn conditions(policy: &Report) -> [Condition<'_>; 2] {
    [
        Condition {
            kind: "Ready",
            status: true,
            reason: "KubeletReady",
            message: "virt-handler is ready to run launcher pods",
        },
        Condition {
            kind: "SELinuxPolicy",
            status: policy.state == NodeState::InForce,
            reason: policy.state.reason(),
            message: &policy.message,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_kvm_offers_none() {
        assert_eq!(capacity(false, Space::default())["devices.kubevirt.io/kvm"], "0");
    }
}
