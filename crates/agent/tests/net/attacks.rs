//! What a launcher, or anyone who has taken `api` over, can try.

use crate::{
    prepare,
    support::{Fake, Namespace, Node, Pod, open, until},
    wanted,
};
use ferrovirt_handler::net::talk::{FromApi, MOST_OF_STREAM, NotOpened, Opened, ToApi, read};
use ferrovirt_sys::seqpacket::Connection;
use rustix::{
    io::Errno,
    net::sockopt::{set_socket_linger, set_socket_recv_buffer_size},
    process::{Pid, Resource, Rlimit, prlimit},
};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

/// The namespace in which the test is, which is the node's.
fn here() -> Namespace {
    let mut ns = Namespace::new();
    ns.open = fs::File::open("/proc/self/ns/net").unwrap().into();
    ns
}

#[test]
fn the_nodes_namespace_and_the_programs_own_are_refused_whatever_api_says() {
    let node = Node::start();
    let slot = node.slot(1);
    let host = here();
    for (ns, whose) in [(&host, "the host's"), (&node.own, "that of the node agent")] {
        let fake = Fake::connect(&node, &slot, ns);
        // Everything is there before the program can say no.
        node.prepare(&slot, wanted(1));
        let mut said = vec![node.next().0, node.next().0];
        said.sort_by_key(|said| matches!(said, ToApi::Ended { .. }));
        let [ToApi::Refused { why, .. }, ToApi::Ended { why: Some(ended), .. }] = &said[..] else {
            panic!("{said:?}")
        };
        assert!(why.contains("not connected") && ended.contains(whose), "{why}, {ended}");
        assert!(fake.link.recv(16).unwrap().is_none());
    }
    // Descriptors of it through the link of a pod.
    let pod = Pod::new();
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    node.prepare(&slot, wanted(1));
    fake.asked(1);
    let before = host.sh("ip -o link; nft list tables");
    fake.send(&open(&host, 1));
    assert!(node.refused().contains("another network namespace than the launcher's link"));
    assert_eq!(host.sh("ip -o link; nft list tables"), before);
}

#[test]
fn while_nobody_knows_the_nodes_namespace_nothing_is_made() {
    let node = Node::start();
    let (slot, pod) = (node.slot(1), Pod::new());
    node.store.set_host(None).unwrap();
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let ToApi::Refused { why, .. } = prepare(&node, &slot, &fake, wanted(1)) else { panic!("it is made") };
    assert!(why.contains("no kubelet is connected"), "{why}");
    assert!(!pod.ns.sh("ip -o link").contains("k6t-eth0"));
}

#[test]
fn a_namespace_is_one_slots() {
    let node = Node::start();
    let (one, two) = (node.slot(1), node.slot(2));
    let (pod, other) = (Pod::new(), Pod::new());
    let fake = Fake::connect(&node, &one, &pod.ns);
    node.linked(&one);
    assert!(matches!(prepare(&node, &one, &fake, wanted(1)), ToApi::Ready { .. }));
    let _second = Fake::connect(&node, &two, &pod.ns);
    assert!(node.ended().contains(&format!("belongs to the slot {one}")));
    // And the slot has no other.
    drop(fake);
    assert_eq!(node.next().0, ToApi::Ended { slot: one.clone(), link: Some(node.link(&one)), why: None });
    let _elsewhere = Fake::connect(&node, &one, &other.ns);
    assert!(node.ended().contains("is another than the one in which the slot's network was made"));
}

