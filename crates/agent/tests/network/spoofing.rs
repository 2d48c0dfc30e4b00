//! A guest with the pod's own address (bridge binding) that lies about who it is: frames are written into its TAP
//! queue, as QEMU does it.

use crate::support::{Namespace, Node, Pod, interface, receive, send, soon};
use ferrovirt_agent::machine::network as pod;
use ferrovirt_model::machine::Binding;
use ferrovirt_netlink::mac::MacAddress;
use std::{net::Ipv4Addr, os::fd::OwnedFd};

const BROADCAST: MacAddress = MacAddress([0xff; 6]);
const STRANGER: MacAddress = MacAddress([2, 0, 0, 0, 0xba, 0xd0]);

fn frame(to: MacAddress, from: MacAddress, rest: &[&[u8]]) -> Vec<u8> {
    [&to.0, &from.0, &rest.concat()[..]].concat()
}

fn arp(
    to: MacAddress,
    from: MacAddress,
    operation: u8,
    sender: (MacAddress, Ipv4Addr),
    target: Ipv4Addr,
) -> Vec<u8> {
    let head: &[u8] = &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    frame(to, from, &[head, &sender.0.0, &sender.1.octets(), &[0; 6], &target.octets()])
}

/// An echo request.
fn echo(to: MacAddress, from: MacAddress, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1];
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    frame(to, from, &[&[8, 0], &header, &message])
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// The guest's side of a pod with bridge binding.
fn guest(pod: &Pod) -> OwnedFd {
    bound(pod, Binding::Bridge)
}

fn bound(pod: &Pod, binding: Binding) -> OwnedFd {
    let interfaces = [interface(binding, vec![], 1)];
    pod::prepare(&pod.ns.open, &interfaces).unwrap();
    pod::wire(&pod.ns.open, &interfaces, &pod.attachment, "host").unwrap();
    pod::queues(&pod.ns.open, 1, 107).unwrap().remove(0)
}

/// Asks until there is an answer: a link needs a moment to come up.
fn asks(queue: &OwnedFd, question: &[u8], answered: impl Fn(&[u8]) -> bool) {
    soon("an answer", || {
        send(queue, question);
        let mut buffer = [0; 2048];
        let mut frames = std::iter::from_fn(|| {
            let count = rustix::io::read(queue, &mut buffer).ok()?;
            Some(answered(&buffer[10.min(count)..count]))
        });
        frames.any(|is| is)
    });
}

