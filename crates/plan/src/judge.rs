//! Checks of a rendered plan that do not know how it was made.

use ferrovirt_kubernetes::json;
use ferrovirt_privilege::{Right, VolumeSource};
use ferrovirt_qemu::order::{Backing, Mounted, Order, Prepare, Tap};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use std::{collections::BTreeSet, fmt};

use crate::{lift, paths};

/// An inconsistency of a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// The pod adds a capability that the SCC does not allow.
    CapabilityNotAllowed(String),
    /// The pod has a volume of a type that the SCC does not allow.
    VolumeNotAllowed(String),
    /// The pod has a hostPath volume and the SCC does not allow them.
    HostPathNotAllowed,
    /// The order opens a file outside of every mount and device of the pod.
    NotMounted(String),
    /// The launcher is to read a secret that is not mounted where the order says.
    SecretNotMounted(String),
    /// The order writes a file on a read-only mount or device.
    WriteOnReadOnly(String),
    /// The order wants an overlay for a disk and the pod has no scratch space for it.
    NoScratch {
        /// Name of the disk.
        disk: String,
    },
    /// The order wants the launcher to make a TAP and the pod lacks what that takes.
    CannotMakeTap {
        /// Interface.
        nic: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The order uses KVM and the pod has no /dev/kvm.
    NoKvmDevice,
    /// Guest memory is in huge pages and the pod does not ask for as many.
    HugePages {
        /// Bytes of the guest.
        guest: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CapabilityNotAllowed(name) => {
                write!(f, "the SCC does not allow the pod's capability {name}")
            }
            Self::VolumeNotAllowed(kind) => write!(f, "the SCC does not allow the pod's volume type {kind}"),
            Self::HostPathNotAllowed => f.write_str("the SCC does not allow the pod's hostPath volume"),
            Self::NotMounted(path) => write!(f, "QEMU is to open {path}, which is in no volume of the pod"),
            Self::SecretNotMounted(path) => {
                write!(f, "the launcher is to read a secret in {path}, where the pod has none")
            }
            Self::WriteOnReadOnly(path) => write!(f, "QEMU is to write {path}, which the pod has read-only"),
            Self::NoScratch { disk } => {
                write!(f, "disk {disk} gets an overlay and the pod has no scratch space for it")
            }
            Self::CannotMakeTap { nic, missing } => {
                write!(f, "the launcher is to make the TAP of interface {nic} and lacks {missing}")
            }
            Self::NoKvmDevice => f.write_str("QEMU is to use KVM and the pod has no /dev/kvm"),
            Self::HugePages { guest } => {
                write!(f, "the guest's {guest} bytes are in huge pages and the pod does not ask for as many")
            }
        }
    }
}

/// Everything that does not fit together between pod, order and the SCC that is to admit the pod.
pub fn judge(pod: &Pod, order: &Order, scc: &Value) -> BTreeSet<Finding> {
    let rights = lift::pod::lift(pod);
    let mut out = BTreeSet::new();
    against_scc(pod, &rights, scc, &mut out);
    files(&rights, order, &mut out);
    let scratch =
        rights.iter().any(|right| matches!(right, Right::Mount { path, .. } if path == paths::EPHEMERAL));
    for disk in order.disks.iter().filter(|disk| disk.overlay && !scratch) {
        out.insert(Finding::NoScratch { disk: disk.name.clone() });
    }
    for mounted in order.disks.iter().filter_map(|disk| disk.prepare.as_ref()).flat_map(secrets) {
        let there = |right: &Right<String>| matches!(right, Right::Mount { path, source: VolumeSource::Secret { .. }, .. } if *path == mounted.directory);
        if !rights.iter().any(there) {
            out.insert(Finding::SecretNotMounted(mounted.directory.clone()));
        }
    }
    for nic in &order.nics {
        if !matches!(nic.tap, Tap::Created { .. }) {
            continue;
        }
        let device =
            rights.iter().any(|right| matches!(right, Right::Device { path, .. } if path == "/dev/net/tun"));
        let capable = rights.contains(&Right::Capability("NET_ADMIN".to_owned()));
        for (present, missing) in [(device, "/dev/net/tun"), (capable, "NET_ADMIN")] {
            if !present {
                out.insert(Finding::CannotMakeTap { nic: nic.name.clone(), missing });
            }
        }
    }
    let kvm = rights.iter().any(|right| matches!(right, Right::Device { path, .. } if path == "/dev/kvm"));
    if order.accelerator == ferrovirt_qemu::order::Accelerator::Kvm && !kvm {
        out.insert(Finding::NoKvmDevice);
    }
    if order.memory.backing != Backing::Anonymous {
        let guest = order.memory.bytes;
        let asked = ferrovirt_model::Bytes(guest).to_string();
        let enough = rights.iter().any(|right| {
            matches!(right, Right::Resource { name, quantity } if name.starts_with("hugepages-") && *quantity == asked)
        });
        if !enough {
            out.insert(Finding::HugePages { guest });
        }
    }
    out
}

