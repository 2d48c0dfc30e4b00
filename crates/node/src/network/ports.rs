//! The ports of the node's bridge: who they belong to, and that rules and links are as they should be, no matter who has
//! changed them meanwhile.

use super::{
    Error, Policy,
    cni::{Attachment, Cni},
    host::Host,
    rules, sockets,
};
use ferrovirt_netlink::{
    Socket,
    mac::MacAddress,
    route::{self, Fixed, Link, Shown},
};
use ferrovirt_sys::{link, netlink::Protocol, netns};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
};

/// A pod's link to the bridge, and in whose name it may speak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Interface on the node.
    pub name: String,
    /// The one hardware address of its frames.
    pub mac: MacAddress,
    /// The one address of its packets.
    pub ip: Ipv4Addr,
    /// Namespace of the pod.
    pub namespace: String,
}

/// The pod network of this node.
#[derive(Debug)]
pub struct Network {
    host: Host,
    cni: Cni,
    wanted: Mutex<Wanted>,
    /// The version of `wanted` that the kernel has.
    applied: Mutex<u64>,
    /// Held by one who looks at links and mends them, and by many who make some: names of ports on the way into the rules.
    links: RwLock<()>,
    coming: Mutex<BTreeMap<String, String>>,
}

/// What the kernel should have. Kept on disk: pods outlive the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Wanted {
    policy: Policy,
    /// By the pod's UID.
    ports: BTreeMap<String, Port>,
    #[serde(skip)]
    version: u64,
}

impl Network {
    /// Reads or chooses the pod network of the data directory `directory` and sets the node up for it. Idempotent.
    ///
    /// # Errors
    /// When no subnet is free, or the kernel refuses.
    pub fn set_up(directory: &Path) -> Result<Self, Error> {
        let host = Host::open(directory)?;
        let known = match super::read::<Wanted>(&host.ports()) {
            // After a start of the node nobody is connected, and the file may have lost its end with the power.
            Err(error) if link::mtu(&host.bridge()).is_err() => {
                tracing::warn!("{error}; there is no bridge, so that no pod has a port");
                None
            }
            read => read?,
        };
        let wanted = Wanted { version: 1, ..known.unwrap_or_default() };
        let cni = host.cni();
        let network = Self {
            host,
            cni,
            wanted: Mutex::new(wanted),
            applied: Mutex::new(0),
            links: RwLock::new(()),
            coming: Mutex::default(),
        };
        network.host.make_bridge()?;
        network.mend()?;
        network.apply()?;
        network.host.forward()?;
        Ok(network)
    }

    /// Gives the pod `id` an address and a link to the bridge, over which it reaches nothing yet. Blocks for some 30 ms.
    ///
    /// # Errors
    /// When the plug-in or the kernel refuses.
    pub fn attach(&self, id: &str, netns: &Path) -> Result<Attachment, Error> {
        if link::mtu(&self.cni.bridge).is_err() {
            self.mend()?;
        }
        let _guard = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let attachment = self.cni.add(id, netns)?;
        lock(&self.coming).insert(id.to_owned(), attachment.port.clone());
        Ok(attachment)
    }

    /// Lets the pod `id` speak through `port`, under `policy`.
    ///
    /// # Errors
    /// When its hardware address is taken or impossible, or the kernel refuses.
    pub fn admit(&self, id: &str, port: Port, policy: &Policy) -> Result<(), Error> {
        self.want(id, port.clone(), policy)?;
        self.settle(&port)
    }

    fn want(&self, id: &str, port: Port, policy: &Policy) -> Result<(), Error> {
        let refuse = |why| Err(Error::Hardware { mac: port.mac, why });
        {
            let mut wanted = lock(&self.wanted);
            if !port.mac.is_unicast() {
                return refuse("cannot be that of one interface");
            }
            let taken = wanted.ports.iter().any(|(other, known)| other != id && known.mac == port.mac);
            if taken || port.mac == self.host.mac() {
                return refuse("is in use on this node's pod network");
            }
            wanted.ports.insert(id.to_owned(), port);
            wanted.policy = policy.clone();
            self.write(&mut wanted)?;
        }
        lock(&self.coming).remove(id);
        Ok(())
    }

    /// Gives bridge and rules what they should have of a port. Idempotent.
    fn settle(&self, port: &Port) -> Result<(), Error> {
        let settling = || super::link("telling the node's bridge where a pod is");
        let (mut links, _) = sockets().map_err(settling())?;
        let link = route::link_named(&mut links, None, &port.name).map_err(settling())?;
        let link = link.ok_or(Error::Port("the port of the node's bridge is gone"))?;
        fix(&mut links, link.index, port).map_err(settling())?;
        self.apply()
    }

