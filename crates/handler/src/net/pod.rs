//! A machine's side of its pod: the bridge of the guest, its TAP queues, its translation.
//!
//! Names are those that KubeVirt's users know: `eth0`, `tap0`, `k6t-eth0`, `eth0-nic`.
//!
//! Everything is done from outside, through sockets that were opened in the pod's network namespace: by its launcher, or by
//! a node agent that may enter it. Nothing here enters a namespace or writes below `/proc/sys`.

use super::{
    Refusal, netlink,
    rules::{self, Port},
    tap::{self, Made},
    view::View,
};
use ferrovirt_netlink::{
    Channel,
    nft::Batch,
    route::{Address, Bridge, Link, Shown},
};
use rustix::io::Errno;
use std::{
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
};

/// The bridge between pod and guest.
pub const BRIDGE: &str = "k6t-eth0";
/// The TAP of the first interface.
pub const TAP: &str = "tap0";
/// The pod's interface, and the name that it has when the guest has taken its place.
pub const NIC: &str = "eth0";
const TAKEN: &str = "eth0-nic";
/// Behind masquerade the guest is always this, its gateway is one less.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// See [`GUEST`].
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// Where the DHCP server is when the guest has the pod's own address.
pub const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

/// The bridge of a pod: two ends, so that it need not learn who is where, and a guest cannot fill its table.
const HUB: Bridge = Bridge {
    forward_delay: Some(0),
    ageing_time: Some(0),
    spanning_tree: None,
    group_forward_mask: None,
    no_linklocal_learn: None,
    multicast_snooping: Some(false),
};

/// What the pod's interface was like when the guest took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its address.
    pub address: Ipv4Addr,
    /// Of that, the prefix length.
    pub prefix: u8,
}

/// A pod's network namespace: what is in it, and the sockets through which it is changed.
#[derive(Debug)]
pub struct Pod {
    view: View,
    route: Channel,
    rules: Channel,
}

impl Pod {
    /// Through sockets for links (`NETLINK_ROUTE`) and for rules (`NETLINK_NETFILTER`) of this namespace, no matter who opened
    /// them.
    ///
    /// # Errors
    /// What the kernel says of looking into the namespace.
    pub fn new(namespace: BorrowedFd<'_>, route: Channel, rules: Channel) -> Result<Self, Refusal> {
        Ok(Self { view: View::of(namespace)?, route, rules })
    }

    /// What is in it.
    pub fn view(&mut self) -> &mut View {
        &mut self.view
    }

    /// Makes the bridge and the rules of a guest with a private address, of which everything, or these ports, can be reached
    /// from outside. The pod's interface need not be there yet: see [`Self::forward`].
    ///
    /// # Errors
    /// [`Refusal::Present`], and what the kernel says.
    pub fn masquerade(&mut self, mtu: u32, ports: &[Port]) -> Result<Made, Refusal> {
        let hub = self.make_hub(|link| link.mtu(mtu).address([2, 0, 0, 0, 0, 0]), GATEWAY, 24)?;
        let mut batch = Batch::new();
        rules::translation(&mut batch, ports);
        rules::neighbours(&mut batch, GUEST);
        batch.send(&mut self.rules)?;
        // It forwards, and 127.0.0.1 may be behind it: clients in the pod itself.
        let open = Link::of(hub.index()).ipv4(true, true).up().set();
        self.route.order(&open).map_err(netlink("setting the pod's bridge up"))?;
        Ok(hub)
    }

    /// Lets the pod's interface forward to a guest behind [`Self::masquerade`]: what comes in there is asked alone, and not
    /// `net.ipv4.ip_forward`, which is no more than the setting of all interfaces at once.
    ///
    /// # Errors
    /// When there is no such interface, and what the kernel says.
    pub fn forward(&mut self) -> Result<(), Refusal> {
        let nic = self.nic()?;
        let forward = Link::of(nic.index).ipv4(true, false).set();
        self.route.order(&forward).map_err(netlink("letting the pod's interface forward"))
    }

