//! What the node says of itself: what it has, that it is ready, that it is alive.

use crate::{devices::table::Count, disk};
use ferrovirt_kubernetes::quantity::Amount;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// Most pods of the node, as a kubelet's default.
pub const PODS: u32 = 110;
const LEASE_SECONDS: i32 = 40;

/// Space on the disk of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes of it that must stay free.
    pub reserve: u64,
}

impl Space {
    /// Looks at the file system of `directory`.
    #[must_use]
    pub fn look(self, directory: &Path, thresholds: disk::Thresholds) -> Self {
        let capacity = disk::free(directory).map_or(0, |free| free.capacity);
        // Some file systems share their space with others and have another size at each look: what differs little is as
        // before.
        if self.capacity > 0 && capacity.abs_diff(self.capacity) <= self.capacity / 100 {
            return self;
        }
        Self { capacity, reserve: thresholds.reserve(capacity) }
    }
}

/// What the node has, without the devices that others offer on it.
pub fn capacity(space: Space) -> BTreeMap<String, String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = BTreeMap::from([
        ("cpu".to_owned(), processors.to_string()),
        ("memory".to_owned(), memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())),
        ("pods".to_owned(), PODS.to_string()),
        ("ephemeral-storage".to_owned(), Amount::from_bytes(space.capacity).to_string()),
    ]);
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB"));
        let size = size.and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
        let pages = fs::read_to_string(entry.path().join("nr_hugepages")).unwrap_or_default();
        let pages = pages.trim().parse::<u64>().unwrap_or_default();
        let name = format!("hugepages-{}", Amount::from_bytes(size << 10));
        all.insert(name, Amount::from_bytes((size << 10).saturating_mul(pages)).to_string());
    }
    all
}

/// Memory of the node as a quantity, by /proc/meminfo.
pub(crate) fn memory(meminfo: &str) -> String {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    format!("{}Ki", kib.unwrap_or_default())
}

/// A condition of the node: type, status, reason and message.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    /// Its type.
    pub kind: &'a str,
    /// `True` or `False`.
    pub status: bool,
    /// Why, in one word.
    pub reason: &'a str,
    /// Why, for a person.
    pub message: &'a str,
}

/// What the node has for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Of the node itself.
    pub capacity: BTreeMap<String, String>,
    /// Space on its disk.
    pub space: Space,
    /// Of device plug-ins.
    pub devices: BTreeMap<String, Count>,
}

/// The status of the node `name`. `short`: of disk space. `more`: conditions beside a kubelet's own, of which `Ready` is
/// one that the caller says.
pub fn status(name: &str, resources: &Resources, short: bool, more: &[Condition<'_>]) -> Value {
    let Resources { mut capacity, space, devices } = resources.clone();
    let mut allocatable = capacity.clone();
    for (resource, count) in devices {
        capacity.insert(resource.clone(), count.capacity.to_string());
        allocatable.insert(resource, count.allocatable.to_string());
    }
    let left = space.capacity.saturating_sub(space.reserve);
    allocatable.insert("ephemeral-storage".to_owned(), Amount::from_bytes(left).to_string());
    let pressure = |kind, status, reason, message| Condition { kind, status, reason, message };
    let mut conditions = vec![
        pressure("MemoryPressure", false, "KubeletHasSufficientMemory", "memory is not short"),
        if short {
            let message = "disk space is short: free some on the node";
            pressure("DiskPressure", true, "KubeletHasDiskPressure", message)
        } else {
            pressure("DiskPressure", false, "KubeletHasNoDiskPressure", "disk space is not short")
        },
        pressure("PIDPressure", false, "KubeletHasSufficientPID", "processes are not short"),
    ];
    conditions.extend_from_slice(more);
    let now = now();
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|condition| {
            json!({"type": condition.kind, "status": if condition.status { "True" } else { "False" },
                "reason": condition.reason, "message": condition.message,
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        })
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    json!({"status": {
        "capacity": capacity,
        "allocatable": allocatable,
        "conditions": conditions,
        "addresses": [{"type": "Hostname", "address": name}],
        "nodeInfo": {
            "architecture": architecture(),
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

/// The labels that every node of Kubernetes has.
pub fn labels(name: &str) -> BTreeMap<String, String> {
    let all = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/os", "linux"),
    ];
    all.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// The architecture, in Go's word.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        other => other,
    }
}

/// Says that the node `name` is alive, as the lease that a kubelet keeps. `node` is its object.
///
/// # Errors
/// What the API server says.
pub async fn renew(leases: &Api<Lease>, name: &str, node: &Node) -> kube::Result<()> {
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"renewTime": now, "holderIdentity": name}});
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
                    renew_time: Some(now),
                    ..Default::default()
                }),
            };
            leases.create(&PostParams::default(), &lease).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}

/// Now, to the second.
fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
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
    fn what_must_stay_free_is_not_given_out() {
        let space = Space { capacity: 10 << 30, reserve: 1 << 30 };
        let devices = BTreeMap::from([("v.example/x".to_owned(), Count { capacity: 3, allocatable: 2 })]);
        let status = status("n", &Resources { capacity: capacity(space), space, devices }, true, &[]);
        assert_eq!(status["status"]["capacity"]["v.example/x"], "3");
        assert_eq!(status["status"]["allocatable"]["v.example/x"], "2");
        assert_eq!(status["status"]["capacity"]["ephemeral-storage"], "10Gi");
        assert_eq!(status["status"]["allocatable"]["ephemeral-storage"], "9Gi");
        assert_eq!(status["status"]["conditions"][1]["status"], "True");
    }

    #[test]
    fn a_size_that_differs_little_is_as_before() {
        let directory = tempfile::tempdir().unwrap();
        let seen = Space::default().look(directory.path(), disk::Thresholds::default());
        assert!(seen.capacity > 0);
        let near = Space { capacity: seen.capacity + seen.capacity / 200, reserve: 7 };
        assert_eq!(near.look(directory.path(), disk::Thresholds::default()), near);
        let far = Space { capacity: seen.capacity * 2, reserve: 7 };
        assert_eq!(far.look(directory.path(), disk::Thresholds::default()).reserve, 0);
    }
}
