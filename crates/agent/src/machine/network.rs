//! Inside a pod's network namespace: the bridge of the guest, its TAP queues, its DHCP socket and its translation.
//!
//! Names are those that KubeVirt's users know: `eth0`, `tap0`, `k6t-eth0`, `eth0-nic`.

use ferrovirt_handler::{
    machine::facts::{PodInterface, forwarded, wired},
    net::{Refusal, pod::Pod},
};
use ferrovirt_model::machine::{Binding, Interface};
use ferrovirt_netlink::{Channel, mac::MacAddress};
use ferrovirt_node::{
    network::cni::{self, Attachment},
    oci::resolver,
};
use ferrovirt_qemu::dhcp::take_resolver;
use ferrovirt_sys::{netlink::Protocol, netns, tap, udp};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

pub use ferrovirt_handler::{
    machine::facts::Wired,
    net::pod::{BRIDGE, TAP},
};

/// Why a machine's side of its pod cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pod's network that is not what was made.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A link or an address that the kernel refused.
    #[error("{what}: {source}")]
    Link {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: ferrovirt_netlink::Error,
    },
    /// The kernel said no.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A machine that this version cannot connect.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// What to say of a port that is not admitted: a pod's hardware address is what its machine names.
pub fn advice(error: &ferrovirt_node::network::Error) -> String {
    match error {
        ferrovirt_node::network::Error::Hardware { .. } => {
            format!("{error} (macAddress of the machine's interface)")
        }
        other => other.to_string(),
    }
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
    let pod = PodInterface {
        mac: attachment.mac,
        address: attachment.address.ip,
        prefix: attachment.address.prefix,
        gateway: attachment.address.gateway,
        mtu: cni::MTU,
    };
    let mut wired = wired(interface, &pod, hostname);
    take_resolver(&resolver::of_node_or_nothing(), &mut wired.lease);
    if interface.binding == Binding::Masquerade {
        enter(namespace)?.forward()?;
    } else {
        enter(namespace)?.bridge(cni::MTU)?;
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
    let opening = || |source| Error::Link { what: "opening netlink sockets in the pod", source };
    Ok(Pod::new(namespace.as_fd(), route.map_err(opening())?, rules.map_err(opening())?)?)
}

/// The hardware address with which a machine's frames leave its pod. Behind translation it is the pod's own.
pub fn hardware(interfaces: &[Interface], attachment: &Attachment) -> MacAddress {
    let named = interfaces.first().filter(|interface| interface.binding == Binding::Bridge);
    named.and_then(|interface| interface.mac).map_or(attachment.mac, MacAddress)
}