    /// Puts the pod's interface on a bridge with the guest, which takes over its addresses.
    ///
    /// # Errors
    /// When the interface is none that can be taken, and what the kernel says.
    pub fn bridge(&mut self, mtu: u32) -> Result<(Made, Taken), Refusal> {
        let nic = self.nic()?;
        // Of other kinds a change of the hardware address is one of a link of the node.
        if nic.kind != "veth" {
            return Err(Refusal::Interface("bridge binding needs a pod whose interface is a veth"));
        }
        let mut addresses = self.view.addresses()?;
        addresses.retain(|address| address.index == nic.index);
        let (Some(mac), Some(first)) = (nic.address, addresses.first().copied()) else {
            return Err(Refusal::Interface("bridge binding needs a pod whose interface has an IPv4 address"));
        };
        let taken = Taken { mac, address: first.address, prefix: first.prefix };
        self.take(&nic, mac, &addresses)?;
        let hub = self.make_hub(|link| link.mtu(mtu), LINK_LOCAL, 32)?;
        let mut batch = Batch::new();
        rules::neighbours(&mut batch, taken.address);
        batch.send(&mut self.rules)?;
        let joining = || netlink("joining the pod's interface to the guest's bridge");
        self.route.order(&Link::of(nic.index).master(hub.index()).set()).map_err(joining())?;
        self.route.order(&Link::of(nic.index).up().set()).map_err(joining())?;
        let up = Link::of(hub.index()).up().set();
        self.route.order(&up).map_err(netlink("setting the pod's bridge up"))?;
        Ok((hub, taken))
    }

    /// Makes these descriptors the queues of the guest's TAP on the bridge that was made before. The TAP ends with them.
    ///
    /// # Errors
    /// [`Refusal::Present`], [`Refusal::Changed`], and what the kernel says.
    pub fn tap(&mut self, queues: &[OwnedFd], owner: u32, mtu: u32) -> Result<Made, Refusal> {
        let hub = tap::find_bridge(&mut self.view, BRIDGE)?;
        let port = tap::make_tap(&mut self.view, TAP, queues, owner)?;
        let sized = Link::of(port.index()).mtu(mtu).set();
        self.route.order(&sized).map_err(netlink("setting the size of the TAP's packets"))?;
        tap::join(&mut self.view, &mut self.route, &port, &hub)?;
        Ok(port)
    }

    /// The pod's interface, called so and not beside another name.
    fn nic(&mut self) -> Result<Shown, Refusal> {
        let found = self.view.link(NIC)?.filter(|link| link.name == NIC);
        found.ok_or(Refusal::Interface("the pod has no interface eth0"))
    }

    /// Takes the addresses of the pod's interface away from it. It keeps working with a hardware address of its own: the
    /// guest's, with the last byte changed.
    fn take(&mut self, nic: &Shown, mac: [u8; 6], addresses: &[Address]) -> Result<(), Refusal> {
        let [a, b, c, d, e, f] = mac;
        let changing = || netlink("taking the pod's interface for the guest");
        self.route.order(&Link::of(nic.index).down().set()).map_err(changing())?;
        for address in addresses {
            match self.route.order(&address.delete()) {
                // A second address of a network goes with its first.
                Err(error) if error.errno() == Some(Errno::ADDRNOTAVAIL) => {}
                other => other.map_err(changing())?,
            }
        }
        let own = Link::of(nic.index).name(TAKEN).address([a, b, c, d, e, f ^ 0xff]).set();
        self.route.order(&own).map_err(changing())
    }

    /// Makes the bridge with its address. It is not up.
    fn make_hub(
        &mut self,
        with: impl FnOnce(Link) -> Link,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<Made, Refusal> {
        let hub = tap::make_bridge(&mut self.view, &mut self.route, BRIDGE, HUB, with)?;
        let address = Address { index: hub.index(), address, prefix };
        self.route.order(&address.add()).map_err(netlink("giving the pod's bridge its address"))?;
        Ok(hub)
    }
}
