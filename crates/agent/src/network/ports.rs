//! The ports of the node's bridge: who they belong to, and that rules and links are as they should be, whoever has
//! changed them meanwhile.

use super::{
    Error,
    cni::{Attachment, Cni},
    host::Host,
    mac::MacAddress,
    rules, run,
};
use ferrovirt_plan::pod_network::PodNetwork;
use ferrovirt_sys::{link, netns};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
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
    policy: PodNetwork,
    /// By the pod's UID.
    ports: BTreeMap<String, Port>,
    #[serde(skip)]
    version: u64,
}

impl Network {
    /// Reads or chooses the pod network of the data directory `folder` and sets the node up for it. Idempotent.
    ///
    /// # Errors
    /// When no subnet is free, or the kernel, ip or nft refuse.
    pub fn set_up(folder: &Path) -> Result<Self, Error> {
        let host = Host::open(folder)?;
        let known = match super::read::<Wanted>(&host.ports()) {
            // After a start of the node nobody is connected, and the file may have lost its end with the power.
            Err(error) if link::mtu(&host.bridge()).is_err() => {
                tracing::warn!("{error}; there is no bridge, so that no machine has a port");
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
    /// When the plug-in, the kernel or ip refuse.
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
    /// When its hardware address is taken or impossible, or the kernel, bridge or nft refuse.
    pub fn admit(&self, id: &str, port: Port, policy: &PodNetwork) -> Result<(), Error> {
        self.want(id, port.clone(), policy)?;
        self.settle(&port)
    }

    fn want(&self, id: &str, port: Port, policy: &PodNetwork) -> Result<(), Error> {
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
        run("bridge", "iproute2", &["-batch", "-"], &fixed(port))?;
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
        let port = recorded.ok_or(Error::Unsupported(
            "its record does not say which port it had: stop and start the machine",
        ))?;
        let open = |source| Error::Kernel { what: "opening the pod's network namespace", source };
        let inside = super::pod::links(&netns::open(netns).map_err(open)?)?;
        let outside = run("ip", "iproute2", &["-j", "link", "show", "type", "veth"], "")?;
        if ends(&inside, &outside).as_ref() != Some(&port.name) {
            return Err(Error::Unsupported(
                "the pod's link is not the port of the node's bridge that it had: stop and start the machine",
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
    /// When the plug-in, the kernel or ip refuse.
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
            Some(port) if link::mtu(&port.name).is_ok() => {
                let deleted = run("ip", "iproute2", &["link", "delete", &port.name], "");
                if link::mtu(&port.name).is_ok() { deleted.map(|_| ()) } else { Ok(()) }
            }
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
    /// When the kernel, ip or nft refuse.
    pub fn assert(&self, policy: Option<&PodNetwork>) -> Result<(), Error> {
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
    /// When the kernel, ip or nft refuse.
    pub fn tear_down(&self) -> Result<(), Error> {
        self.host.tear_down()
    }

    /// Makes the bridge where there is none, every link its port again, and takes off the bridge whoever is no port.
    fn mend(&self) -> Result<(), Error> {
        let _guard = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let bridge = &self.cni.bridge;
        if link::mtu(bridge).is_err() {
            tracing::warn!("making the bridge {bridge} of the pod network, which was gone");
            self.host.make_bridge()?;
        }
        let ports: Vec<Port> = lock(&self.wanted).ports.values().cloned().collect();
        let coming: BTreeSet<String> = lock(&self.coming).values().cloned().collect();
        let shown = run("ip", "iproute2", &["-j", "link", "show", "master", bridge], "")?;
        let members = members(&shown);
        for name in members
            .iter()
            .filter(|name| !coming.contains(*name) && !ports.iter().any(|port| port.name == **name))
        {
            tracing::warn!(name, "taking a link off the bridge {bridge} that is no port of a machine");
            // Names of links are the administrator's, and no lines of a batch.
            if let Err(error) = run("ip", "iproute2", &["link", "set", "dev", name, "nomaster"], "") {
                tracing::warn!("taking a link off the bridge {bridge}: {error}");
            }
        }
        let lost = |port: &&Port| !members.contains(&port.name) && link::mtu(&port.name).is_ok();
        for port in ports.iter().filter(lost) {
            let name = &port.name;
            tracing::warn!("attaching {name} to the bridge {bridge} again");
            let lines = format!("link set dev {name} master {bridge}\nlink set dev {name} up\n");
            let attached = run("ip", "iproute2", &["-batch", "-"], &lines)
                .and_then(|_| run("bridge", "iproute2", &["-batch", "-"], &fixed(port)));
            if let Err(error) = attached {
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
        run("nft", "nftables", &["-f", "-"], &batch)?;
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An interface in what `ip -j link` shows.
#[derive(Debug, Deserialize)]
struct Link {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    ifindex: u32,
    /// The other end, which is in another namespace.
    #[serde(default)]
    link_index: u32,
}

fn parse(json: &str) -> Vec<Link> {
    serde_json::from_str(json).unwrap_or_default()
}

/// Names of the interfaces in what `ip -j link` shows.
fn members(json: &str) -> BTreeSet<String> {
    parse(json).into_iter().map(|link| link.ifname).collect()
}

/// Lines for `bridge -batch`: the bridge knows where the port's hardware address is and learns none from it, whoever else
/// says that it has that address (`sticky`).
fn fixed(port: &Port) -> String {
    let Port { name, mac, .. } = port;
    format!("link set dev {name} learning off flood off\nfdb replace {mac} dev {name} master static sticky\n")
}

/// The node's end of a pod's link, by what `ip -j link` shows in the pod and on the node: each end names the other. Numbers
/// of interfaces are each namespace's own.
fn ends(inside: &str, outside: &str) -> Option<String> {
    let outside = parse(outside);
    parse(inside).into_iter().filter(|own| matches!(own.ifname.as_str(), "eth0" | "eth0-nic")).find_map(
        |own| {
            let port = outside.iter().find(|port| {
                own.ifindex > 0 && port.ifindex == own.link_index && port.link_index == own.ifindex
            })?;
            Some(port.ifname.clone())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ends_of_a_link_name_each_other() {
        let inside = r#"[{"ifindex":1,"ifname":"lo"},
            {"ifindex":2,"link_index":7,"ifname":"eth0"}]"#;
        let outside = r#"[{"ifindex":6,"link_index":2,"ifname":"veth6"},{"ifindex":7,"link_index":2,"ifname":"veth7"}]"#;
        let found = ends(inside, outside);
        assert_eq!(found.as_deref(), Some("veth7"));
        assert_eq!(ends(inside, &outside.replace("\"ifindex\":7", "\"ifindex\":8")), None);
        assert_eq!(ends(inside, &outside.replace("\"link_index\":2", "\"link_index\":3")), None);
        assert_eq!(ends(&inside.replace("eth0", "eth1"), outside), None);
        assert_eq!(ends("", outside), None);
    }
}
