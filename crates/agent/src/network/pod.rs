//! Inside a pod's network namespace: the bridge of the guest, its TAP queues, its DHCP socket and its translation.
//!
//! Names are those that KubeVirt's users know: `eth0`, `tap0`, `k6t-eth0`, `eth0-nic`.

use super::{
    Error,
    cni::{self, Attachment},
    mac::MacAddress,
};
use ferrovirt_handler::net::{
    pod::{GATEWAY, GUEST, LINK_LOCAL, Pod},
    rules,
};
use ferrovirt_model::machine::{Binding, Interface, Port, Protocol as Transport};
use ferrovirt_netlink::{
    Channel, Socket,
    route::{self, Shown},
};
use ferrovirt_qemu::order::Lease;
use ferrovirt_sys::{netlink::Protocol, netns, tap, udp};
use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

pub use ferrovirt_handler::net::pod::{BRIDGE, TAP};

/// What the guest of one interface needs to know, and the launcher to create its TAP.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// Makes what a machine's side of the pod consists of, as far as it does not depend on the pod's own link: the plug-in
/// that makes that one takes as long as all of this.
///
/// # Errors
/// When the machine has more than one interface, or the kernel refuses.
pub fn prepare(namespace: &OwnedFd, interfaces: &[Interface]) -> Result<(), Error> {
    match interfaces {
        [] => Ok(()),
        [one] if one.binding == Binding::Masquerade => {
            let ports: Vec<_> = one.ports.iter().map(forwarded).collect();
            enter(namespace)?.masquerade(cni::MTU, &ports)?;
            Ok(())
        }
        [_] => Ok(()),
        _ => Err(Error::Unsupported("a machine can have one interface: there is one pod network")),
    }
}

/// Connects the guest's side of the pod, after [`prepare`]: one interface on the pod network, or none.
///
/// # Errors
/// When the kernel refuses.
pub fn wire(
    namespace: &OwnedFd,
    interfaces: &[Interface],
    attachment: &Attachment,
    hostname: &str,
) -> Result<Vec<Wired>, Error> {
    let Some(interface) = interfaces.first() else { return Ok(Vec::new()) };
    let address = attachment.address;
    let mtu = cni::MTU;
    let mut wired = Wired {
        nic: interface.name.clone(),
        lease: Lease {
            address: GUEST,
            prefix: 24,
            server: GATEWAY,
            gateway: Some(GATEWAY),
            dns: Vec::new(),
            search: Vec::new(),
            hostname: hostname.to_owned(),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        },
        mtu,
        ip: address.ip,
        mac: None,
    };
    resolver(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), &mut wired.lease);
    if interface.binding == Binding::Masquerade {
        enter(namespace)?.forward()?;
    } else {
        enter(namespace)?.bridge(mtu)?;
        wired.mac = Some(attachment.mac);
        wired.lease.address = address.ip;
        wired.lease.prefix = address.prefix;
        wired.lease.gateway = address.gateway;
        wired.lease.server = LINK_LOCAL;
    }
    Ok(vec![wired])
}

/// Opens every queue of a TAP on the bridge. The TAP ends with the descriptors.
///
/// # Errors
/// When the kernel refuses.
pub fn queues(namespace: &OwnedFd, queues: u32, owner: u32) -> Result<Vec<OwnedFd>, Error> {
    let opening = |source| Error::Kernel { what: "opening TAP queues", source };
    // What is opened in the pod stays bound to it; the rest is done from here.
    let open = || (0..queues).map(|_| tap::open_node("/dev/net/tun").map(OwnedFd::from)).collect();
    let queues: Vec<_> = netns::run_in(namespace, open).map_err(opening)?;
    enter(namespace)?.tap(&queues, owner, cni::MTU)?;
    Ok(queues)
}

/// Opens the DHCP server's socket on the bridge.
///
/// # Errors
/// When the kernel refuses.
pub fn dhcp(namespace: &OwnedFd) -> Result<OwnedFd, Error> {
    netns::run_in(namespace, || udp::dhcp_server(BRIDGE))
        .map_err(|source| Error::Kernel { what: "opening the DHCP socket", source })
}

/// The pod's namespace, through sockets that are opened in it. They stay bound to it wherever they are used.
fn enter(namespace: &OwnedFd) -> Result<Pod, Error> {
    let open = || Ok((Channel::open(Protocol::Route), Channel::open(Protocol::Netfilter)));
    let (route, rules) = netns::run_in(namespace, open)
        .map_err(|source| Error::Kernel { what: "entering the pod's network namespace", source })?;
    let opening = || super::link("opening netlink sockets in the pod");
    Ok(Pod::new(namespace.as_fd(), route.map_err(opening())?, rules.map_err(opening())?)?)
}

/// A port, as rules have it.
fn forwarded(port: &Port) -> rules::Port {
    let protocol = match port.protocol {
        Transport::Tcp => rules::Protocol::Tcp,
        Transport::Udp => rules::Protocol::Udp,
    };
    rules::Port { protocol, port: port.port }
}

/// The pod's interfaces.
pub(super) fn links(namespace: &OwnedFd) -> Result<Vec<Shown>, Error> {
    let mut links = netns::run_in(namespace, || Ok(Socket::open(Protocol::Route)))
        .map_err(|source| Error::Kernel { what: "entering the pod's network namespace", source })?
        .map_err(super::link("opening a netlink socket in the pod"))?;
    route::links(&mut links, None, None).map_err(super::link("listing the pod's links"))
}

/// The hardware address with which a machine's frames leave its pod. Behind translation it is the pod's own.
pub fn hardware(interfaces: &[Interface], attachment: &Attachment) -> MacAddress {
    let named = interfaces.first().filter(|interface| interface.binding == Binding::Bridge);
    named.and_then(|interface| interface.mac).map_or(attachment.mac, MacAddress)
}

/// Name servers and search domains of the node. A server on the node's loopback is out of the guest's reach.
fn resolver(text: &str, lease: &mut Lease) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
                lease.dns.extend(server.filter(|server| !server.is_loopback() && lease.dns.len() < 3));
            }
            Some("search") => lease.search = words.take(6).map(str::to_owned).collect(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_that_the_guest_cannot_reach_are_left_out() {
        let mut lease = Lease {
            address: GUEST,
            prefix: 24,
            server: GATEWAY,
            gateway: None,
            dns: vec![],
            search: vec![],
            hostname: String::new(),
            mtu: 1500,
        };
        resolver("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nsearch a.b c\n", &mut lease);
        assert_eq!(lease.dns, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(lease.search, ["a.b", "c"]);
    }
}
