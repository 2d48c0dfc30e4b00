//! `virt-handler net` as a process, with launchers in network namespaces of the tests: what it makes, what it refuses, what
//! it holds, and which right is missed how. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "net/attacks.rs"]
mod attacks;
#[path = "net/machine.rs"]
mod machine;
#[path = "net/rights.rs"]
mod rights;
#[path = "net/support.rs"]
mod support;

use ferrovirt_handler::net::talk::{Binding, ToApi, Wanted};
use std::net::Ipv4Addr;
use support::{Fake, Node, POD, Pod, Users};

fn wanted(queues: u32) -> Wanted {
    Wanted { queues, binding: Binding::Masquerade { ports: vec![] }, mtu: None, addresses: vec![POD.into()] }
}

/// Asks for a network and lets the launcher send what it should; the answer.
fn prepare(node: &Node, slot: &str, fake: &Fake<'_>, wanted: Wanted) -> ToApi {
    let queues = usize::try_from(wanted.queues).unwrap();
    node.prepare(slot, wanted);
    fake.asked(queues);
    fake.send(&fake.open(queues));
    node.next().0
}

#[test]
fn the_guests_frames_go_through_the_pods_interface_with_one_queue_and_with_four() {
    let node = Node::start();
    for queues in [1, 4] {
        let pod = Pod::new();
        let slot = node.slot(queues);
        let fake = Fake::connect(&node, &slot, &pod.ns);
        node.linked(&slot);
        let opened = fake.open(usize::try_from(queues).unwrap());
        node.prepare(&slot, wanted(queues));
        fake.asked(usize::try_from(queues).unwrap());
        fake.send(&opened);
        let ToApi::Ready { slot: of, facts } = node.next().0 else { panic!("it is not made") };
        assert_eq!(
            (of.as_str(), facts.bridge.as_str(), facts.tap.as_str()),
            (slot.as_str(), "k6t-eth0", "tap0")
        );
        assert_eq!((facts.mac, facts.address, facts.prefix), (pod.mac, POD, 24));
        assert_eq!((facts.mtu, facts.gateway), (1500, Some(Ipv4Addr::new(192, 0, 2, 1))));
        let shown = pod.ns.sh("ip -o -d link show tap0; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward");
        assert_eq!(shown.contains("multi_queue"), queues > 1, "{shown}");
        for word in ["master k6t-eth0", "learning off", "dnat to 10.0.2.2", "table arp kubevirt"] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        assert!(shown.ends_with("0\n"), "{shown}");
        pod.speaks_through(&opened[3..]);
        // One network in the life of a slot.
        node.prepare(&slot, wanted(queues));
        let ToApi::Refused { why, .. } = node.next().0 else { panic!("a second one") };
        assert!(why.contains("had its network already"), "{why}");
        node.gone(&slot);
    }
}

/// As in a pod, where nobody sees the processes of another one, and api's least of all.
#[test]
fn launchers_and_api_in_other_pid_namespaces_are_served() {
    let node = Node::start_with(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let pod = Pod::new();
    let slot = node.slot(1);
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    assert!(matches!(prepare(&node, &slot, &fake, wanted(1)), ToApi::Ready { .. }));
}

#[test]
fn with_bridge_binding_the_pods_interface_is_taken() {
    let (node, users) = (Node::start(), Users::new());
    taken_by_bridge(&node, 1, &Pod::new());
    taken_by_bridge(&node, 2, &Pod::of(&users));
}

fn taken_by_bridge(node: &Node, number: u32, pod: &Pod) {
    let slot = node.slot(number);
    let fake = Fake::connect(node, &slot, &pod.ns);
    node.next();
    let wanted = Wanted { binding: Binding::Bridge, ..wanted(1) };
    let ToApi::Ready { facts, .. } = prepare(node, &slot, &fake, wanted) else { panic!("it is not made") };
    assert_eq!((facts.mac, facts.address), (pod.mac, POD));
    assert_eq!(facts.gateway, Some(Ipv4Addr::new(192, 0, 2, 1)));
    let shown = pod.ns.sh("ip -o link show eth0-nic; ip -o -4 addr");
    assert!(shown.contains("master k6t-eth0") && !shown.contains("192.0.2.7"), "{shown}");
    node.gone(&slot);
}

#[test]
fn what_is_said_is_passed_on_as_it_is_and_known_to_a_later_api() {
    let mut node = Node::start();
    let pod = Pod::new();
    let slot = node.slot(1);
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    fake.link.send(b"\"first\xff\n{", &[]).unwrap();
    let link = node.link(&slot);
    let said = (ToApi::Said { slot: slot.clone(), link }, b"\"first\xff\n{".to_vec());
    assert_eq!(node.next(), said);
    node.relay(&slot, b"{ \"pause\":\n1}");
    assert_eq!(fake.next(), b"{ \"pause\":\n1}");
    let ToApi::Ready { facts, .. } = prepare(&node, &slot, &fake, wanted(1)) else {
        panic!("it is not made")
    };
    // The newest is heard, and the one before is not.
    let before = node.connect();
    assert!(before.recv(16).unwrap().is_none());
    assert!(matches!(node.next().0, ToApi::Slot { slot: of, .. } if of == slot));
    assert_eq!(node.next().0, ToApi::Ready { slot: slot.clone(), facts });
    assert_eq!(node.next().0, ToApi::Linked { slot: slot.clone(), link, user: 0 });
    assert_eq!(node.next(), said);
    node.end(&slot);
    let why = Some("api has ended it".to_owned());
    assert_eq!(node.next().0, ToApi::Ended { slot: slot.clone(), link: Some(link), why });
    assert!(fake.link.recv(16).unwrap().is_none());
    let _again = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    // It ends with the record, and so does the socket.
    node.gone(&slot);
    assert!(Fake::try_connect(&node, &slot, &pod.ns).is_err());
}

#[test]
fn after_it_was_killed_slots_are_served_in_the_same_directories() {
    let mut node = Node::start();
    let pod = Pod::new();
    let slot = node.slot(1);
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.next();
    node.restart();
    assert!(fake.link.recv(16).unwrap().is_none(), "its children end with it");
    assert!(matches!(node.next().0, ToApi::Slot { slot: of, .. } if of == slot));
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    assert!(matches!(prepare(&node, &slot, &fake, wanted(2)), ToApi::Ready { .. }));
    // One that begins when there is a network knows whose it is, and makes no other.
    node.restart();
    assert!(matches!(node.next().0, ToApi::Slot { slot: of, .. } if of == slot));
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let other = node.slot(2);
    let _stranger = Fake::connect(&node, &other, &pod.ns);
    assert!(node.ended().contains(&format!("belongs to the slot {slot}")));
    let before = pod.ns.sh("nft list ruleset");
    let ToApi::Refused { why, .. } = prepare(&node, &slot, &fake, wanted(2)) else { panic!("a second one") };
    assert!(why.contains("k6t-eth0 already") && why.contains("delete the pod"), "{why}");
    // Anyone who asks again learns the same.
    node.prepare(&slot, wanted(2));
    assert!(node.refused().contains(&why));
    assert_eq!(pod.ns.sh("nft list ruleset"), before);
}
