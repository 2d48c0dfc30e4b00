//! Names and addresses of one cluster: where its parts are on this machine. Nothing here touches the machine.

use anyhow::{Result, ensure};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Below it each cluster has a directory of its own, which holds everything that it writes.
pub const BASE: &str = "/var/lib/ferrovirt-cluster";
/// The control plane's address. Every cluster has the same addresses: each is alone in its network namespaces.
pub const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The first address of the range for Services: the API server's own Service.
pub const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Addresses for Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// The API server's port.
pub const PORT: u16 = 6443;
/// More nodes than this have no address in the plan.
const MOST_NODES: u8 = 20;
/// What keeps the names of namespaces and interfaces short enough.
const LONGEST_NAME: usize = 20;

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    name: String,
    nodes: u8,
    base: PathBuf,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// From 1.
    pub number: u8,
    /// Its name as Kubernetes shows it, which is its host name: `node1`.
    pub name: String,
    /// Its network namespace, as `ip netns` shows it.
    pub namespace: String,
    /// Its address towards the control plane and the other nodes.
    pub address: Ipv4Addr,
    /// Its own copies of what a node keeps, such as the kubelet's directory.
    pub directory: PathBuf,
    /// Its control group in each hierarchy, from the hierarchy's root.
    pub cgroup: String,
}

impl Layout {
    /// A cluster of `nodes` nodes. Its name is a part of names of namespaces, cgroups and files.
    pub fn new(name: &str, nodes: u8) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        ensure!(
            !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(plain),
            "a cluster's name is 1 to {LONGEST_NAME} small letters and digits, not `{name}`"
        );
        ensure!((1..=MOST_NODES).contains(&nodes), "a cluster has 1 to {MOST_NODES} nodes, not {nodes}");
        Ok(Self { name: name.to_owned(), nodes, base: PathBuf::from(BASE) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything that it writes is below this directory.
    pub fn directory(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    /// A file or directory of its own.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.directory().join(below)
    }

    /// The network namespace of the control plane.
    pub fn namespace(&self) -> String {
        format!("fvc-{}", self.name)
    }

    /// Whether a network namespace of this name belongs to this cluster, however many nodes it had.
    pub fn owns_namespace(&self, name: &str) -> bool {
        let own = self.namespace();
        name == own
            || name
                .strip_prefix(&own)
                .and_then(|rest| rest.strip_prefix("-node"))
                .is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
    }

    /// The control group that holds those of its nodes, from a hierarchy's root.
    pub fn cgroup(&self) -> String {
        format!("/ferrovirt-cluster/{}", self.name)
    }

    /// Its nodes.
    pub fn nodes(&self) -> Vec<Node> {
        (1..=self.nodes).map(|number| self.node(number)).collect()
    }

    fn node(&self, number: u8) -> Node {
        let name = format!("node{number}");
        Node {
            number,
            namespace: format!("{}-{name}", self.namespace()),
            address: Ipv4Addr::new(172, 30, 0, 10 + number),
            directory: self.directory().join(&name),
            cgroup: format!("{}/{name}", self.cgroup()),
            name,
        }
    }
}

impl Node {
    /// The addresses of its pods, as `ADDRESS/BITS`.
    pub fn pods(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_addresses_and_names_of_their_own() {
        let layout = Layout::new("dev", 2).unwrap();
        let nodes = layout.nodes();
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[0].name, "node1");
        assert_eq!(nodes[0].address.to_string(), "172.30.0.11");
        assert_eq!(nodes[1].pods(), "10.244.2.0/24");
        assert_eq!(nodes[1].namespace, "fvc-dev-node2");
        assert_eq!(nodes[1].cgroup, "/ferrovirt-cluster/dev/node2");
        assert_eq!(nodes[1].directory, Path::new("/var/lib/ferrovirt-cluster/dev/node2"));
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for name in ["", "..", "a/b", "A", "a-b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(Layout::new(name, 1).is_err(), "{name}");
        }
        assert!(Layout::new("dev", 0).is_err());
        assert!(Layout::new("dev", 21).is_err());
    }

    #[test]
    fn only_its_own_namespaces_belong_to_a_cluster() {
        let layout = Layout::new("dev", 1).unwrap();
        for own in ["fvc-dev", "fvc-dev-node1", "fvc-dev-node17"] {
            assert!(layout.owns_namespace(own), "{own}");
        }
        for other in ["fvc-dev2", "fvc-dev2-node1", "fvc-dev-node", "fvc-dev-nodex", "fv-1", ""] {
            assert!(!layout.owns_namespace(other), "{other}");
        }
    }
}
