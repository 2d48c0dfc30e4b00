//! The pod network on the real kernel with the real plug-ins, inside a network namespace that plays the node. Needs
//! root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "network/isolation.rs"]
mod isolation;
#[path = "network/node.rs"]
mod node;
#[path = "network/spoofing.rs"]
mod spoofing;
#[path = "network/support.rs"]
mod support;

use ferrovirt_agent::machine::network::{self as pod, BRIDGE};
use ferrovirt_model::machine::{Binding, Port, Protocol};
use ferrovirt_netlink::mac::MacAddress;
use std::{fs, net::Ipv4Addr, path::PathBuf};
use support::{Namespace, Node, interface};

#[test]
fn a_pod_gets_an_address_a_guest_network_and_leaves_nothing() {
    let node = Node::new();
    let pod = node.pod("pod1", "alpha");
    let address = pod.attachment.address;
    assert_eq!(
        pod.ns.shell("cat /sys/class/net/eth0/mtu; ip -o link show eth0").1.matches("mtu 1500").count(),
        1
    );
    assert_eq!(address.ip.octets()[..2], [10, 244]);
    assert!(node.ns.pings(address.ip));
    assert_eq!(node.ns.shell("cat /proc/sys/net/ipv4/ip_forward").1.trim(), "1");
    // A second set-up changes nothing.
    let rules = node.ns.shell("nft -s list ruleset").1;
    node.again();
    assert_eq!(node.ns.shell("nft -s list ruleset").1, rules);

    let ports = vec![Port { name: None, protocol: Protocol::Tcp, port: 80 }];
    let interfaces = [interface(Binding::Masquerade, ports, 4)];
    // A new namespace takes over the machine's setting.
    pod.ns.sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
    pod::prepare(&pod.ns.open, &interfaces).unwrap();
    let wired = pod::wire(&pod.ns.open, &interfaces, &pod.attachment, "host").unwrap();
    assert_eq!((wired[0].ip, wired[0].lease.address.to_string().as_str()), (address.ip, "10.0.2.2"));
    let queues = pod::queues(&pod.ns.open, 4, 107).unwrap();
    let dhcp = pod::dhcp(&pod.ns.open).unwrap();
    assert_eq!(queues.len(), 4);
    let links = pod.ns.shell("ip -o link; ip -o addr").1;
    assert!(links.contains("tap0") && links.contains(&format!("master {BRIDGE}")), "{links}");
    assert!(links.contains("02:00:00:00:00:00") && links.contains("10.0.2.1/24"), "{links}");
    let rules = pod.ns.shell("nft list ruleset").1;
    assert!(rules.contains("tcp dport 80 dnat to 10.0.2.2"), "{rules}");
    assert_eq!(pod.ns.shell(&format!("cat /proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet")).1.trim(), "1");

    let gateway = address.gateway.unwrap();
    the_guest_speaks_for_itself_only(&node.ns, &pod.ns, node.directory.path().join("guest"), gateway);
    drop((queues, dhcp));
    assert!(!pod.ns.shell("ip -o link").1.contains("tap0"), "a TAP ends with its descriptors");
    node.release("pod1", &pod.ns.path);
    node.release("pod1", &pod.ns.path);
    assert!(node.network().holders().is_empty());
    node.tear_down();
    let left = node.ns.shell("ip -o link; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward").1;
    assert!(!left.contains("fv-") && !left.contains("table") && left.trim().ends_with('0'), "{left}");
    let left: Vec<_> =
        fs::read_dir(node.directory.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name == "network.json" || name == "ports.json"), "{left:?}");
}

/// A guest that takes the address of another pod is not heard outside of its own.
fn the_guest_speaks_for_itself_only(node: &Namespace, pod: &Namespace, guest: PathBuf, gateway: Ipv4Addr) {
    let guest = Namespace::new(guest);
    let [a, b, c, _] = gateway.octets();
    let other = Ipv4Addr::new(a, b, c, 200);
    let place = guest.path.display();
    let plug = format!(
        "ip link add g0 type veth peer name g1 && ip link set g1 master {BRIDGE} up && ip link set g0 netns {place}
        for all in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $all; done"
    );
    assert!(pod.shell(&plug).0);
    assert!(
        guest
            .shell(&format!(
                "ip addr add 10.0.2.2/24 dev g0 && ip addr add {other}/32 dev g0 && ip link set g0 up && \
                 ip route add default via 10.0.2.1 src 10.0.2.2"
            ))
            .0
    );
    let heard = |from: Ipv4Addr| {
        let listen = format!(
            "nft -f - <<. \ntable ip probe\ndelete table ip probe\ntable ip probe {{ chain in {{ \
             type filter hook input priority 0; ip saddr {from} counter; }}; }}\n.\n"
        );
        assert!(node.shell(&listen).0);
        let source = if from == other { other } else { Ipv4Addr::new(10, 0, 2, 2) };
        guest.shell(&format!("busybox ping -c1 -W1 -I {source} {gateway}"));
        let counted = node.shell("nft list table ip probe; nft delete table ip probe").1;
        !counted.contains("packets 0")
    };
    let pod_address = pod.shell("ip -o -4 addr show eth0").1;
    let own = pod_address.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
    assert!(heard(own), "the guest reaches the node with the pod's address");
    assert!(!heard(other), "the guest reaches the node with another's address");
    assert!(pod.shell("ip link delete g1").0);
}

#[test]
fn with_bridge_binding_the_guest_has_the_pods_own_address() {
    let node = Node::new();
    let pod = node.pod("pod1", "alpha");
    let (address, mac) = (pod.attachment.address, pod.attachment.mac);
    let before = pod.ns.shell("ip -o link show eth0").1;
    assert!(before.contains(&mac.to_string()), "{before}");
    let wired =
        pod::wire(&pod.ns.open, &[interface(Binding::Bridge, vec![], 1)], &pod.attachment, "host").unwrap();
    assert_eq!(wired[0].lease.address, address.ip);
    assert_eq!(wired[0].lease.gateway, address.gateway);
    assert_eq!(wired[0].mac, Some(mac));
    let links = pod.ns.shell("ip -o link; ip -o -4 addr").1;
    assert!(links.contains("eth0-nic") && !links.contains(&address.ip.to_string()), "{links}");
    let named = MacAddress([2, 0, 0, 0, 0, 7]);
    let mut interface = interface(Binding::Bridge, vec![], 1);
    interface.mac = Some(named.0);
    assert_eq!(pod::hardware(&[interface.clone()], &pod.attachment), named);
    interface.binding = Binding::Masquerade;
    assert_eq!(pod::hardware(&[interface], &pod.attachment), mac, "behind translation nobody sees it");
}
