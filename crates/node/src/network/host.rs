//! The node's side of the pod network: its subnet, its bridge, forwarding, and what is left of it when it goes.

use super::{
    Error,
    cni::{self, Cni},
    rules::{self, Connections, Facts},
    sockets,
};
use crate::file::whole;
use ferrovirt_netlink::{
    mac::MacAddress,
    nft,
    route::{self, Address, Bridge, Link},
};
use ferrovirt_sys::link;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// No spanning tree. Frames to reserved group addresses come by our rules instead of being handled before them (bits 3 to
/// 15; the kernel allows no others), the bridge learns no sender from them and reads no group memberships.
const OPTIONS: Bridge = Bridge {
    forward_delay: Some(0),
    ageing_time: None,
    spanning_tree: Some(false),
    group_forward_mask: Some(0xfff8),
    no_linklocal_learn: Some(true),
    multicast_snooping: Some(false),
};
/// Prefix length of the pod network.
const PREFIX: u8 = 24;

/// What is set up on the node, kept on disk so that a later start finds and removes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Host {
    /// Third byte of the subnet 10.244.X.0/24.
    third: u8,
    /// Suffix of names on the node: several data directories can live on one node.
    tag: String,
    /// What ip_forward was before the first of them came.
    forward: String,
    #[serde(skip)]
    directory: PathBuf,
}

