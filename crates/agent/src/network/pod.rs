//! Inside a pod's network namespace: the bridge of the guest, its TAP queues, its DHCP socket and its translation.
//!
//! Names are those that KubeVirt's users know: `eth0`, `tap0`, `k6t-eth0`, `eth0-nic`.

use super::{
    Error,
    cni::{self, Attachment},
    mac::MacAddress,
    sockets, translation,
};
use ferrovirt_handler::net::{self, view::View};
use ferrovirt_model::machine::{Binding, Interface, Port};
use ferrovirt_netlink::{
    Channel, Socket,
    nft::Batch,
    route::{self, Address, Bridge, Link, Shown},
};
use ferrovirt_qemu::order::Lease;
use ferrovirt_sys::{
    netlink::{self, Protocol},
    netns, tap, udp,
};
use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

/// The bridge between pod and guest.
pub const BRIDGE: &str = "k6t-eth0";
/// The TAP of the first interface.
pub const TAP: &str = "tap0";
/// Behind masquerade the guest is always this, its gateway is one less.
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// Where the DHCP server is when the guest has the pod's own address.
const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

/// The bridge of a pod: two ends, so that it need not learn who is where, and a guest cannot fill its table.
const HUB: Bridge = Bridge {
    forward_delay: Some(0),
    ageing_time: Some(0),
    spanning_tree: None,
    group_forward_mask: None,
    no_linklocal_learn: None,
    multicast_snooping: Some(false),
};

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
        [one] if one.binding == Binding::Masquerade => masquerade(namespace, cni::MTU, &one.ports),
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
    if interface.binding == Binding::Bridge {
        bridge(namespace, mtu, attachment)?;
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
    let open = || {
        let queues = (0..queues).map(|_| tap::open_node("/dev/net/tun").map(OwnedFd::from));
        Ok((queues.collect::<io::Result<Vec<_>>>()?, netlink::open(Protocol::Route)?))
    };
    // What is opened in the pod stays bound to it; the rest is done from here.
    let (queues, route) = netns::run_in(namespace, open).map_err(opening)?;
    let mut route = Channel::new(route);
    let mut view = View::of(namespace.as_fd())?;
    let hub = net::tap::find_bridge(&mut view, BRIDGE)?;
    let port = net::tap::make_tap(&mut view, TAP, &queues, owner)?;
    let sized = Link::of(port.index()).mtu(cni::MTU).set();
    route.order(&sized).map_err(super::link("setting the size of the TAP's packets"))?;
    net::tap::join(&mut view, &mut route, &port, &hub)?;
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

/// Sockets for links and for rules of the pod's namespace. They stay bound to it wherever they are used.
fn open(namespace: &OwnedFd) -> Result<(Socket, Socket), Error> {
    netns::run_in(namespace, || Ok(sockets()))
        .map_err(|source| Error::Kernel { what: "entering the pod's network namespace", source })?
        .map_err(super::link("opening netlink sockets in the pod"))
}

/// The pod's interfaces.
pub(super) fn links(namespace: &OwnedFd) -> Result<Vec<Shown>, Error> {
    let (mut links, _) = open(namespace)?;
    route::links(&mut links, None, None).map_err(super::link("listing the pod's links"))
}

fn masquerade(namespace: &OwnedFd, mtu: u32, ports: &[Port]) -> Result<(), Error> {
    let (mut links, mut rules) = open(namespace)?;
    let hub = Link::new_bridge(BRIDGE, HUB).mtu(mtu).address([2, 0, 0, 0, 0, 0]);
    let index = make_hub(&mut links, hub, GATEWAY, 24)?;
    let mut batch = Batch::new();
    translation::translation(&mut batch, ports);
    translation::neighbours(&mut batch, GUEST);
    batch.send(rules.channel())?;
    up(&mut links, index)?;
    netns::run_in(namespace, || {
        // Both belong to the calling thread's namespace.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        fs::write(format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet"), "1")
    })
    .map_err(|source| Error::Kernel { what: "setting sysctls of the pod", source })
}

/// Makes the bridge with its address; its index. It is not up.
fn make_hub(links: &mut Socket, hub: Link, address: Ipv4Addr, prefix: u8) -> Result<u32, Error> {
    let making = || super::link("making the pod's bridge");
    links.order(&hub.create()).map_err(making())?;
    let index = find(links, BRIDGE)?.index;
    let address = Address { index, address, prefix };
    links.order(&address.add()).map_err(super::link("giving the pod's bridge its address"))?;
    Ok(index)
}

fn up(links: &mut Socket, index: u32) -> Result<(), Error> {
    links.order(&Link::of(index).up().set()).map_err(super::link("setting the pod's bridge up"))
}

fn find(links: &mut Socket, name: &str) -> Result<Shown, Error> {
    let found = route::link_named(links, None, name).map_err(super::link("looking for a link of the pod"))?;
    found.ok_or(Error::Unsupported("a link of the pod is missing"))
}

/// The hardware address with which a machine's frames leave its pod. Behind translation it is the pod's own.
pub fn hardware(interfaces: &[Interface], attachment: &Attachment) -> MacAddress {
    let named = interfaces.first().filter(|interface| interface.binding == Binding::Bridge);
    named.and_then(|interface| interface.mac).map_or(attachment.mac, MacAddress)
}

/// Puts the pod's interface on a bridge with the guest, which takes over its hardware address.
fn bridge(namespace: &OwnedFd, mtu: u32, attachment: &Attachment) -> Result<(), Error> {
    // The pod's end keeps working with an address of its own: the guest's, with the last byte changed.
    let MacAddress([a, b, c, d, e, f]) = attachment.mac;
    let own = MacAddress([a, b, c, d, e, f ^ 0xff]);
    let (mut links, mut rules) = open(namespace)?;
    let nic = find(&mut links, "eth0")?;
    // Of other kinds a change of the hardware address is one of a link of the node.
    if nic.kind != "veth" {
        return Err(Error::Unsupported("bridge binding needs a pod whose interface is a veth"));
    }
    let nic = nic.index;
    let changing = || super::link("taking the pod's interface for the guest");
    links.order(&Link::of(nic).down().set()).map_err(changing())?;
    let own_addresses = route::addresses(&mut links, None).map_err(changing())?;
    for address in own_addresses.into_iter().filter(|address| address.index == nic) {
        match links.order(&address.delete()) {
            // A second address of a network goes with its first.
            Err(error) if error.errno() == Some(rustix::io::Errno::ADDRNOTAVAIL) => {}
            other => other.map_err(changing())?,
        }
    }
    links.order(&Link::of(nic).name("eth0-nic").address(own.0).set()).map_err(changing())?;
    let hub = make_hub(&mut links, Link::new_bridge(BRIDGE, HUB).mtu(mtu), LINK_LOCAL, 32)?;
    let mut batch = Batch::new();
    translation::neighbours(&mut batch, attachment.address.ip);
    batch.send(rules.channel())?;
    links.order(&Link::of(nic).master(hub).set()).map_err(changing())?;
    links.order(&Link::of(nic).up().set()).map_err(changing())?;
    up(&mut links, hub)
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
