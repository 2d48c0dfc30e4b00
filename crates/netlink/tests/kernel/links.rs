//! Links and addresses.

use crate::Namespace;
use ferrovirt_netlink::{
    Error, Socket,
    route::{self, Address, Bridge, Fixed, Link, Port},
};
use ferrovirt_sys::{netlink::Protocol, tap};
use rustix::io::Errno;
use std::net::Ipv4Addr;

fn refusal(result: Result<(), Error>) -> Option<Errno> {
    result.unwrap_err().errno()
}

#[test]
fn a_bridge_is_made_changed_and_removed() {
    let ns = Namespace::new();
    let mut socket = ns.inside(|| Socket::open(Protocol::Route).unwrap());
    // From outside: a socket stays in the namespace where it was opened.
    let options = Bridge {
        forward_delay: Some(0),
        ageing_time: Some(0),
        spanning_tree: Some(false),
        group_forward_mask: Some(0xfff8),
        no_linklocal_learn: Some(true),
        multicast_snooping: Some(false),
    };
    let new = || Link::new_bridge("br0", options).mtu(1400).address([2, 0, 0, 0, 0, 9]).create();
    socket.order(&new()).unwrap();
    assert_eq!(refusal(socket.order(&new())), Some(Errno::EXIST), "a link that is there is not taken over");
    let shown = ns.sh("ip -d -o link show br0");
    for word in [
        "mtu 1400",
        "02:00:00:00:00:09",
        "forward_delay 0 ",
        "ageing_time 0 ",
        "stp_state 0",
        "mcast_snooping 0",
        "group_fwd_mask 0xfff8",
        "no_linklocal_learn 1",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let link = route::link_named(&mut socket, None, "br0").unwrap().unwrap();
    assert_eq!((link.kind.as_str(), link.mtu, link.up), ("bridge", 1400, false));
    assert_eq!(link.address, Some([2, 0, 0, 0, 0, 9]));
    let change = Link::of(link.index)
        .name("br1")
        .mtu(1300)
        .bridge(Bridge { spanning_tree: Some(true), ..Bridge::default() });
    socket.order(&change.set()).unwrap();
    socket.order(&Link::of(link.index).ipv4(true, true).up().set()).unwrap();
    let shown = ns.sh("ip -d -o link show br1; cat /proc/sys/net/ipv4/conf/br1/forwarding /proc/sys/net/ipv4/conf/br1/route_localnet");
    assert!(
        shown.contains("stp_state 1") && shown.contains("mtu 1300") && shown.ends_with("1\n1\n"),
        "{shown}"
    );
    socket.order(&Link::of(link.index).down().set()).unwrap();
    assert!(!route::link_named(&mut socket, None, "br1").unwrap().unwrap().up);
    assert_eq!(route::link_named(&mut socket, None, "br0").unwrap(), None);
    socket.order(&route::delete_link(link.index)).unwrap();
    assert_eq!(refusal(socket.order(&route::delete_link(link.index))), Some(Errno::NODEV));
    assert_eq!(refusal(socket.order(&Link::of(link.index).up().set())), Some(Errno::NODEV));
}

#[test]
fn ports_of_a_bridge_are_listed_and_set() {
    let ns = Namespace::new();
    let (mut socket, _tap) =
        ns.inside(|| (Socket::open(Protocol::Route).unwrap(), tap::create("tap0", 1, 107).unwrap()));
    socket.order(&Link::new_bridge("br0", Bridge::default()).up().create()).unwrap();
    let index =
        |socket: &mut Socket, name: &str| route::link_named(socket, None, name).unwrap().unwrap().index;
    let (bridge, tap) = (index(&mut socket, "br0"), index(&mut socket, "tap0"));
    assert_eq!(route::links(&mut socket, None, Some(bridge)).unwrap(), []);
    socket.order(&Link::of(tap).master(bridge).set()).unwrap();
    socket
        .order(&Link::of(tap).port(Port { learning: Some(false), unicast_flood: Some(false) }).set())
        .unwrap();
    for sticky in [false, true, true] {
        let fixed = Fixed { port: tap, address: [2, 0, 0, 0, 0, 1], sticky };
        socket.order(&fixed.put()).unwrap();
    }
    let ports = route::links(&mut socket, None, Some(bridge)).unwrap();
    assert_eq!((ports.len(), ports[0].name.as_str(), ports[0].kind.as_str()), (1, "tap0", "tun"));
    let shown = ns.sh("ip -d -o link show tap0; bridge fdb show dev tap0");
    assert!(shown.contains("learning off") && shown.contains(" flood off"), "{shown}");
    assert!(shown.contains("02:00:00:00:00:01 sticky master br0 static"), "{shown}");
    ns.sh("ip link property add dev tap0 altname other");
    assert_eq!(route::link_named(&mut socket, None, "tap0").unwrap().unwrap().alternatives, ["other"]);
}

#[test]
fn addresses_are_given_listed_and_taken() {
    let ns = Namespace::new();
    let mut socket = ns.inside(|| Socket::open(Protocol::Route).unwrap());
    socket.order(&Link::new_bridge("br0", Bridge::default()).create()).unwrap();
    let index = route::link_named(&mut socket, None, "br0").unwrap().unwrap().index;
    // More than one datagram has place for.
    let all: Vec<_> = (0..1000_u32)
        .map(|number| Address { index, address: Ipv4Addr::from(0x0a00_0001 + number * 256), prefix: 24 })
        .collect();
    for address in &all {
        socket.order(&address.add()).unwrap();
    }
    assert_eq!(refusal(socket.order(&all[0].add())), Some(Errno::EXIST));
    socket.order(&all[0].put(Some(Ipv4Addr::new(10, 0, 0, 255)))).unwrap();
    let listed = route::addresses(&mut socket, None).unwrap();
    let listed: Vec<_> = listed.into_iter().filter(|address| address.index == index).collect();
    assert_eq!(listed, all);
    for address in &all {
        socket.order(&address.delete()).unwrap();
    }
    assert!(route::addresses(&mut socket, None).unwrap().iter().all(|address| address.index != index));
    assert_eq!(refusal(socket.order(&all[0].delete())), Some(Errno::ADDRNOTAVAIL));
}