fn secrets(prepare: &Prepare) -> &[Mounted] {
    match prepare {
        Prepare::SeedOf { mounted, .. } => mounted,
        _ => &[],
    }
}

fn against_scc(pod: &Pod, rights: &BTreeSet<Right<String>>, scc: &Value, out: &mut BTreeSet<Finding>) {
    let lists =
        |field: &str, wanted: &str| json::texts(scc, field).any(|value| value == wanted || value == "*");
    for right in rights {
        if let Right::Capability(name) = right
            && !lists("allowedCapabilities", name)
        {
            out.insert(Finding::CapabilityNotAllowed(name.clone()));
        }
    }
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Ok(Value::Object(fields)) = serde_json::to_value(volume) else { continue };
        for kind in fields.keys().filter(|field| *field != "name") {
            if !lists("volumes", kind) {
                out.insert(Finding::VolumeNotAllowed(kind.clone()));
            }
        }
        if volume.host_path.is_some() && scc.get("allowHostDirVolumePlugin") != Some(&Value::Bool(true)) {
            out.insert(Finding::HostPathNotAllowed);
        }
    }
}

fn files(rights: &BTreeSet<Right<String>>, order: &Order, out: &mut BTreeSet<Finding>) {
    use ferrovirt_privilege::Access;
    // What a container gives out comes through a socket in the place of a mount.
    let sockets = |right: &Right<String>| matches!(right, Right::Mount { path, .. } if path == paths::IMAGES);
    let helper = |right: &Right<String>| matches!(right, Right::ImageHelper { .. });
    let served = rights.iter().any(sockets) && rights.iter().any(helper);
    let places: Vec<(String, Access)> = rights
        .iter()
        .filter_map(|right| match right {
            Right::Mount { path, access, .. } | Right::Device { path, access, .. } => {
                Some((path.clone(), *access))
            }
            Right::ImageServer { volume, .. } if served => {
                Some((format!("{}/{volume}", paths::IMAGES), Access::Read))
            }
            _ => None,
        })
        .collect();
    for right in lift::order::lift(order) {
        let Right::Open { path, access } = right else { continue };
        // The longest mount that the path is in decides.
        let place = places
            .iter()
            // A path that climbs is in no place.
            .filter(|_| !path.split('/').any(|part| part == ".."))
            .filter(|(place, _)| {
                path.strip_prefix(place.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .max_by_key(|(place, _)| place.len());
        // What a mount there would bring is not in the directory below it. Seeds and scratch disks are: the agent makes
        // them.
        let own = [format!("{}/vmi-disks/", paths::PRIVATE), format!("{}/", paths::IMAGES)];
        let needs_own = own.iter().any(|root| path.starts_with(root.as_str()));
        match place.filter(|(place, _)| !needs_own || *place == path) {
            None => {
                out.insert(Finding::NotMounted(path));
            }
            Some((_, Access::Read)) if access == Access::ReadWrite => {
                out.insert(Finding::WriteOnReadOnly(path));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ClusterConfig, render, render::order, samples};
    use ferrovirt_model::Profile;
    use ferrovirt_privilege::cluster_grants;
    use ferrovirt_qemu::order::{Accelerator, Tap};

    struct Plan {
        pod: Pod,
        order: Order,
        scc: Value,
    }

    fn good(profile: Profile) -> Plan {
        let config = ClusterConfig { profile, ..ClusterConfig::default() };
        let machine = samples::full();
        let mut facts = order::NodeFacts::new(Accelerator::Kvm);
        for interface in &machine.interfaces {
            let made = order::NicFacts {
                mac: "02:00:00:00:00:01".into(),
                lease: None,
                tap: "tap0".into(),
                bridge: "k6t-eth0".into(),
                mtu: 1500,
            };
            facts.nics.insert(interface.name.clone(), made);
        }
        facts.block_claims.insert("block".into());
        Plan {
            pod: render::pod_with_claims(&machine, &Default::default(), &config, &facts.block_claims),
            order: order::order(&machine, &config, &facts).unwrap(),
            scc: render::scc::controller(&cluster_grants(profile)),
        }
    }

    fn found(plan: &Plan) -> Vec<Finding> {
        judge(&plan.pod, &plan.order, &plan.scc).into_iter().collect()
    }

    #[test]
    fn rendered_plans_are_consistent() {
        assert_eq!(found(&good(Profile::Minimal)), []);
        assert_eq!(found(&good(Profile::Documented)), []);
    }

    #[test]
    fn one_break_is_one_finding() {
        let mut plan = good(Profile::Documented);
        plan.scc["allowedCapabilities"] = serde_json::json!(["NET_ADMIN", "NET_RAW"]);
        assert_eq!(found(&plan), [Finding::CapabilityNotAllowed("SYS_NICE".into())]);

        let mut plan = good(Profile::Minimal);
        plan.scc["allowHostDirVolumePlugin"] = serde_json::json!(false);
        assert_eq!(found(&plan), [Finding::HostPathNotAllowed]);

        let mut plan = good(Profile::Minimal);
        plan.scc["volumes"] = serde_json::json!(["emptyDir", "hostPath", "persistentVolumeClaim"]);
        assert_eq!(found(&plan), [Finding::VolumeNotAllowed("image".into())]);

        let mut plan = good(Profile::Minimal);
        plan.order.disks[1].path = "/etc/shadow".into();
        assert_eq!(found(&plan), [Finding::NotMounted("/etc/shadow".into())]);

        let mut plan = good(Profile::Minimal);
        plan.order.disks[1].path = "/var/run/kubevirt-private/vmi-disks/../../etc".into();
        assert_eq!(found(&plan), [Finding::NotMounted(plan.order.disks[1].path.clone())]);

        let mut plan = good(Profile::Minimal);
        plan.order.disks[0].overlay = false;
        let image = "/var/run/kubevirt-image-volume/d0".to_owned();
        assert_eq!(found(&plan), [Finding::WriteOnReadOnly(image)]);

        let mut plan = good(Profile::Minimal);
        plan.order.nics[0].tap = Tap::Created { interface: "t".into(), bridge: "b".into(), mtu: 1500 };
        let missing = |missing| Finding::CannotMakeTap { nic: "default".into(), missing };
        assert_eq!(found(&plan), [missing("/dev/net/tun"), missing("NET_ADMIN")]);

        let mut plan = good(Profile::Minimal);
        let spec = plan.pod.spec.as_mut().unwrap();
        spec.volumes.as_mut().unwrap().retain(|volume| volume.name != "ephemeral-disks");
        spec.containers[0].volume_mounts.as_mut().unwrap().retain(|mount| mount.name != "ephemeral-disks");
        let overlays = plan.order.disks.iter().filter(|disk| disk.overlay);
        let mut expected: Vec<_> =
            overlays.map(|disk| Finding::NoScratch { disk: disk.name.clone() }).collect();
        expected.insert(0, Finding::NotMounted("/var/run/kubevirt-ephemeral-disks/disk-data-d3.img".into()));
        assert_eq!(found(&plan), expected);

        let mut plan = good(Profile::Minimal);
        plan.order.memory.bytes *= 2;
        assert_eq!(found(&plan), [Finding::HugePages { guest: plan.order.memory.bytes }]);
    }
}