    /// Lets a pod speak that runs already, as the file of ports, or where that does not know it the pod's record, says that
    /// it was admitted. Idempotent, also after a failure.
    ///
    /// # Errors
    /// When the record names no port, or its link is not that port of our bridge; and as [`Self::admit`].
    pub fn adopt(&self, id: &str, netns: &Path, recorded: Option<Port>) -> Result<(), Error> {
        let known = lock(&self.wanted).ports.get(id).cloned();
        if let Some(port) = known {
            return self.settle(&port);
        }
        // Who is there may be anybody: what is there is compared with what was made.
        let port =
            recorded.ok_or(Error::Port("its record does not say which port it had: delete the pod"))?;
        let open = |source| Error::Kernel { what: "opening the pod's network namespace", source };
        let inside = self::inside(&netns::open(netns).map_err(open)?)?;
        let listing = || super::link("listing the node's links");
        let (mut links, _) = sockets().map_err(listing())?;
        let outside = route::links(&mut links, None, None).map_err(listing())?;
        if ends(&inside, &outside) != Some(&port.name) {
            return Err(Error::Port(
                "the pod's link is not the port of the node's bridge that it had: delete the pod",
            ));
        }
        tracing::warn!(id, name = port.name, "admitting the recorded port of a running pod");
        let policy = lock(&self.wanted).policy.clone();
        self.want(id, port.clone(), &policy)?;
        self.mend()?;
        self.settle(&port)
    }

    /// Takes the pod's port away and gives its address back, whether or not its namespace is still there. Fine when it
    /// has neither.
    ///
    /// # Errors
    /// When the plug-in or the kernel refuses.
    pub fn release(&self, id: &str, netns: &Path) -> Result<(), Error> {
        let _guard = self.links.read().unwrap_or_else(PoisonError::into_inner);
        lock(&self.coming).remove(id);
        let port = {
            let mut wanted = lock(&self.wanted);
            let port = wanted.ports.remove(id);
            if port.is_some()
                && let Err(error) = self.write(&mut wanted)
            {
                tracing::warn!("recording that a pod has left the network: {error}");
            }
            port
        };
        if port.is_some()
            && let Err(error) = self.apply()
        {
            // The link goes, and the next batch has its names no more.
            tracing::warn!("rules of the pod network: {error}");
        }
        if netns.exists() || self.cni.holders().contains(id) {
            self.cni.del(id, netns)?;
        }
        match port {
            // Something holds a namespace that its file no longer names.
            Some(port) if link::mtu(&port.name).is_ok() => super::host::delete(&port.name),
            _ => Ok(()),
        }
    }

    /// Pods that have an address or a port.
    pub fn holders(&self) -> BTreeSet<String> {
        let mut all = self.cni.holders();
        all.extend(lock(&self.wanted).ports.keys().cloned());
        all
    }

    /// Makes links and rules what they should be under `policy`; under the last one that was known when there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn assert(&self, policy: Option<&Policy>) -> Result<(), Error> {
        {
            let mut wanted = lock(&self.wanted);
            if let Some(policy) = policy.filter(|policy| **policy != wanted.policy) {
                wanted.policy = policy.clone();
                self.write(&mut wanted)?;
            } else if wanted.ports.is_empty() {
                // Nobody is there to be protected, and the next pod brings the rules.
                return Ok(());
            }
            // Somebody else may have changed what the kernel has.
            wanted.version += 1;
        }
        let mended = self.mend();
        self.apply().and(mended)
    }

    /// Removes everything; only when no pod is left.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn tear_down(&self) -> Result<(), Error> {
        self.host.tear_down()
    }

    /// Makes the bridge where there is none, every link its port again, and takes every link off the bridge that is no port.
    fn mend(&self) -> Result<(), Error> {
        let _guard = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let bridge = &self.cni.bridge;
        if link::mtu(bridge).is_err() {
            tracing::warn!("making the bridge {bridge} of the pod network, which was gone");
            self.host.make_bridge()?;
        }
        // In this order: a port that is admitted meanwhile moves from these to those, and must not be in neither.
        let coming: BTreeSet<String> = lock(&self.coming).values().cloned().collect();
        let ports: Vec<Port> = lock(&self.wanted).ports.values().cloned().collect();
        let listing = || super::link("listing the ports of the node's bridge");
        let (mut links, _) = sockets().map_err(listing())?;
        let Some(hub) = route::link_named(&mut links, None, bridge).map_err(listing())? else {
            return Ok(());
        };
        let members = route::links(&mut links, None, Some(hub.index)).map_err(listing())?;
        let is_port = |member: &&Shown| {
            coming.contains(&member.name) || ports.iter().any(|port| port.name == member.name)
        };
        for member in members.iter().filter(|member| !is_port(member)) {
            let name = &member.name;
            tracing::warn!(name, "taking a link off the bridge {bridge} that is no port of a pod");
            if let Err(error) = links.order(&Link::of(member.index).master(0).set()) {
                tracing::warn!("taking a link off the bridge {bridge}: {error}");
            }
        }
        let lost = |port: &&Port| {
            members.iter().all(|member| member.name != port.name) && link::mtu(&port.name).is_ok()
        };
        for port in ports.iter().filter(lost) {
            let name = &port.name;
            tracing::warn!("attaching {name} to the bridge {bridge} again");
            if let Err(error) = join(&mut links, hub.index, port) {
                tracing::warn!("attaching {name} to the bridge {bridge}: {error}");
            }
        }
        Ok(())
    }

    /// Gives the kernel the newest rules. Of several that wait, one does the work of all.
    fn apply(&self) -> Result<(), Error> {
        let needed = lock(&self.wanted).version;
        let mut applied = lock(&self.applied);
        if *applied >= needed {
            return Ok(());
        }
        let wanted = lock(&self.wanted).clone();
        let batch = self.host.with_facts(|facts| rules::render(facts, &wanted.policy, &wanted.ports));
        let (_, mut rules) = sockets().map_err(super::link("opening a netlink socket"))?;
        batch.send(rules.channel())?;
        *applied = wanted.version;
        Ok(())
    }

    /// Writes what is wanted, whole or not at all, as its next version.
    fn write(&self, wanted: &mut Wanted) -> Result<(), Error> {
        wanted.version += 1;
        let file = self.host.ports();
        let part = file.with_extension("part");
        let text = serde_json::to_vec(&*wanted).map_err(io::Error::other);
        text.and_then(|text| fs::write(&part, text))
            .and_then(|()| fs::rename(&part, &file))
            .map_err(|source| Error::Kernel { what: "writing ports.json", source })
    }
}