#[test]
fn what_is_there_before_and_what_is_missing_are_refused() {
    let node = Node::start();
    let cases: [(&str, &str); 4] = [
        ("ip tuntap add dev tap0 mode tap", "has a network device tap0 already"),
        ("ip link add k6t-eth0 type bridge", "has a network device k6t-eth0 already"),
        (
            "ip addr flush dev eth0; ip link add x type bridge; ip addr add 192.0.2.7/24 dev x",
            "no IPv4 address",
        ),
        ("ip link set eth0 down; ip link set eth0 name net1", "no interface eth0"),
    ];
    for (number, (line, refusal)) in (1..).zip(cases) {
        let (slot, pod) = (node.slot(number), Pod::new());
        pod.ns.sh(line);
        let fake = Fake::connect(&node, &slot, &pod.ns);
        node.linked(&slot);
        let ToApi::Refused { why, .. } = prepare(&node, &slot, &fake, wanted(1)) else {
            panic!("it is made")
        };
        assert!(why.contains(refusal), "{line}: {why}");
        node.gone(&slot);
    }
    let (slot, pod) = (node.slot(9), Pod::new());
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let mut elsewhere = wanted(1);
    elsewhere.addresses.push(Ipv4Addr::new(192, 0, 2, 8).into());
    let ToApi::Refused { why, .. } = prepare(&node, &slot, &fake, elsewhere) else { panic!("it is made") };
    assert!(why.contains("no address 192.0.2.8"), "{why}");
    let of_ipv6 = |address: &str| vec![address.parse().unwrap()];
    let mut both = wanted(1);
    both.addresses.extend(of_ipv6("2001:db8::8"));
    let ToApi::Refused { why, .. } = prepare(&node, &slot, &fake, both.clone()) else { panic!("it is made") };
    assert!(why.contains("no address 2001:db8::8"), "{why}");
    for wrong in [vec![], of_ipv6("2001:db8::8")].map(|addresses| crate::Wanted { addresses, ..wanted(1) }) {
        node.prepare(&slot, wrong);
        assert!(node.refused().contains("no IPv4 address"));
    }
    node.prepare(&slot, crate::Wanted { queues: 0, ..wanted(1) });
    assert!(node.refused().contains("queues"));
    // Nothing was done so far: it may be asked again.
    pod.ns.sh("ip addr add 2001:db8::8/64 dev eth0 nodad");
    assert!(matches!(prepare(&node, &slot, &fake, both), ToApi::Ready { .. }));
}

#[test]
fn what_is_not_a_launchers_descriptor_is_refused_and_holds_up_nobody() {
    let node = Node::start();
    let (slot, pod) = (node.slot(1), Pod::new());
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    node.prepare(&slot, wanted(1));
    fake.asked(1);
    // Closing it waits for an hour: a connection with bytes on the way that nobody takes.
    let (lingers, _listener, peer) = pod.ns.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_socket_recv_buffer_size(&listener, 2048).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        set_socket_linger(&stream, Some(Duration::from_secs(3600))).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 65536]).is_ok() {}
        stream.set_nonblocking(false).unwrap();
        (OwnedFd::from(stream), listener, peer)
    });
    let mut sent = fake.open(1);
    sent[0] = lingers;
    fake.send(&sent);
    drop(sent);
    assert!(node.refused().contains("descriptor 0 of the launcher is no UDP socket"));
    drop(fake);
    assert!(matches!(node.next().0, ToApi::Ended { .. }));
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    assert!(matches!(prepare(&node, &slot, &fake, wanted(1)), ToApi::Ready { .. }));
    drop(peer);
}

#[test]
fn a_launcher_that_says_too_much_or_sends_what_nobody_asked_for_is_ended() {
    let node = Node::start();
    let (slot, pod) = (node.slot(1), Pod::new());
    let connect = || {
        let fake = Fake::connect(&node, &slot, &pod.ns);
        node.linked(&slot);
        fake
    };
    let fake = connect();
    // As long as it can, and not for ever.
    while fake.link.send(b"x", &[]).is_ok() {}
    let mut said = 0;
    let why = loop {
        match node.next().0 {
            ToApi::Said { .. } => said += 1,
            ToApi::Ended { why: Some(why), .. } => break why,
            other => panic!("{other:?}"),
        }
    };
    assert!(why.contains("says too much") && said <= 200, "{said}: {why}");
    let fake = connect();
    fake.link.send(&[b'x'; 9000], &[]).unwrap();
    assert!(node.ended().contains("more than anybody reads"));
    // There is no number left for one of them: it is lost on the way.
    let lost = connect();
    node.prepare(&slot, wanted(1));
    lost.asked(1);
    let sent = lost.open(1);
    let child = crate::rights::children(node.child.id())[0];
    // As many as poll(2) is asked about.
    let none = Rlimit { current: Some(2), maximum: Some(2) };
    prlimit(Pid::from_raw(child.cast_signed()), Resource::Nofile, none).unwrap();
    lost.send(&sent);
    let mut said = vec![node.next().0, node.next().0];
    said.retain(|said| matches!(said, ToApi::Ended { why: Some(why), .. } if why.contains("more than")));
    assert_eq!(said.len(), 1);
    let fake = connect();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    match fake.link.send(b"x", &[udp.as_fd()]) {
        Ok(()) => assert!(node.ended().contains("nobody asked for")),
        // Since Linux 6.16 they do not even arrive.
        Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::PERM)),
    }
}

