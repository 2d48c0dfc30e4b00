//! What the node found out about a machine, in the form that its order is rendered from.

use crate::net::{
    pod::{BRIDGE, GATEWAY, GUEST, LINK_LOCAL, TAP},
    rules,
};
use ferrovirt_api::kubevirt::VirtualMachineInstanceNetworkInterface;
use ferrovirt_model::{
    Machine,
    machine::{Binding, Interface, Port, Protocol as Transport},
};
use ferrovirt_netlink::mac::MacAddress;
use ferrovirt_plan::render::order::{DiskFacts, NicFacts, NodeFacts};
use ferrovirt_qemu::order::{Accelerator, Lease, Nic, Order};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What the guest of one interface needs to know, and the launcher to create its TAP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wired {
    /// Name of the interface.
    pub nic: String,
    /// What DHCP tells the guest.
    pub lease: Lease,
    /// Bytes.
    pub mtu: u32,
    /// The address that others reach the guest by.
    pub ip: Ipv4Addr,
    /// The guest takes over this hardware address, unless the machine names one.
    pub mac: Option<MacAddress>,
}

/// What a pod's interface was like before a guest was behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// Its hardware address.
    pub mac: MacAddress,
    /// Its address.
    pub address: Ipv4Addr,
    /// Of that, the prefix length.
    pub prefix: u8,
    /// The pod's default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Longest packet of the guest, bytes.
    pub mtu: u32,
}

/// What the guest of an interface gets by DHCP: behind a translation its addresses are the same in every pod, else it takes the
/// place of the pod's interface. Name servers are for somebody else to add.
pub fn wired(interface: &Interface, pod: &PodInterface, hostname: &str) -> Wired {
    let translated = interface.binding == Binding::Masquerade;
    let lease = Lease {
        address: if translated { GUEST } else { pod.address },
        prefix: if translated { 24 } else { pod.prefix },
        server: if translated { GATEWAY } else { LINK_LOCAL },
        gateway: if translated { Some(GATEWAY) } else { pod.gateway },
        dns: Vec::new(),
        search: Vec::new(),
        hostname: hostname.to_owned(),
        mtu: u16::try_from(pod.mtu).unwrap_or(u16::MAX),
    };
    let mac = (!translated).then_some(pod.mac);
    Wired { nic: interface.name.clone(), lease, mtu: pod.mtu, ip: pod.address, mac }
}

/// The host name that a pod's container has.
pub fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    own.or_else(|| pod.metadata.name.clone()).unwrap_or_default().chars().take(63).collect()
}

/// A port, as rules have it.
pub fn forwarded(port: &Port) -> rules::Port {
    let protocol = match port.protocol {
        Transport::Tcp => rules::Protocol::Tcp,
        Transport::Udp => rules::Protocol::Udp,
    };
    rules::Port { protocol, port: port.port }
}

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