impl Host {
    /// Reads or chooses the pod network of the data directory `directory`.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Kernel { what, source };
        let file = directory.join("network.json");
        if let Some(host) = super::read::<Self>(&file)? {
            return Ok(Self { directory: directory.to_owned(), ..host });
        }
        let mut host = Self::choose(directory).map_err(failed("choosing a pod network"))?;
        // Another instance has switched it on: it goes off with the last of them.
        if tables()?.iter().any(|name| name == rules::ROUTER) {
            host.forward = "0".to_owned();
        }
        let text = serde_json::to_vec(&host).map_err(io::Error::other);
        text.and_then(|text| whole(&file, &text)).map_err(failed("writing network.json"))?;
        Ok(host)
    }

    fn choose(directory: &Path) -> io::Result<Self> {
        let hash = Sha256::digest(directory.as_os_str().as_encoded_bytes());
        let (first, tag) = (hash.first().copied().unwrap_or_default(), hash.iter().skip(1).take(3));
        let tag = tag.fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let routes = fs::read_to_string("/proc/net/route")?;
        let third = (0..=u8::MAX)
            .map(|step| first.wrapping_add(step))
            .find(|third| !taken(&routes, Ipv4Addr::new(10, 244, *third, 0)))
            .ok_or_else(|| io::Error::other("every 10.244.X.0/24 is in use"))?;
        let forward = fs::read_to_string(FORWARD)?.trim().to_owned();
        Ok(Self { third, tag, forward, directory: directory.to_owned() })
    }

    /// The CNI configuration of this network.
    pub(super) fn cni(&self) -> Cni {
        Cni { bridge: self.bridge(), subnet: self.subnet(), state: self.directory.join("cni") }
    }

    /// The file of the ports.
    pub(super) fn ports(&self) -> PathBuf {
        self.directory.join("ports.json")
    }

    /// Network of the pods.
    fn network(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.third, 0)
    }

    /// It and its prefix length, as text.
    fn subnet(&self) -> String {
        format!("{}/{PREFIX}", self.network())
    }

    /// The node's address on it: the first, as the address plug-in chooses it.
    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.third, 1)
    }

    /// Name of the bridge.
    pub(super) fn bridge(&self) -> String {
        format!("{}{}", rules::BRIDGES, self.tag)
    }

    /// Hardware address of the bridge: made again, it is still the one that pods know.
    pub(super) fn mac(&self) -> MacAddress {
        MacAddress([0x0a, 0x58, 10, 244, self.third, 1])
    }

    fn table(&self) -> String {
        format!("{}{}", rules::TABLES, self.tag)
    }

    /// Makes the bridge; one that is there keeps its ports. It has no IPv6: nothing there is offered to pods.
    pub(super) fn make_bridge(&self) -> Result<(), Error> {
        let bridge = self.bridge();
        let making = || super::link("making the bridge of the pod network");
        let (mut links, _) = sockets().map_err(making())?;
        let there = route::link_named(&mut links, None, &bridge).map_err(making())?;
        let wanted = |link: Link| link.mtu(cni::MTU).address(self.mac().0);
        let request = match &there {
            Some(link) => wanted(Link::of(link.index)).bridge(OPTIONS).set(),
            None => wanted(Link::new_bridge(&bridge, OPTIONS)).create(),
        };
        links.order(&request).map_err(making())?;
        let made = route::link_named(&mut links, None, &bridge).map_err(making())?;
        let index = made.ok_or(Error::Port("the bridge of the pod network went away"))?.index;
        let address = Address { index, address: self.gateway(), prefix: PREFIX };
        let last = Ipv4Addr::from(u32::from(self.network()) | 0xff);
        links.order(&address.put(Some(last))).map_err(super::link("giving the bridge its address"))?;
        let failed = |what| move |source| Error::Kernel { what, source };
        match fs::write(format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"), "1") {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(failed("switching IPv6 off on the bridge"))?,
        }
        link::up(&bridge).map_err(failed("setting the bridge up"))
    }

    /// Lets the node forward. Only after the rules that say what.
    pub(super) fn forward(&self) -> Result<(), Error> {
        let failed = |source| Error::Kernel { what: "setting net.ipv4.ip_forward", source };
        fs::write(FORWARD, "1").map_err(failed)
    }

    /// Hands what rules are made from to `work`.
    pub(super) fn with_facts<T>(&self, work: impl FnOnce(&Facts<'_>) -> T) -> T {
        let others = (self.forward == "0").then(bridges);
        work(&Facts {
            bridge: &self.bridge(),
            table: &self.table(),
            subnet: (self.network(), PREFIX),
            gateway: self.gateway(),
            mac: self.mac(),
            connections: connections(),
            others: others.as_ref(),
        })
    }

    /// Removes everything; only when no pod is left.
    pub(super) fn tear_down(&self) -> Result<(), Error> {
        let bridge = self.bridge();
        delete(&bridge)?;
        let opening = super::link("opening a netlink socket");
        let (_, mut rules) = sockets().map_err(opening)?;
        rules::removal(&self.table()).send(rules.channel())?;
        let mut left = tables()?;
        if left.iter().all(|name| name == rules::ROUTER || !name.starts_with(rules::TABLES)) {
            // No other instance is left.
            rules::router_removal().send(rules.channel())?;
            left.retain(|name| name != rules::ROUTER);
        }
        let failed = |source| Error::Kernel { what: "restoring net.ipv4.ip_forward", source };
        // Others may have come to rely on forwarding: give it back only while nothing else looks like a router.
        if self.forward == "0" && left.is_empty() {
            fs::write(FORWARD, "0").map_err(failed)?;
        }
        for file in [self.directory.join("network.json"), self.ports()] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What pods may take of the kernel's table of connections. Without the module there is no size yet: of what kernels choose
/// for the smallest nodes.
fn connections() -> Connections {
    let most = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    let most = most.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(16_384);
    Connections::share(most)
}

/// Names of the node's nf_tables tables.
fn tables() -> Result<Vec<String>, Error> {
    let listing = || super::link("listing the node's nf_tables tables");
    let (_, mut rules) = sockets().map_err(listing())?;
    nft::tables(&mut rules).map_err(listing())
}

/// Removes a link of the node; fine when it is not there.
pub(super) fn delete(name: &str) -> Result<(), Error> {
    let removing = || super::link("removing a link of the pod network");
    let (mut links, _) = sockets().map_err(removing())?;
    let Some(link) = route::link_named(&mut links, None, name).map_err(removing())? else { return Ok(()) };
    match links.order(&route::delete_link(link.index)) {
        // It went by itself, with its other end.
        Err(error) if error.errno() == Some(rustix::io::Errno::NODEV) => Ok(()),
        other => other.map_err(removing()),
    }
}

/// The node's bridges. Names come from administrators: what could not stand in a rule is left out.
fn bridges() -> BTreeSet<String> {
    let plain = |name: &String| name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let bridges = links.filter(|link| link.path().join("bridge").is_dir());
    bridges.filter_map(|link| link.file_name().into_string().ok()).filter(plain).collect()
}

/// A route of `/proc/net/route` other than the default one covers the network.
fn taken(routes: &str, network: Ipv4Addr) -> bool {
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok().map(from_kernel);
        let (destination, mask) = (number(fields.nth(1)), number(fields.nth(5)));
        match (destination, mask) {
            (Some(destination), Some(mask)) if mask != 0 => {
                let network = u32::from(network);
                let shared = mask & 0xffff_ff00;
                destination & shared == network & shared
            }
            _ => false,
        }
    })
}

/// The kernel prints the network-order bytes as a native number.
fn from_kernel(number: u32) -> u32 {
    u32::from_be_bytes(number.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_with_a_route_is_taken() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            fv-1\t0003F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert!(taken(routes, Ipv4Addr::new(10, 244, 3, 0)));
        assert!(!taken(routes, Ipv4Addr::new(10, 244, 4, 0)));
        let wide = "h\nx\t0000F40A\t0\t1\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert!(taken(wide, Ipv4Addr::new(10, 244, 4, 0)));
    }

    #[test]
    fn a_network_that_cannot_be_read_is_not_chosen_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("network.json");
        for text in ["", "{", r#"{"third": 300}"#] {
            fs::write(&file, text).unwrap();
            let error = Host::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("network.json") && error.contains("remove"), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let host = Host { third: 7, tag: "t".into(), forward: "0".into(), directory: PathBuf::new() };
        whole(&file, &serde_json::to_vec(&host).unwrap()).unwrap();
        assert_eq!(Host::open(directory.path()).unwrap().third, 7);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no part is left");
    }
}