#[test]
fn a_launcher_that_sends_nothing_is_not_waited_for_and_others_are_served_meanwhile() {
    let node = Node::start();
    let (silent, good) = (node.slot(1), node.slot(2));
    let (one, two) = (Pod::new(), Pod::new());
    let quiet = Fake::connect(&node, &silent, &one.ns);
    node.linked(&silent);
    node.prepare(&silent, wanted(1));
    quiet.asked(1);
    let fake = Fake::connect(&node, &good, &two.ns);
    node.linked(&good);
    assert!(matches!(prepare(&node, &good, &fake, wanted(1)), ToApi::Ready { .. }));
    let ToApi::Refused { slot, why, .. } = node.next().0 else { panic!("it is made") };
    assert!(slot == silent && why.contains("has not sent the descriptors"), "{why}");
}

/// What was decided for one link reaches no other: the process behind that may be another one.
#[test]
fn what_names_a_link_that_is_over_reaches_nobody() {
    let node = Node::start();
    let (slot, pod) = (node.slot(1), Pod::new());
    let first = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let link = node.link(&slot);
    drop(first);
    assert!(matches!(node.next().0, ToApi::Ended { .. }));
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let slot = || slot.clone();
    node.ask(&FromApi::Relay { slot: slot(), link }, b"the order of another");
    node.ask(&FromApi::End { slot: slot(), link }, &[]);
    node.ask(&FromApi::Prepare { slot: slot(), link, wanted: wanted(1) }, &[]);
    let ToApi::Refused { link: of, why, .. } = node.next().0 else { panic!("it is made") };
    assert!(of == link && why.contains("not connected"), "{why}");
    node.relay(&slot(), b"its own");
    assert_eq!(fake.next(), b"its own");
}

/// The launcher connects to the socket of a console.
pub(crate) fn join(node: &Node, slot: &str, opened: &Opened, ns: &Namespace) -> UnixStream {
    let Opened::Listening { socket } = opened else { panic!("{opened:?}") };
    let path = node.socket(slot).with_file_name(socket);
    ns.inside(|| UnixStream::connect(&path)).unwrap()
}

/// `net` says that the launcher has connected, and nothing of it before.
pub(crate) fn connected(api: &Connection) {
    let bytes = api.recv(1024).unwrap().unwrap().bytes;
    assert_eq!(read::<Opened>(&bytes).unwrap().0, Opened::Connected);
}

/// The other side has gone, maybe before it has accepted.
fn is_over(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// No console has its socket in the directory any more.
fn nothing_is_left(node: &Node, slot: &str) {
    let left = || fs::read_dir(node.socket(slot).parent().unwrap()).unwrap().count();
    until("the sockets go", || (left() <= 1).then_some(()));
}

#[test]
fn a_console_carries_every_byte_and_ends_with_either_side_or_the_link() {
    let node = Node::start();
    let (slot, pod) = (node.slot(1), Pod::new());
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let (api, opened) = node.console(&slot, node.link(&slot));
    let mut launcher = join(&node, &slot, &opened, &pod.ns);
    connected(&api);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n / 7 % 251).unwrap()).collect();
    // Both ways at once, and more than the sockets hold.
    std::thread::scope(|scope| {
        scope.spawn(|| bytes.chunks(MOST_OF_STREAM).for_each(|piece| api.send(piece, &[]).unwrap()));
        let mut reader = launcher.try_clone().unwrap();
        let read = scope.spawn(move || {
            let mut all = vec![0; 3_000_000];
            reader.read_exact(&mut all).unwrap();
            all
        });
        scope.spawn(|| launcher.write_all(&bytes).unwrap());
        let mut heard = Vec::new();
        while heard.len() < bytes.len() {
            heard.extend(api.recv(MOST_OF_STREAM).unwrap().unwrap().bytes);
        }
        assert!(heard == bytes && read.join().unwrap() == bytes);
    });
    // What was said last arrives.
    launcher.write_all(b"bye").unwrap();
    drop(launcher);
    assert_eq!(api.recv(16).unwrap().unwrap().bytes, b"bye");
    assert!(api.recv(16).unwrap().is_none());
    let (api, opened) = node.console(&slot, node.link(&slot));
    let mut launcher = join(&node, &slot, &opened, &pod.ns);
    connected(&api);
    drop(api);
    assert!(is_over(&mut launcher));
    let (api, opened) = node.console(&slot, node.link(&slot));
    let mut launcher = join(&node, &slot, &opened, &pod.ns);
    connected(&api);
    drop(fake);
    assert!(is_over(&mut launcher) && api.recv(16).unwrap().is_none());
    nothing_is_left(&node, &slot);
}

