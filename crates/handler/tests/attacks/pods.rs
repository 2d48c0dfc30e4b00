//! A machine's side of a pod, made from outside.

use crate::Namespace;
use ferrovirt_handler::net::{
    Refusal,
    descriptors::Descriptors,
    pod::{BRIDGE, Pod},
    rules::{Port, Protocol},
};
use ferrovirt_netlink::Channel;
use std::os::fd::{AsFd, OwnedFd};

/// Through what a launcher without a capability has sent.
fn pod(ns: &Namespace, queues: usize) -> (Pod, Vec<OwnedFd>) {
    let Descriptors { tun, route, netfilter, .. } = ns.sent(queues);
    (Pod::new(ns.open.as_fd(), Channel::new(route), Channel::new(netfilter)).unwrap(), tun)
}

const ETH0: &str = "ip link add eth0 type veth peer name other; ip addr add 192.0.2.7/24 dev eth0; \
                    ip link set eth0 up; ip link set other up";

#[test]
fn a_guest_behind_translation_is_forwarded_to_and_the_pod_is_no_router_for_others() {
    let ns = Namespace::new();
    // A new namespace takes over the machine's setting.
    ns.sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
    ns.sh(ETH0);
    let (mut pod, tun) = pod(&ns, 2);
    let ports = [Port { protocol: Protocol::Udp, port: 53 }];
    let hub = pod.masquerade(1400, &ports).unwrap();
    pod.forward().unwrap();
    let port = pod.tap(&tun, 107, 1400).unwrap();
    port.verify(pod.view(), Some(&hub)).unwrap();
    let read = |name: &str| ns.sh(&format!("cat /proc/sys/net/ipv4/{name}")).trim().to_owned();
    assert_eq!(read("conf/eth0/forwarding"), "1");
    assert_eq!(read(&format!("conf/{BRIDGE}/forwarding")), "1");
    assert_eq!(read(&format!("conf/{BRIDGE}/route_localnet")), "1");
    assert_eq!([read("ip_forward"), read("conf/other/forwarding")], ["0", "0"]);
    let shown = ns.sh("ip -o link show tap0; nft list ruleset");
    assert!(shown.contains("mtu 1400") && shown.contains("udp dport 53 dnat to 10.0.2.2"), "{shown}");
}

#[test]
fn a_pods_interface_is_taken_only_if_that_changes_no_link_of_the_node() {
    let ns = Namespace::new();
    ns.sh("ip link add eth0 type bridge; ip addr add 192.0.2.7/24 dev eth0");
    let before = ns.sh("ip -o addr; ip -o link");
    let refused = pod(&ns, 1).0.bridge(1500);
    assert!(matches!(refused, Err(Refusal::Interface(_))), "{refused:?}");
    assert_eq!(ns.sh("ip -o addr; ip -o link"), before);
    // A name beside its own is not enough either.
    ns.sh(&format!("ip link delete eth0; {}", ETH0.replace("eth0", "net1")));
    ns.sh("ip link property add dev net1 altname eth0");
    assert!(matches!(pod(&ns, 1).0.bridge(1500), Err(Refusal::Interface(_))));
    assert!(matches!(pod(&ns, 1).0.forward(), Err(Refusal::Interface(_))));
}

#[test]
fn a_guest_takes_the_place_of_the_pods_interface() {
    let ns = Namespace::new();
    ns.sh(ETH0);
    ns.sh("ip link set eth0 address 02:00:00:00:00:07; ip addr add 192.0.2.8/24 dev eth0");
    let (mut pod, tun) = pod(&ns, 1);
    let (_, taken) = pod.bridge(1500).unwrap();
    assert_eq!(
        (taken.mac, taken.address.to_string(), taken.prefix),
        ([2, 0, 0, 0, 0, 7], "192.0.2.7".into(), 24)
    );
    pod.tap(&tun, 107, 1500).unwrap();
    let shown = ns.sh("ip -o link; ip -o -4 addr; nft list ruleset");
    assert!(!shown.contains("192.0.2.7/24") && !shown.contains("192.0.2.8/24"), "{shown}");
    assert!(shown.contains("02:00:00:00:00:f8") && shown.contains("arp saddr ip != {"), "{shown}");
    for name in ["eth0-nic", "tap0"] {
        let link = ns.sh(&format!("ip -o link show {name}"));
        assert!(link.contains(&format!("master {BRIDGE}")), "{link}");
    }
    // Nothing is made twice.
    assert!(matches!(pod.bridge(1500), Err(Refusal::Interface(_))));
    assert!(matches!(pod.masquerade(1500, &[]), Err(Refusal::Present(_))));
}
