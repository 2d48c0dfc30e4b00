//! What the node found out about a machine, in the form that its order is rendered from.

use crate::network::{
    mac::MacAddress,
    pod::{BRIDGE, TAP, Wired},
};
use ferrovirt_api::kubevirt::VirtualMachineInstanceNetworkInterface;
use ferrovirt_model::{Bytes, Machine, PageSize};
use ferrovirt_plan::order::{DiskFacts, NicFacts, NodeFacts};
use ferrovirt_qemu::order::{Accelerator, Nic, Order};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Collects facts.
pub fn collect(
    machine: &Machine,
    kvm: bool,
    block_claims: BTreeSet<String>,
    disks: BTreeMap<String, DiskFacts>,
    wired: &[Wired],
) -> NodeFacts {
    let accelerator = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
    let nics = machine
        .interfaces
        .iter()
        .filter_map(|interface| {
            let wired = wired.iter().find(|wired| wired.nic == interface.name)?;
            let named = interface.mac.map(MacAddress).or(wired.mac);
            let mac = named.unwrap_or_else(|| derive_mac(&machine.uid, &interface.name));
            let facts = NicFacts {
                mac: mac.to_string(),
                lease: Some(wired.lease.clone()),
                tap: TAP.to_owned(),
                bridge: BRIDGE.to_owned(),
                mtu: wired.mtu,
            };
            Some((interface.name.clone(), facts))
        })
        .collect();
    NodeFacts { accelerator, block_claims, disks, nics }
}

/// Stable for the life of a machine, locally administered, unicast.
fn derive_mac(uid: &str, interface: &str) -> MacAddress {
    let hash = Sha256::digest(format!("{uid}/{interface}"));
    let mut mac = [0x02, 0, 0, 0, 0, 0];
    for (place, byte) in mac.iter_mut().skip(1).zip(hash) {
        *place = byte;
    }
    MacAddress(mac)
}

/// Huge pages of this size that nobody has taken or reserved; `None` when the kernel does not offer the size.
pub fn free_huge_pages(page_bytes: u64) -> Option<u64> {
    let directory = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes >> 10);
    let read = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("{directory}/{file}")).ok()?.trim().parse().ok()
    };
    Some(read("free_hugepages")?.saturating_sub(read("resv_hugepages")?))
}

/// What to say, and do, when huge pages for a guest are not there; `None` when they are.
pub fn missing_huge_pages(guest: Bytes, page: PageSize) -> Option<String> {
    let needed = page.pages(guest);
    let free = free_huge_pages(page.bytes()).unwrap_or_default();
    (free < needed).then(|| {
        format!(
            "the guest needs {needed} huge pages of {page}, {free} are free on this node: reserve more with \
             `echo N > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages` as root",
            page.bytes() >> 10
        )
    })
}

/// Interfaces as the machine's status shows them.
pub fn interfaces(order: &Order, wired: &[Wired]) -> Vec<VirtualMachineInstanceNetworkInterface> {
    let show = |nic: &Nic| {
        let ip = wired.iter().find(|wired| wired.nic == nic.name).map(|wired| wired.ip.to_string());
        VirtualMachineInstanceNetworkInterface {
            name: Some(nic.name.clone()),
            mac: Some(nic.mac.clone()),
            ip_addresses: ip.clone().into_iter().collect(),
            ip_address: ip,
            queue_count: i32::try_from(nic.queues).ok().filter(|_| nic.model == "virtio"),
            info_source: Some("domain".to_owned()),
            pod_interface_name: Some("eth0".to_owned()),
            ..Default::default()
        }
    };
    order.nics.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_are_stable_local_and_differ() {
        let mac = derive_mac("uid", "default");
        assert_eq!(mac, derive_mac("uid", "default"));
        assert_ne!(mac, derive_mac("other", "default"));
        assert_eq!(mac.0[0] & 0b11, 0b10);
    }
}
