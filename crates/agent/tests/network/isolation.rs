//! Who reaches whom.

use crate::support::{Namespace, Node, Pod, TableSize, soon};
use ferrovirt_node::network::{Isolation, Policy};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

#[test]
fn machines_reach_those_of_their_namespace_and_no_others() {
    let node = Node::new();
    let (first, second, other) = (node.pod("a1", "alpha"), node.pod("a2", "alpha"), node.pod("b1", "beta"));
    let (listener, port) = other.ns.listen();
    assert!(first.ns.pings(second.ip()) && second.ns.pings(first.ip()));
    assert!(!first.ns.pings(other.ip()), "alpha reaches beta");
    assert!(!first.ns.connects(other.ip(), port), "alpha reaches a service of beta");
    // Nor over the node, as a neighbour or as a router.
    first.ns.sh(&format!("ip route add {} via {}", other.ip(), first.gateway()));
    assert!(!first.ns.connects(other.ip(), port), "alpha reaches beta over the node");
    let mac = node.ns.sh(&format!("cat /proc/net/arp; ip -o link show {}", first.attachment.port));
    let port_mac = mac.split_once("link/ether ").unwrap().1.split_whitespace().next().unwrap().to_owned();
    first.ns.sh(&format!("ip neigh replace {} lladdr {port_mac} dev eth0 nud permanent", first.gateway()));
    assert!(!first.ns.connects(other.ip(), port), "alpha reaches beta over its port's own address");
    // The node reaches all.
    assert!(node.ns.pings(first.ip()) && node.ns.connects(other.ip(), port));

    let open = Policy { isolation: Isolation::None, ..Policy::default() };
    node.assert(Some(&open));
    first.ns.sh(&format!("ip route del {} via {}", other.ip(), first.gateway()));
    assert!(first.ns.connects(other.ip(), port), "isolation is off, for machines that run");
    node.assert(Some(&Policy::default()));
    assert!(!first.ns.connects(other.ip(), port), "isolation is on again");
    assert!(first.ns.pings(second.ip()));
    drop(listener);
}

#[test]
fn a_pod_that_is_not_in_the_rules_yet_reaches_no_other() {
    let node = Node::new();
    let (known, bare) = (node.pod("a1", "alpha"), node.bare("a2"));
    assert!(!bare.ns.pings(known.ip()));
    node.admit("a2", bare.port("alpha")).unwrap();
    // What asked for the address in vain asks again a second later.
    soon("the pod to reach its namespace", || bare.ns.pings(known.ip()));
    node.release("a2", &bare.ns.path);
    assert!(!bare.ns.pings(known.ip()));
}

#[test]
fn a_hardware_address_is_one_pods() {
    let node = Node::new();
    let (victim, attacker) = (node.pod("a1", "alpha"), node.bare("b1"));
    let gateway = node.ns.sh(&format!("ip -o link show {}", node.bridge()));
    let gateway = gateway.split_once("link/ether ").unwrap().1.split_whitespace().next().unwrap().to_owned();
    for mac in
        [victim.attachment.mac.to_string(), gateway, "01:00:5e:00:00:01".into(), "00:00:00:00:00:00".into()]
    {
        let mut port = attacker.port("beta");
        port.mac = mac.parse().unwrap();
        let error = node.admit("b1", port).unwrap_err();
        assert!(error.contains("name another one") && error.contains(&mac), "{error}");
    }
    node.admit("b1", attacker.port("beta")).unwrap();
    assert!(node.ns.pings(victim.ip()) && node.ns.pings(attacker.ip()));
}

/// Another machine, one cable away from the node.
struct Outside {
    ns: Namespace,
    node: Ipv4Addr,
    ip: Ipv4Addr,
}

impl Outside {
    fn new(node: &Node, name: &str, third: u8) -> Self {
        let ns = Namespace::new(node.directory.path().join(name));
        let (own, ip) = (Ipv4Addr::new(198, 51, third, 1), Ipv4Addr::new(198, 51, third, 2));
        node.ns.sh(&format!(
            "ip link add {name} type veth peer name up0 netns {} && ip addr add {own}/24 dev {name} && ip link set {name} up",
            ns.path.display()
        ));
        ns.sh(&format!(
            "ip addr add {ip}/24 dev up0 && ip link set up0 up && ip route add default via {own}"
        ));
        Self { ns, node: own, ip }
    }
}

