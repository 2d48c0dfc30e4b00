//! A socket of which somebody else has a copy.

use crate::Namespace;
use ferrovirt_netlink::{
    Channel, Error, Message,
    message::ACK,
    nft::{Batch, Family, Rule, Table},
    route::{self, Bridge, Link},
};
use ferrovirt_sys::netlink::{self, Protocol};
use rustix::io::Errno;
use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// A socket of a namespace, and the copy that its opener keeps.
fn shared(ns: &Namespace, protocol: Protocol) -> (Channel, std::os::fd::OwnedFd) {
    let socket = ns.inside(|| netlink::open(protocol).unwrap());
    let copy = socket.try_clone().unwrap();
    (Channel::new(socket), copy)
}

/// The bytes of a request that is not marked as one: the kernel does nothing and says success, no matter who sends it.
fn not_a_request(message: &Message, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.write(ACK, sequence, &mut bytes).unwrap();
    // `nlmsg_flags` without `NLM_F_REQUEST`.
    bytes[6] &= !1;
    bytes
}

#[test]
fn success_that_the_other_side_has_made_is_not_taken_for_the_kernels() {
    let ns = Namespace::new();
    let (mut channel, copy) = shared(&ns, Protocol::Route);
    let bridge = || Link::new_bridge("br0", Bridge::default()).create();
    channel.order(&bridge()).unwrap();
    // Of the very message and number that come next, and some more.
    for sequence in 0..20 {
        netlink::send_to_kernel(copy.as_fd(), &not_a_request(&bridge(), sequence)).unwrap();
    }
    assert_eq!(channel.order(&bridge()).unwrap_err().errno(), Some(Errno::EXIST));
    // Nor is an error of another request taken for this one's.
    let mut foreign = Vec::new();
    route::delete_link(4000).write(ACK, 4, &mut foreign).unwrap();
    netlink::send_to_kernel(copy.as_fd(), &foreign).unwrap();
    channel.order(&Link::new_bridge("br1", Bridge::default()).create()).unwrap();
    assert!(ns.sh("ip -o link").contains("br1"));
}

#[test]
fn answers_that_are_taken_away_end_the_channel_in_time() {
    let ns = Namespace::new();
    let (channel, copy) = shared(&ns, Protocol::Route);
    let mut channel = channel.with_timeout(Duration::from_millis(100));
    // What the other side does to a socket that does not block.
    rustix::io::ioctl_fionbio(&copy, false).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 65536];
            while !over.load(Ordering::Relaxed) {
                let _taken = netlink::receive(copy.as_fd(), &mut buffer);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        let lost = loop {
            match channel.order(&Link::of(1).up().set()) {
                Ok(()) => assert!(Instant::now() < deadline, "no answer was taken away"),
                Err(error) => break error,
            }
        };
        over.store(true, Ordering::Relaxed);
        assert!(matches!(lost, Error::Timeout), "{lost}");
    });
    assert!(matches!(channel.order(&Link::of(1).up().set()), Err(Error::Over)));
}

#[test]
fn every_part_of_a_batch_is_answered_or_the_batch_has_failed() {
    let ns = Namespace::new();
    let table = Table { family: Family::Inet, name: "t" };
    let mut batch = Batch::new();
    batch.table(table);
    batch.chain(table, "c");
    for _ in 0..200 {
        batch.rule(table, "c", Rule::new().counter().accept());
    }
    let (mut channel, _copy) = shared(&ns, Protocol::Netfilter);
    batch.send(&mut channel).unwrap();
    // The other side has made the buffer too small for the answers.
    let (channel, copy) = shared(&ns, Protocol::Netfilter);
    rustix::net::sockopt::set_socket_recv_buffer_size(&copy, 0).unwrap();
    let mut channel = channel.with_timeout(Duration::from_millis(100));
    assert!(batch.send(&mut channel).is_err());
    assert!(matches!(batch.send(&mut channel).unwrap_err().source, Error::Over));
}

#[test]
fn only_the_senders_capability_counts() {
    let ns = Namespace::new();
    // Opened by a thread that has no capability, and used by one that has.
    let open = |protocol| {
        ns.inside(|| {
            let none = rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none).unwrap();
            let socket = netlink::open(protocol).unwrap();
            let own = Channel::new(socket.try_clone().unwrap())
                .order(&Link::new_bridge("br0", Bridge::default()).create());
            (socket, own.map_err(|error| error.errno()))
        })
    };
    let (route, own) = open(Protocol::Route);
    assert_eq!(own, Err(Some(Errno::PERM)), "the opener itself may not");
    Channel::new(route).order(&Link::new_bridge("br0", Bridge::default()).create()).unwrap();
    let (rules, _) = open(Protocol::Netfilter);
    let mut batch = Batch::new();
    batch.table(Table { family: Family::Inet, name: "t" });
    batch.send(&mut Channel::new(rules)).unwrap();
    assert!(ns.sh("nft list tables; ip -o link").contains("br0"));
}
