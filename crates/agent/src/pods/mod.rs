//! The pods of this node: one task for each, from binding to the last trace.

mod accept;
mod begin;
mod direct;
mod end;
mod evict;
mod exit;
mod inbox;
mod manager;
mod pipeline;
mod record;
mod refresh;
mod report;
mod room;
mod status;
mod talk;
mod teardown;
mod worker;
mod writer;

pub use inbox::Refusal;
pub use manager::{Manager, Target};
pub use record::Record;
pub use room::Room;

use crate::{config::Config, events::Recorder, metrics::Metrics, policy::Watch};
use ferrovirt_node::{
    devices::Devices,
    disk,
    image::Store,
    network::Network,
    oci::{cgroup::Layout, crun::Crun, sources::Sources},
    selinux::Kernel,
};
use kube::Client;
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

/// What every pod's task shares.
#[derive(Debug)]
pub struct Shared {
    /// Paths and names.
    pub config: Config,
    /// The runtime.
    pub crun: Crun,
    /// The pod network.
    pub network: Network,
    /// The cgroup layout.
    pub cgroups: Layout,
    /// What is counted.
    pub metrics: Metrics,
    /// Images.
    pub images: Store,
    /// What pods may take of the disk.
    pub disk: disk::Policy,
    /// The node is short of disk space, or was so a short while ago.
    pub disk_pressure: AtomicBool,
    /// Read-only copies of what all pods share.
    pub sources: Sources,
    /// Devices of device plug-ins, and which pods have them.
    pub devices: Arc<Devices>,
    /// What the node has and which pods have it.
    pub room: Room,
    /// Guests run on KVM.
    pub kvm: bool,
    /// SELinux of the node.
    pub selinux: Kernel,
    /// The policy of launcher pods on it.
    pub policy: Watch,
    /// The API as the node.
    pub node: Api,
    /// The API as the handler of machines.
    pub handler: Api,
}

/// A client and its events.
#[derive(Debug)]
pub struct Api {
    /// The client.
    pub client: DebugClient,
    /// Events from this identity.
    pub events: Recorder,
}

/// A client that can be part of a debug print.
#[derive(Clone)]
pub struct DebugClient(pub Client);

impl std::fmt::Debug for DebugClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Shared {
    /// Directory of a pod.
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.config.pods().join(uid)
    }

    /// File of a pod's network namespace.
    pub fn netns(&self, uid: &str) -> PathBuf {
        self.config.netns().join(uid)
    }
}
