//! Devices that are there before, and devices that change.

use crate::{Namespace, tun};
use ferrovirt_handler::net::{
    Refusal,
    tap::{join, make_bridge, make_tap},
    view::View,
};
use ferrovirt_netlink::{
    Channel,
    nft::{Batch, Family, Table},
    route::Bridge,
};
use ferrovirt_sys::tap;
use std::os::fd::AsFd;

fn options() -> Bridge {
    Bridge { forward_delay: Some(0), ageing_time: Some(0), ..Bridge::default() }
}

/// Waits for a TAP to go with its descriptors: a child that another test starts meanwhile has copies of all of them until it
/// executes its program.
fn wait_until_gone(view: &mut View, name: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while view.link(name).unwrap().is_some() {
        assert!(std::time::Instant::now() < deadline, "{name} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_guests_network_is_made_through_descriptors_of_a_launcher_without_capabilities() {
    let ns = Namespace::new();
    let sent = ns.sent(4);
    let mut view = View::of(ns.open.as_fd()).unwrap();
    let mut route = Channel::new(sent.route);
    let bridge = make_bridge(&mut view, &mut route, "k6t-eth0", options(), |link| link.mtu(1500)).unwrap();
    let port = make_tap(&mut view, "tap0", &sent.tun, 107).unwrap();
    join(&mut view, &mut route, &port, &bridge).unwrap();
    let mut batch = Batch::new();
    batch.table(Table { family: Family::Ip, name: "kubevirt" });
    batch.send(&mut Channel::new(sent.netfilter)).unwrap();
    let shown = ns.sh("ip -d -o link show tap0; nft list tables");
    for word in
        ["master k6t-eth0", "multi_queue", "vnet_hdr", "user 107", "learning off", "table ip kubevirt"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    // It ends with its descriptors: nothing is left behind.
    drop(sent.tun);
    wait_until_gone(&mut view, "tap0");
}

#[test]
fn a_tap_that_is_there_before_is_not_taken_over() {
    let ns = Namespace::new();
    // As an init container with rights leaves it: persistent, of another user.
    ns.sh("ip tuntap add dev tap0 mode tap user 4242");
    let sent = ns.sent(1);
    let mut view = View::of(ns.open.as_fd()).unwrap();
    assert!(matches!(make_tap(&mut view, "tap0", &sent.tun, 107), Err(Refusal::Present(_))));
    // Also when it comes between the look and the step.
    let late = tap::make("tap0", &sent.tun, 107).unwrap_err();
    assert_eq!(late.raw_os_error(), Some(rustix::io::Errno::BUSY.raw_os_error()), "{late}");
    assert!(ns.sh("ip -d -o link show tap0").contains("user 4242"));
}

#[test]
fn a_name_that_another_device_has_beside_its_own_is_refused() {
    let ns = Namespace::new();
    ns.sh("ip link add dummy0 type bridge; ip link property add dev dummy0 altname tap0 altname k6t-eth0");
    let sent = ns.sent(1);
    let mut view = View::of(ns.open.as_fd()).unwrap();
    assert!(matches!(make_tap(&mut view, "tap0", &sent.tun, 107), Err(Refusal::Present(_))));
    let mut route = Channel::new(sent.route);
    let refused = make_bridge(&mut view, &mut route, "k6t-eth0", options(), |link| link);
    assert!(matches!(refused, Err(Refusal::Present(_))));
}

#[test]
fn devices_that_were_changed_meanwhile_are_noticed() {
    let ns = Namespace::new();
    let sent = ns.sent(1);
    let mut view = View::of(ns.open.as_fd()).unwrap();
    let mut route = Channel::new(sent.route);
    let bridge = make_bridge(&mut view, &mut route, "k6t-eth0", options(), |link| link).unwrap();
    let port = make_tap(&mut view, "tap0", &sent.tun, 107).unwrap();
    join(&mut view, &mut route, &port, &bridge).unwrap();
    let changed = |view: &mut View| match port.verify(view, Some(&bridge)) {
        Err(Refusal::Changed { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    ns.sh("ip link add br9 type bridge; ip link set tap0 master br9");
    assert_eq!(changed(&mut view), "bridge");
    ns.sh("ip link set tap0 master k6t-eth0");
    port.verify(&mut view, Some(&bridge)).unwrap();
    ns.sh("ip link set tap0 down; ip link set tap0 name tap9");
    assert_eq!(changed(&mut view), "name");
    // Another device under the old name, and one with the index of the first, which went.
    let index = port.index();
    drop(sent.tun);
    wait_until_gone(&mut view, "tap0");
    ns.sh(&format!("ip link add tap0 index {index} type bridge"));
    assert_eq!(changed(&mut view), "kind");
    ns.sh("ip link delete tap0");
    assert_eq!(changed(&mut view), "index");
}

#[test]
fn a_device_of_another_kind_under_the_name_is_refused() {
    let ns = Namespace::new();
    ns.sh("ip link add tap0 type veth peer name other");
    let mut view = View::of(ns.open.as_fd()).unwrap();
    assert!(matches!(make_tap(&mut view, "tap0", &[ns.inside(tun)], 107), Err(Refusal::Present(_))));
}
