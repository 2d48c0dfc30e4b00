//! What holds on the node, no matter who changes it meanwhile.

use crate::support::{Node, soon};
use ferrovirt_node::network::Network;
use ferrovirt_node::network::{Isolation, Policy};
use ferrovirt_sys::netns;

#[test]
fn rules_and_bridge_that_somebody_removed_come_back_with_their_pods() {
    let node = Node::new();
    let (first, second, other) = (node.pod("a1", "alpha"), node.pod("a2", "alpha"), node.pod("b1", "beta"));
    let bridge = node.bridge();
    let rules = node.ns.sh("nft -s list ruleset");
    let link = node.ns.sh(&format!("ip -d -o link show {bridge}"));
    let options = |text: &str| {
        text.split_once("link/ether").unwrap().1.split_once(" hello_timer").unwrap().0.to_owned()
    };

    node.ns.sh("nft flush ruleset");
    assert!(first.ns.pings(other.ip()), "without rules nothing is kept apart");
    node.assert(None);
    assert_eq!(node.ns.sh("nft -s list ruleset"), rules);
    assert!(!first.ns.pings(other.ip()));

    node.ns.sh(&format!("ip link delete {bridge}"));
    assert!(!first.ns.pings(second.ip()));
    node.assert(None);
    assert_eq!(options(&node.ns.sh(&format!("ip -d -o link show {bridge}"))), options(&link));
    // Neighbours that did not answer meanwhile are asked again after a while.
    soon("the pods to reach each other", || first.ns.pings(second.ip()) && first.ns.pings(first.gateway()));
    assert!(!first.ns.pings(other.ip()));
    soon("the node to reach the pods", || node.ns.pings(second.ip()));

    // The next pod does it too.
    node.ns.sh(&format!("ip link delete {bridge}"));
    let third = node.pod("a3", "alpha");
    soon("all pods to reach each other", || third.ns.pings(first.ip()) && first.ns.pings(second.ip()));
}

#[test]
fn without_its_bridge_a_port_reaches_nothing_of_the_node() {
    let node = Node::new();
    let pod = node.pod("a1", "alpha");
    let (_listener, port) = node.ns.listen();
    let address = std::net::Ipv4Addr::new(192, 0, 2, 1);
    node.ns.sh(&format!("ip addr add {address}/32 dev lo && ip link delete {}", node.bridge()));
    assert!(!pod.ns.connects(address, port));
}

#[test]
fn an_address_comes_back_although_the_namespace_is_gone() {
    let node = Node::new();
    let pod = node.bare("a1");
    assert_eq!(node.network().holders(), ["a1".to_owned()].into());
    netns::delete(&pod.ns.path).unwrap();
    node.release("a1", &pod.ns.path);
    assert!(node.network().holders().is_empty());

    // With a port, and a namespace that something still holds.
    let pod = node.pod("a2", "alpha");
    netns::delete(&pod.ns.path).unwrap();
    node.release("a2", &pod.ns.path);
    assert!(node.network().holders().is_empty());
    let links = node.ns.sh("ip -o link");
    assert!(!links.contains(&pod.attachment.port), "{links}");
}

#[test]
fn what_holds_is_known_to_the_next_agent() {
    let node = Node::new();
    let (pod, other) = (node.pod("a1", "alpha"), node.pod("b1", "beta"));
    let open = Policy { isolation: Isolation::None, ..Policy::default() };
    node.assert(Some(&open));
    node.ns.sh("nft flush ruleset");
    let next = node.again();
    assert_eq!(next.holders(), ["a1".to_owned(), "b1".to_owned()].into());
    assert!(pod.ns.pings(other.ip()));
    node.ns.inside(|| next.assert(Some(&Policy::default())).unwrap());
    assert!(!pod.ns.pings(other.ip()) && node.ns.pings(pod.ip()));
}

#[test]
fn a_running_pod_comes_back_by_its_record_and_not_by_who_is_there() {
    let node = Node::new();
    let (pod, other) = (node.pod("a1", "alpha"), node.pod("a2", "alpha"));
    // The file of ports is lost, and anyone who is in the pod has changed its address.
    std::fs::remove_file(node.directory.path().join("ports.json")).unwrap();
    let forged = "02:00:00:00:ba:d0";
    pod.ns.sh(&format!("ip link set eth0 address {forged}"));
    let next = node.again();
    let adopt = |id: &str, pod: &crate::support::Pod, port| {
        node.ns.inside(|| next.adopt(id, &pod.ns.path, port)).map_err(|error| error.to_string())
    };
    assert!(!other.ns.pings(other.gateway()), "who is not known is not heard");
    let error = adopt("a2", &other, None).unwrap_err();
    assert!(error.contains("delete the pod"), "{error}");
    let error = adopt("a2", &other, Some(pod.port("alpha"))).unwrap_err();
    assert!(error.contains("not the port"), "{error}");
    adopt("a1", &pod, Some(pod.port("alpha"))).unwrap();
    adopt("a2", &other, Some(other.port("alpha"))).unwrap();
    soon("the pod to be heard", || other.ns.pings(other.gateway()));
    assert!(!pod.ns.pings(pod.gateway()), "an address of its own choice is heard");
    pod.ns.sh(&format!("ip link set eth0 address {}", pod.attachment.mac));
    soon("the pod to be heard", || pod.ns.pings(pod.gateway()) && pod.ns.pings(other.ip()));
    // Known already: said again, nothing changes.
    let rules = node.ns.sh("nft -s list ruleset; bridge fdb");
    adopt("a1", &pod, None).unwrap();
    assert_eq!(node.ns.sh("nft -s list ruleset; bridge fdb"), rules);
}

#[test]
fn two_instances_on_a_node_leave_each_other_alone() {
    let node = Node::new();
    let pod = node.pod("a1", "alpha");
    let directory = tempfile::tempdir().unwrap();
    let second = node.ns.inside(|| Network::set_up(directory.path()).unwrap());
    let place = crate::support::Namespace::new(directory.path().join("pod"));
    let attachment = node.ns.inside(|| second.attach("a1", &place.path).unwrap());
    let port = ferrovirt_node::network::Port {
        name: attachment.port.clone(),
        mac: attachment.mac,
        ip: attachment.address.ip,
        namespace: "alpha".to_owned(),
    };
    node.ns.inside(|| second.admit("a1", port, &Policy::default()).unwrap());
    let address = attachment.address;
    assert_ne!(address.gateway, pod.attachment.address.gateway);
    assert!(place.pings(address.gateway.unwrap()) && pod.ns.pings(pod.gateway()));
    assert!(!place.pings(pod.ip()) && !pod.ns.pings(address.ip), "two instances are two worlds");

    node.release("a1", &pod.ns.path);
    node.tear_down();
    assert_eq!(node.ns.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    assert!(node.ns.pings(address.ip) && place.pings(address.gateway.unwrap()));
    node.ns.inside(|| {
        second.release("a1", &place.path).unwrap();
        second.tear_down().unwrap();
    });
    assert_eq!(node.ns.sh("nft list ruleset; cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
}