#[test]
fn machines_reach_the_outside_and_nobody_reaches_them_from_there() {
    let node = Node::new();
    let pod = node.pod("a1", "alpha");
    let (near, far) = (Outside::new(&node, "near", 100), Outside::new(&node, "far", 101));
    let (_there, port) = near.ns.listen();
    assert!(pod.ns.connects(near.ip, port), "a machine reaches the outside");
    let (_inside, own) = pod.ns.listen();
    assert!(!near.ns.connects(pod.ip(), own), "the outside reaches a machine");
    assert!(node.ns.connects(pod.ip(), own));
    // Switching forwarding on has made the node no router between others.
    assert_eq!(node.ns.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    assert!(!far.ns.connects(near.ip, port), "the node forwards for others");
    // Where a cloud tells an instance its secrets.
    near.ns.sh("ip addr add 169.254.169.254/32 dev up0");
    node.ns.sh("ip route add 169.254.169.254 dev near");
    assert!(node.ns.connects(Ipv4Addr::new(169, 254, 169, 254), port));
    assert!(
        !pod.ns.connects(Ipv4Addr::new(169, 254, 169, 254), port),
        "a machine reaches the metadata of the node"
    );
}

#[test]
fn the_node_answers_pods_as_listed_and_nothing_else() {
    let node = Node::new();
    let pod = node.pod("a1", "alpha");
    let outside = Outside::new(&node, "near", 100);
    let (_listener, port) = node.ns.listen();
    let link_local = || -> Option<IpAddr> {
        let shown = node.ns.sh(&format!("ip -o -6 addr show dev {}", node.bridge()));
        shown.split_once("inet6 ")?.1.split('/').next()?.parse().ok()
    };
    assert_eq!(link_local(), None, "the bridge has an address of IPv6");
    assert!(pod.ns.pings(pod.gateway()), "the gateway answers an echo request");
    for address in [pod.gateway(), outside.node] {
        assert!(!pod.ns.connects(address, port), "a service of the node answers at {address}");
    }
    assert!(!pod.ns.pings(outside.node));
    let open = Policy { tcp: [port].into(), ..Policy::default() };
    node.assert(Some(&open));
    assert!(pod.ns.connects(pod.gateway(), port), "a listed service answers");
    assert!(!pod.ns.connects(outside.node, port), "and only at the gateway's address");
    node.assert(Some(&Policy::default()));
    assert!(!pod.ns.connects(pod.gateway(), port));
}

/// As many packets, each of which is a connection of its own to the node.
fn takes_all(pod: &Pod, to: Ipv4Addr, count: u16) {
    pod.ns.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1..=count {
            // Refusals of the other side come back as errors.
            let _refused = socket.send_to(b"x", (to, port));
        }
    });
}

/// Connections that the node keeps track of.
fn connections(node: &Node) -> u32 {
    node.ns.sh("cat /proc/sys/net/netfilter/nf_conntrack_count").trim().parse().unwrap()
}

#[test]
fn one_machine_cannot_use_up_the_nodes_connections() {
    let node = Node::new();
    let (greedy, other) = (node.pod("a1", "alpha"), node.pod("a2", "alpha"));
    let outside = Outside::new(&node, "near", 100);
    let (_there, port) = outside.ns.listen();
    assert!(greedy.ns.connects(outside.ip, port));
    takes_all(&greedy, outside.ip, 10_000);
    let count = || connections(&node);
    // Half of the table is for as many pods as a node takes.
    let most: u32 = node.ns.sh("cat /proc/sys/net/netfilter/nf_conntrack_max").trim().parse().unwrap();
    assert!(count() <= most / 2 / 110 + 16, "{} of {most}", count());
    assert!(!greedy.ns.connects(outside.ip, port), "there is no limit");
    assert!(other.ns.connects(outside.ip, port), "the limit is everybody's");
}

#[test]
fn all_machines_together_fill_half_of_the_table_and_each_has_its_part_of_that() {
    let node = Node::new();
    let _size = TableSize::new(&node, 16);
    let greedy: Vec<Pod> = (1..8).map(|number| node.pod(&format!("a{number}"), "alpha")).collect();
    let (last, beyond) = (node.pod("b1", "beta"), node.pod("b2", "beta"));
    let outside = Outside::new(&node, "near", 100);
    let (_there, port) = outside.ns.listen();
    for pod in &greedy {
        takes_all(pod, outside.ip, 1000);
    }
    assert_eq!(connections(&node), 7, "one for each of them");
    assert!(last.ns.connects(outside.ip, port), "a machine of another namespace has its part");
    assert!(!beyond.ns.connects(outside.ip, port), "machines have more than half of the table");
    assert!(node.ns.connects(outside.ip, port), "the other half is the node's");
    assert!(connections(&node) < 16);
}