/// The pod's interfaces.
fn inside(namespace: &OwnedFd) -> Result<Vec<Shown>, Error> {
    let mut links = netns::run_in(namespace, || Ok(Socket::open(Protocol::Route)))
        .map_err(|source| Error::Kernel { what: "entering the pod's network namespace", source })?
        .map_err(super::link("opening a netlink socket in the pod"))?;
    route::links(&mut links, None, None).map_err(super::link("listing the pod's links"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the port's link a port of the bridge with this index again.
fn join(links: &mut Socket, bridge: u32, port: &Port) -> Result<(), ferrovirt_netlink::Error> {
    let Some(link) = route::link_named(links, None, &port.name)? else { return Ok(()) };
    links.order(&Link::of(link.index).master(bridge).set())?;
    links.order(&Link::of(link.index).up().set())?;
    fix(links, link.index, port)
}

/// The bridge knows where the port's hardware address is and learns none from it, no matter who else says that it has that
/// address.
fn fix(links: &mut Socket, index: u32, port: &Port) -> Result<(), ferrovirt_netlink::Error> {
    let quiet = route::Port { learning: Some(false), unicast_flood: Some(false) };
    links.order(&Link::of(index).port(quiet).set())?;
    links.order(&Fixed { port: index, address: port.mac.0, sticky: true }.put())
}

/// The node's end of a pod's link, by the links of the pod and of the node: each end names the other. Numbers of
/// interfaces are each namespace's own.
fn ends<'a>(inside: &[Shown], outside: &'a [Shown]) -> Option<&'a String> {
    inside.iter().filter(|own| matches!(own.name.as_str(), "eth0" | "eth0-nic")).find_map(|own| {
        let mut ends = outside.iter().filter(|port| port.kind == "veth");
        let port =
            ends.find(|port| Some(port.index) == own.other_end && port.other_end == Some(own.index))?;
        Some(&port.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ends_of_a_link_name_each_other() {
        let link = |index, name: &str, other_end| Shown {
            index,
            name: name.to_owned(),
            kind: "veth".to_owned(),
            other_end,
            ..Shown::default()
        };
        let inside = [Shown { kind: String::new(), ..link(1, "lo", None) }, link(2, "eth0", Some(7))];
        let outside = [link(6, "veth6", Some(2)), link(7, "veth7", Some(2))];
        assert_eq!(ends(&inside, &outside).map(String::as_str), Some("veth7"));
        assert_eq!(ends(&inside, &[link(8, "veth7", Some(2))]), None);
        assert_eq!(ends(&inside, &[link(7, "veth7", Some(3))]), None);
        assert_eq!(ends(&inside, &[Shown { kind: "vlan".to_owned(), ..link(7, "veth7", Some(2)) }]), None);
        assert_eq!(ends(&[link(2, "eth1", Some(7))], &outside), None);
        assert_eq!(ends(&[], &outside), None);
    }
}
