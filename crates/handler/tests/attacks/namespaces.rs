//! Descriptors of other namespaces.

use crate::{Namespace, tun, udp};
use ferrovirt_handler::net::{
    Refusal,
    descriptors::sort,
    namespace::{Home, Namespaces},
    view::View,
};
use ferrovirt_sys::netns;
use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

fn home(ns: &Namespace) -> Home {
    let (_theirs, ours) = ns.link();
    Home::of(ours.as_fd(), &ns.sent(1)).unwrap()
}

fn cookie(ns: &Namespace) -> u64 {
    netns::cookie(ns.inside(udp).as_fd()).unwrap()
}

#[test]
fn all_of_a_launcher_is_of_one_namespace() {
    let (ns, other) = (Namespace::new(), Namespace::new());
    let (_theirs, ours) = ns.link();
    assert!(Home::of(ours.as_fd(), &ns.sent(2)).is_ok());
    for place in 0..5 {
        let mut sent = ns.launcher(2);
        sent[place] = other.launcher(2).swap_remove(place);
        let refusal = Home::of(ours.as_fd(), &sort(sent, 2).unwrap()).unwrap_err();
        assert!(matches!(refusal, Refusal::Elsewhere(_)), "{place}: {refusal}");
    }
    let (_theirs, link) = other.link();
    assert!(matches!(Home::of(link.as_fd(), &ns.sent(1)), Err(Refusal::Elsewhere(_))), "the link's own");
}

#[test]
fn neither_the_hosts_namespace_nor_our_own_is_a_launchers() {
    let (host, own, pod) = (Namespace::new(), Namespace::new(), Namespace::new());
    // The host's is known by a connection alone, as the kubelet's shows it.
    let namespaces = Namespaces::new(Some(cookie(&host)), own.inside(udp).as_fd()).unwrap();
    assert!(matches!(namespaces.link("a", home(&host).cookie()), Err(Refusal::Forbidden("the host's"))));
    assert!(matches!(
        namespaces.link("a", home(&own).cookie()),
        Err(Refusal::Forbidden("that of the node agent"))
    ));
    namespaces.link("a", home(&pod).cookie()).unwrap();
    // While it is not known, nobody is let in.
    let mut unknown = Namespaces::new(None, own.inside(udp).as_fd()).unwrap();
    assert!(matches!(unknown.enter("a", cookie(&pod)), Err(Refusal::Unknown)));
}

#[test]
fn a_namespace_has_one_slot_until_that_ends() {
    let [host, pod, other, third] = std::array::from_fn(|_| Namespace::new());
    let mut namespaces = Namespaces::new(Some(cookie(&host)), host.inside(udp).as_fd()).unwrap();
    namespaces.enter("a", cookie(&pod)).unwrap();
    namespaces.enter("a", cookie(&pod)).unwrap();
    match namespaces.enter("b", cookie(&pod)) {
        Err(Refusal::Taken(slot)) => assert_eq!(slot, "a"),
        other => panic!("{other:?}"),
    }
    namespaces.enter("b", cookie(&other)).unwrap();
    assert!(matches!(namespaces.link("a", cookie(&third)), Err(Refusal::Moved)));
    namespaces.retain(|slot| slot != "a");
    namespaces.enter("c", cookie(&pod)).unwrap();
}

/// Inodes of namespaces are used again at once; what is compared never is.
#[test]
fn a_namespace_is_not_taken_for_an_earlier_one() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let ns = Namespace::new();
        assert!(seen.insert(cookie(&ns)));
    }
}

#[test]
fn a_pods_links_and_addresses_are_read_over_a_socket_of_our_own() {
    let ns = Namespace::new();
    ns.sh("ip link add br9 type bridge; ip addr add 192.0.2.7/24 dev br9; ip link property add dev br9 altname other");
    let sent = ns.sent(1);
    let (_theirs, ours) = ns.link();
    let home = Home::of(ours.as_fd(), &sent).unwrap();
    // Whatever the launcher does with its sockets.
    drop::<Vec<OwnedFd>>(vec![sent.route, sent.netfilter]);
    let mut view = View::of(home.namespace()).unwrap();
    let names: Vec<_> = view.links().unwrap().into_iter().map(|link| link.name).collect();
    assert!(names.contains(&"br9".to_owned()), "{names:?}");
    assert_eq!(view.link("other").unwrap().unwrap().name, "br9");
    let address = Ipv4Addr::new(192, 0, 2, 7);
    view.has(&[address.into()]).unwrap();
    assert!(matches!(
        view.has(&[address.into(), Ipv4Addr::new(192, 0, 2, 8).into()]),
        Err(Refusal::Address(_))
    ));
    // A second look finds the number that the namespace has.
    View::of(home.namespace()).unwrap().has(&[address.into()]).unwrap();
    assert!(View::of(tun().as_fd()).is_err(), "what is no namespace");
}