#[test]
fn a_console_is_that_of_the_launcher_which_is_linked_and_there_are_few() {
    let node = Node::start();
    let (slot, pod, other) = (node.slot(1), Pod::new(), Pod::new());
    let (_, opened) = node.console(&slot, 1);
    assert!(matches!(opened, Opened::Refused { kind: NotOpened::Away, .. }));
    let _fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let link = node.link(&slot);
    assert!(matches!(node.console(&slot, link + 1).1, Opened::Refused { .. }));
    // Anyone who sees the directory from another pod, or from the node.
    for ns in [&other.ns, &here()] {
        let (api, opened) = node.console(&slot, link);
        let mut stranger = join(&node, &slot, &opened, ns);
        // It may be gone already.
        let _ = stranger.write_all(b"it is me");
        assert!(api.recv(16).unwrap().is_none());
    }
    nothing_is_left(&node, &slot);
    let all: Vec<_> = (0..4).map(|_| node.console(&slot, link)).collect();
    assert!(all.iter().all(|(_, opened)| matches!(opened, Opened::Listening { .. })));
    let (_, opened) = node.console(&slot, link);
    assert!(matches!(opened, Opened::Refused { kind: NotOpened::Full, .. }));
    drop(all);
    until("there is room again", || {
        matches!(node.console(&slot, link).1, Opened::Listening { .. }).then_some(())
    });
}

/// Launchers that say as much as they can while api is busy, and one that says what matters.
#[test]
fn launchers_that_talk_do_not_end_the_connection_of_api() {
    let node = Node::start();
    let launchers: Vec<_> = (1..=30).map(|number| (node.slot(number), Pod::new())).collect();
    let mut fakes = Vec::new();
    for (slot, pod) in &launchers {
        fakes.push(Fake::connect(&node, slot, &pod.ns));
        node.linked(slot);
    }
    let long = [b'x'; 8000];
    for fake in &fakes {
        for _ in 0..8 {
            fake.link.send(&long, &[]).unwrap();
        }
    }
    fakes[0].link.send(b"what matters", &[]).unwrap();
    // An api is heard as long as it reads: it reads everything, of which nothing is lost.
    let (mut said, mut before) = (0, None);
    while said < 8 * fakes.len() || before.is_none() {
        match node.next() {
            (ToApi::Said { .. }, body) if body == b"what matters" => before = Some(said),
            (ToApi::Said { .. }, body) if body == long => said += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(said, 8 * fakes.len());
    // In its turn: after what its own launcher said before.
    assert!(before >= Some(8), "{before:?}");
    node.relay(&launchers[29].0, b"and it is still heard");
    assert_eq!(fakes[29].next(), b"and it is still heard");
}

/// One that is full is closed after a while, no matter who reads nothing.
#[test]
fn an_api_that_reads_nothing_does_not_hold_up_the_program() {
    let mut node = Node::start();
    let (slot, pod) = (node.slot(1), Pod::new());
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.linked(&slot);
    let asks = FromApi::Prepare { slot: "none".to_owned(), link: 1, wanted: wanted(1) };
    let line = [&serde_json::to_vec(&asks).unwrap()[..], b"\n"].concat();
    let flood = node.connect_again();
    flood.set_nonblocking(true).unwrap();
    until("the connection is closed", || match flood.send(&line, &[]) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Some(()),
        _ => None,
    });
    drop(node.connect());
    let link = node.link(&slot);
    while node.next().0 != (ToApi::Linked { slot: slot.clone(), link, user: 0 }) {}
    drop(fake);
}
