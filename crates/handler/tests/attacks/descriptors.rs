//! Descriptors of other kinds.

use crate::{Namespace, tun, udp};
use ferrovirt_handler::net::{
    Refusal,
    descriptors::{self, Kind, sort},
    tap::make_tap,
    view::View,
};
use ferrovirt_sys::{netlink, tap};
use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with},
};
use std::{
    fs::File,
    num::NonZero,
    os::fd::{AsFd, OwnedFd},
};

fn socket(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> OwnedFd {
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol).unwrap()
}

/// What is wrong with one in this place.
fn refused(ns: &Namespace, place: usize, with: OwnedFd) -> String {
    let mut sent = ns.launcher(1);
    sent[place] = with;
    sort(sent, 1).unwrap_err().to_string()
}

#[test]
fn what_a_launcher_opens_is_taken() {
    let ns = Namespace::new();
    let sent = ns.sent(3);
    assert_eq!(sent.tun.len(), 3);
}

#[test]
fn another_number_is_refused() {
    let ns = Namespace::new();
    for (queues, wanted) in [(0, 1), (2, 1), (1, 2)] {
        let refusal = sort(ns.launcher(queues), wanted).unwrap_err();
        assert!(matches!(refusal, Refusal::Count(_)), "{refusal}");
    }
    assert!(sort(Vec::new(), 1).is_err());
}

#[test]
fn a_socket_for_ping_is_no_socket_for_udp() {
    let ns = Namespace::new();
    ns.sh("echo 0 0 > /proc/sys/net/ipv4/ping_group_range");
    let ping = ns.inside(|| socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)));
    let refusal = refused(&ns, 0, ping);
    assert!(refusal.contains("another protocol"), "{refusal}");
}

/// Bytes for NETLINK_ROUTE destroy sockets there.
#[test]
fn other_netlink_sockets_are_refused() {
    let ns = Namespace::new();
    let diagnosis = Protocol::from_raw(NonZero::new(4).unwrap());
    let family = AddressFamily::NETLINK;
    let open = |protocol| ns.inside(|| socket(family, SocketType::RAW, protocol));
    for place in [1, 2] {
        let refusal = refused(&ns, place, open(Some(diagnosis)));
        assert!(refusal.contains("another protocol"), "{refusal}");
    }
    let route = ns.inside(|| netlink::open(netlink::Protocol::Route).unwrap());
    let netfilter = ns.inside(|| netlink::open(netlink::Protocol::Netfilter).unwrap());
    assert!(refused(&ns, 1, netfilter).contains("another protocol"));
    assert!(refused(&ns, 2, route).contains("another protocol"));
}

#[test]
fn other_sockets_and_files_are_refused() {
    let ns = Namespace::new();
    for place in 0..4 {
        let others: [OwnedFd; 6] = [
            File::open("/dev/null").unwrap().into(),
            File::open("/proc/self/status").unwrap().into(),
            rustix::fs::open("/dev/net/tun", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap(),
            rustix::pipe::pipe().unwrap().0,
            socket(AddressFamily::INET, SocketType::STREAM, None),
            socket(AddressFamily::INET6, SocketType::DGRAM, None),
        ];
        for other in others {
            let refusal = refused(&ns, place, other);
            assert!(refusal.contains(&format!("descriptor {place} of the launcher is no ")), "{refusal}");
        }
    }
    let swapped = ns.inside(tun);
    assert!(refused(&ns, 0, swapped).contains("another kind of file"));
    assert!(refused(&ns, 3, ns.inside(udp)).contains("another kind of file"));
}

#[test]
fn a_queue_of_a_device_that_is_there_is_refused() {
    let ns = Namespace::new();
    let queue = ns.inside(|| {
        let queue = tun();
        tap::join(&queue, "tap0", false).unwrap();
        tap::keep(&queue).unwrap();
        queue
    });
    let mut sent = ns.launcher(1);
    sent[3] = queue;
    assert!(matches!(sort(sent, 1).unwrap_err(), Refusal::Attached(3)));
}

#[test]
fn an_index_that_was_chosen_beforehand_is_forgotten() {
    let ns = Namespace::new();
    let sent = ns.launcher(2);
    for queue in &sent[3..] {
        tap::choose_index(queue.as_fd(), 4711).unwrap();
    }
    let sent = sort(sent, 2).unwrap();
    let mut view = View::of(ns.open.as_fd()).unwrap();
    let made = make_tap(&mut view, "tap0", &sent.tun, 107).unwrap();
    assert_ne!(made.index(), 4711);
    // And it is an attack: without the check it is the device's.
    let other = ns.inside(tun);
    tap::choose_index(other.as_fd(), 4712).unwrap();
    let made = make_tap(&mut view, "tap1", &[other], 107).unwrap();
    assert_eq!(made.index(), 4712);
}

#[test]
fn kinds_are_named_for_the_reader_of_the_refusal() {
    let ns = Namespace::new();
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let refusal = descriptors::check(null.as_fd(), Kind::Tun, 5).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "descriptor 5 of the launcher is no free descriptor of /dev/net/tun: it is another device"
    );
    drop(ns);
}
