//! What a launcher pod says of the configuration that it was made with.
//!
//! The configuration may be another one when its machine starts, or when a node's program takes the machine over. What the
//! pod fixes then comes from the pod; what it leaves open is as it is now.
//!
//! | input | asked for by | which one holds |
//! |---|---|---|
//! | profile | the order (what backs huge pages, who makes the TAPs); the node agent (queues that it opens) | the pod's: the capability NET_ADMIN, the hugetlbfs. A pod with neither has the same order in both |
//! | `useEmulation` | the order (accelerator) | the pod's: it asks for `devices.kubevirt.io/kvm` |
//! | whether images are mounted | the order (where their files come from) | the pod's: it has containers of images |
//! | mode of claims | the order (path, device or file) | the pod's: its devices. Of a claim it does not change either |
//! | launcher's image, `cpuAllocationRatio`, `memoryOvercommit`, `nodeSelectors`, `labelPods`, `volumeGroup`, `userNamespaces`, `launcherRights` | the rendering alone | the pod's: nobody asks for them again |
//! | size of claims | the order (what is made in an empty one) | now: it is the claim's |
//! | `podNetwork` | the node agent's rules | now: it is the node's, for all of its pods |
//! | what lies under the machines | the order | neither: the one that starts a program knows it |

use crate::{config::ClusterConfig, paths};
use ferrovirt_model::Profile;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeSet;

/// The device that a pod asks for whose guest is not emulated.
const KVM: &str = "devices.kubevirt.io/kvm";

/// The configuration in force, with what the pod fixes in its place.
pub fn config(pod: &Pod, now: &ClusterConfig) -> ClusterConfig {
    let Some(container) = compute(pod) else { return now.clone() };
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let emulated = limits.is_none_or(|limits| !limits.contains_key(KVM));
    let added =
        container.security_context.as_ref().and_then(|context| context.capabilities.as_ref()?.add.as_ref());
    let makes_taps = added.is_some_and(|names| names.iter().any(|name| name == "NET_ADMIN"));
    let mut mounts = container.volume_mounts.iter().flatten();
    let documented = makes_taps || mounts.any(|mount| mount.mount_path == paths::HUGE_PAGES);
    let profile = if documented { Profile::Documented } else { Profile::Minimal };
    // Those of images alone are ever there.
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let serves_images = containers.is_some_and(|containers| !containers.is_empty());
    ClusterConfig { profile, use_emulation: emulated, serves_images, ..now.clone() }
}

/// The claims that the pod has as devices.
pub fn block_claims(pod: &Pod) -> BTreeSet<String> {
    let devices = compute(pod).and_then(|container| container.volume_devices.as_ref());
    let names: BTreeSet<&str> = devices.into_iter().flatten().map(|device| device.name.as_str()).collect();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter(|volume| names.contains(volume.name.as_str()));
    claims.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

/// The launcher's container; those of images are init containers.
fn compute(pod: &Pod) -> Option<&Container> {
    pod.spec.as_ref()?.containers.first()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        render::order::{DiskFacts, NicFacts, NodeFacts, order},
        render::pod::pod_with_claims,
        samples,
    };
    use ferrovirt_api::kubevirt::VirtualMachineInstance;
    use ferrovirt_model::Machine;
    use ferrovirt_qemu::order::{Accelerator, Order};

    const PROFILES: [Profile; 2] = [Profile::Minimal, Profile::Documented];

    /// The order as a node makes it of a configuration.
    fn ordered(machine: &Machine, config: &ClusterConfig, block: BTreeSet<String>) -> Order {
        let accelerator = if config.use_emulation { Accelerator::Tcg } else { Accelerator::Kvm };
        let mut facts = NodeFacts::new(accelerator);
        facts.block_claims = block;
        for disk in &machine.disks {
            facts.disks.insert(disk.name.clone(), DiskFacts::default());
        }
        for nic in &machine.interfaces {
            let made = NicFacts {
                mac: "02:00:00:00:00:01".into(),
                lease: None,
                tap: "tap0".into(),
                bridge: "k6t-eth0".into(),
                mtu: 1500,
            };
            facts.nics.insert(nic.name.clone(), made);
        }
        order(machine, config, &facts).unwrap()
    }

    #[test]
    fn the_order_of_a_pod_is_that_of_the_configuration_that_it_was_made_with() {
        let block: BTreeSet<String> = ["block".to_owned()].into();
        let mut differ = 0;
        for machine in [samples::plain(), samples::full()] {
            for (profile, use_emulation) in PROFILES.into_iter().flat_map(|p| [(p, false), (p, true)]) {
                let then = ClusterConfig { profile, use_emulation, ..ClusterConfig::default() };
                let pod = pod_with_claims(&machine, &VirtualMachineInstance::default(), &then, &block);
                let right = ordered(&machine, &then, block.clone());
                for (profile, use_emulation) in PROFILES.into_iter().flat_map(|p| [(p, false), (p, true)]) {
                    let now = ClusterConfig { profile, use_emulation, ..ClusterConfig::default() };
                    let made = config(&pod, &now);
                    assert_eq!(ordered(&machine, &made, block_claims(&pod)), right, "{then:?}, now {now:?}");
                    differ += usize::from(ordered(&machine, &now, block.clone()) != right);
                }
            }
        }
        assert!(differ > 8, "the configurations make no difference: {differ}");
    }

    #[test]
    fn what_the_pod_leaves_open_is_as_it_is_now() {
        let now = ClusterConfig { memory_overcommit: 300, ..ClusterConfig::default() };
        let pod = pod_with_claims(
            &samples::plain(),
            &VirtualMachineInstance::default(),
            &ClusterConfig::default(),
            &BTreeSet::new(),
        );
        assert_eq!(config(&pod, &now), now);
        assert_eq!(config(&Pod::default(), &now), now);
        assert!(block_claims(&Pod::default()).is_empty());
    }
}