#[test]
fn a_guest_that_lies_about_its_addresses_changes_nothing_and_is_counted() {
    let node = Node::new();
    // Of one namespace: not even there.
    let (victim, attacker) = (node.pod("a1", "alpha"), node.pod("a2", "alpha"));
    let queue = guest(&attacker);
    let (own, mac, ip, gateway) =
        (attacker.attachment.mac, victim.attachment.mac, victim.ip(), attacker.gateway());
    let link = node.ns.sh(&format!("ip -o link show {}", node.bridge()));
    let bridge: MacAddress =
        link.split_once("link/ether ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();

    // The truth is heard: once the link is up, the gateway answers.
    let truth = arp(BROADCAST, own, 1, (own, attacker.ip()), gateway);
    let answered = |frame: &[u8]| frame.starts_with(&own.0) && frame.get(12..14) == Some(&[8, 6]);
    asks(&queue, &truth, answered);
    assert!(node.ns.pings(ip));
    let before = (node.learned(), node.neighbour(ip));
    assert_eq!(before.1, Some(mac));
    assert!(before.0.contains(&own.to_string()) && before.0.contains(&mac.to_string()), "{before:?}");

    let reserved = |last| MacAddress([1, 0x80, 0xc2, 0, 0, last]);
    let other = Ipv4Addr::from(u32::from(gateway) + 200);
    let lies = [
        // Another's address at one's own hardware address, asked, answered and announced.
        arp(BROADCAST, own, 1, (own, ip), gateway),
        arp(bridge, own, 2, (own, ip), gateway),
        arp(BROADCAST, own, 2, (own, gateway), ip),
        arp(BROADCAST, own, 1, (own, ip), ip),
        // Another's hardware address, in the frame, in the message, in both.
        arp(BROADCAST, mac, 1, (mac, ip), gateway),
        arp(BROADCAST, own, 1, (mac, ip), gateway),
        arp(BROADCAST, own, 1, (mac, attacker.ip()), gateway),
        arp(BROADCAST, mac, 1, (own, attacker.ip()), gateway),
        // Addresses that nobody has.
        arp(BROADCAST, STRANGER, 1, (STRANGER, other), gateway),
        arp(BROADCAST, own, 1, (own, other), gateway),
        echo(bridge, own, ip, gateway),
        echo(bridge, mac, ip, gateway),
        echo(bridge, STRANGER, attacker.ip(), gateway),
        echo(mac, own, other, ip),
        echo(bridge, own, Ipv4Addr::UNSPECIFIED, gateway),
        echo(bridge, own, Ipv4Addr::LOCALHOST, gateway),
    ];
    let odd = [
        // What bridges handle before other rules, and learn from.
        frame(reserved(0x0e), mac, &[&[0x88, 0xcc, 0, 0]]),
        frame(reserved(2), mac, &[&[0x88, 9, 0, 0]]),
        frame(reserved(0), mac, &[&[0, 4, 0x42, 0x42, 3, 0]]),
        [&reserved(0x0e).0[..], &echo(bridge, own, attacker.ip(), gateway)[6..]].concat(),
        // Tagged, and of other protocols.
        frame(bridge, own, &[&[0x81, 0, 0, 0], &echo(bridge, own, attacker.ip(), gateway)[12..]]),
        frame(bridge, own, &[&[0x81, 0, 0, 5], &arp(BROADCAST, own, 1, (own, ip), gateway)[12..]]),
        frame(MacAddress([0x33, 0x33, 0, 0, 0, 1]), own, &[&[0x86, 0xdd, 0x60], &[0; 40]]),
        frame(bridge, own, &[&[0x88, 0x63, 0x11, 9, 0, 0]]),
        // To an address of another's at one's own choice of hardware address, over the node.
        echo(bridge, own, attacker.ip(), ip),
        // About addresses of other networks, which the node would answer for.
        arp(BROADCAST, own, 1, (own, attacker.ip()), Ipv4Addr::new(192, 0, 2, 1)),
    ];
    let (spoofed, refused) = (node.counted("spoofed"), node.counted("refused"));
    for frame in lies.iter().chain(&odd) {
        send(&queue, frame);
    }
    let all = (lies.len() + odd.len()) as u64;
    soon("all frames to be counted", || {
        node.counted("spoofed") + node.counted("refused") >= spoofed + refused + all
    });
    assert!(node.counted("spoofed") >= spoofed + lies.len() as u64);
    assert_eq!((node.learned(), node.neighbour(ip)), before);
    assert_eq!(node.neighbour(other), None);
    assert_eq!(node.neighbour(attacker.ip()), Some(own));
    let entries = node.ns.sh("ip neigh; bridge fdb");
    assert!(!entries.contains(&STRANGER.to_string()), "{entries}");

    // A guest that asks whether its address is free may.
    send(&queue, &arp(BROADCAST, own, 1, (own, Ipv4Addr::UNSPECIFIED), gateway));
    assert!(receive(&queue, answered), "the gateway answers a probe");
}

#[test]
fn frames_for_one_machine_are_not_seen_by_others() {
    let node = Node::new();
    let (quiet, listener) = (node.pod("a1", "alpha"), node.pod("a2", "alpha"));
    let queue = guest(&listener);
    // The node knows where the quiet machine is, and the bridge has forgotten.
    let (ip, mac) = (quiet.ip(), quiet.attachment.mac);
    quiet.ns.sh("ip link set eth0 arp off");
    let bridge = node.bridge();
    node.ns.sh(&format!("ip neigh replace {ip} lladdr {mac} dev {bridge} nud permanent"));
    node.ns.pings(ip);
    node.ns.sh(&format!("bridge fdb del {mac} dev {} master", quiet.attachment.port));
    node.ns.sh(&format!("bridge link set dev {} flood on", listener.attachment.port));
    node.ns.shell(&format!("busybox ping -c1 -W1 {ip}"));
    // What follows is heard: it came after.
    node.ns.sh(&format!("busybox arping -c1 -w1 -I {bridge} {} || true", listener.ip()));
    let mut leaked = false;
    let heard = receive(&queue, |frame| {
        leaked |= frame.starts_with(&mac.0);
        frame.starts_with(&BROADCAST.0) && frame.get(12..14) == Some(&[8, 6])
    });
    assert!(heard && !leaked);
}

/// The node has one table of neighbours for all namespaces, and the memory of bridges is its own.
#[test]
fn a_guest_fills_no_table_in_its_pod() {
    let node = Node::new();
    for (id, binding, server) in [
        ("a1", Binding::Masquerade, Ipv4Addr::new(10, 0, 2, 1)),
        ("a2", Binding::Bridge, Ipv4Addr::new(169, 254, 75, 10)),
    ] {
        let pod = node.pod(id, "alpha");
        let queue = bound(&pod, binding);
        let guest = if binding == Binding::Masquerade { Ipv4Addr::new(10, 0, 2, 2) } else { pod.ip() };
        // Asks for the server, and hears from it.
        let own = MacAddress([2, 0, 0, 0, 0, 1]);
        let asked = arp(BROADCAST, own, 1, (own, guest), server);
        let answered = |frame: &[u8]| frame.starts_with(&own.0) && frame.get(12..14) == Some(&[8, 6]);
        asks(&queue, &asked, answered);
        let reserved = MacAddress([1, 0x80, 0xc2, 0, 0, 0x0e]);
        for number in 0..50 {
            let mac = MacAddress([2, 0, 0, 0, 0xfe, number]);
            send(&queue, &arp(BROADCAST, mac, 1, (mac, Ipv4Addr::new(10, 0, 2, 100 + number)), server));
            send(&queue, &arp(BROADCAST, mac, 1, (mac, Ipv4Addr::new(192, 0, 2, number)), server));
            send(&queue, &frame(reserved, mac, &[&[0x88, 0xcc, 0, 0]]));
        }
        // What follows is heard: it came after.
        send(&queue, &asked);
        assert!(receive(&queue, answered), "{binding:?}");
        let entries = pod.ns.sh("ip neigh; bridge fdb");
        assert!(!entries.contains("02:00:00:00:fe:"), "{binding:?}: {entries}");
        assert!(pod.ns.sh("ip neigh").contains(&own.to_string()), "{binding:?}: the guest itself is known");
    }
}

/// A link that somebody puts on the bridge.
fn stranger(node: &Node, name: &str, address: Ipv4Addr) -> Namespace {
    let ns = Namespace::new(node.directory.path().join(name));
    node.ns.sh(&format!(
        "ip link add {name} type veth peer name eth0 netns {} && ip link set {name} master {} up",
        ns.path.display(),
        node.bridge()
    ));
    ns.sh(&format!("ip addr add {address}/24 dev eth0 && ip link set eth0 up"));
    ns
}

#[test]
fn who_is_no_port_of_a_machine_is_not_heard_and_taken_off_the_bridge() {
    let node = Node::new();
    let pod = node.pod("a1", "alpha");
    let (ip, mac, gateway) = (pod.ip(), pod.attachment.mac, pod.gateway());
    assert!(node.ns.pings(ip));
    let before = (node.learned(), node.neighbour(ip));
    let free = |last: u32| Ipv4Addr::from(u32::from(gateway) + last);
    nobody_hears_what_is_for_everybody(&node, &pod, free(201));
    let (first, second) = (stranger(&node, "str1", free(199)), stranger(&node, "str2", free(200)));
    assert!(!first.pings(gateway), "a stranger reaches the node");
    assert_eq!(node.neighbour(free(199)), None, "the node knows a stranger");
    assert!(!first.pings(ip), "a stranger reaches a machine");
    // In the machine's name, and the bridge still knows where that is.
    first.sh(&format!("ip link set eth0 address {mac} && ip addr add {ip}/24 dev eth0"));
    first.shell(&format!("busybox arping -c2 -w2 -U -I eth0 {ip}; busybox ping -c1 -W1 -I {ip} {gateway}"));
    assert_eq!((known(&node, mac), node.neighbour(ip)), (known_of(&before.0, mac), Some(mac)));
    assert!(node.ns.pings(ip) && pod.ns.pings(gateway), "a machine's address is taken");

    let members = || node.ns.sh(&format!("ip -o link show master {}", node.bridge()));
    assert!(members().contains("str1"));
    node.assert(None);
    assert!(!members().contains("str") && members().contains(&pod.attachment.port), "{}", members());
    assert!(!first.pings(free(200)) && !second.pings(free(199)), "strangers reach each other");
    assert!(node.ns.pings(ip));
}

/// The node and a machine ask everybody on the bridge for an address, before the stranger there is taken off.
fn nobody_hears_what_is_for_everybody(node: &Node, pod: &Pod, nobody: Ipv4Addr) {
    let listener = stranger(node, "str0", nobody);
    let rules = "add table arp probe; add counter arp probe heard; \
        add chain arp probe in { type filter hook input priority 0; }; add rule arp probe in counter name heard";
    listener.sh(&format!("nft '{rules}'"));
    let heard = || listener.sh("nft list counter arp probe heard");
    let other = Ipv4Addr::from(u32::from(nobody) + 1);
    node.ns.shell(&format!("busybox arping -c2 -w2 -I {} {other}", node.bridge()));
    pod.ns.shell(&format!("busybox arping -c2 -w2 -I eth0 {other}"));
    assert!(heard().contains("packets 0 "), "a stranger hears what is asked on the bridge: {}", heard());
    // It would hear it: the link works.
    node.ns.sh("ip link set str0 nomaster && ip addr add 192.0.2.1/24 dev str0");
    node.ns.shell("busybox arping -c2 -w2 -I str0 192.0.2.2");
    assert!(!heard().contains("packets 0 "), "it hears nothing at all");
}

/// What the bridge knows of one address.
fn known(node: &Node, mac: MacAddress) -> String {
    known_of(&node.learned(), mac)
}

fn known_of(learned: &str, mac: MacAddress) -> String {
    let found: Vec<_> = learned.lines().filter(|line| line.starts_with(&mac.to_string())).collect();
    assert!(!found.is_empty(), "{learned}");
    found.join("\n")
}
