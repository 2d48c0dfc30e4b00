//! A node with the program, pods, and launchers of which the test is one.

use ferrovirt_handler::{
    net::{
        program::STREAMS,
        talk::{FromApi, MOST, Open, Opened, ToApi, Wanted, read},
    },
    plug::{
        store::Store,
        table::{Holder, Record, State},
    },
};
use ferrovirt_qemu::protocol::Request;
use ferrovirt_sys::{
    netlink::{self, Protocol},
    netns,
    process::{Setup, spawn},
    seqpacket::Connection,
    tap,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

/// Nothing takes this long.
const LIMIT: Duration = Duration::from_secs(60);
/// The pod's address, and where it sends everything.
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A network namespace that goes away with the test.
pub(crate) struct Namespace {
    path: PathBuf,
    pub(crate) open: OwnedFd,
    _directory: tempfile::TempDir,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ns");
        netns::create(&path).unwrap();
        let open = netns::open(&path).unwrap();
        Self { path, open, _directory: directory }
    }

    /// One that belongs to these users.
    fn of(users: &Users) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ns");
        fs::write(&path, "").unwrap();
        let made = Command::new("mount").arg("--bind").args([&users.path("net"), &path]).status();
        assert!(made.unwrap().success());
        let open = netns::open(&path).unwrap();
        Self { path, open, _directory: directory }
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.open, || Ok(work())).unwrap()
    }

    /// What a line of the shell prints, which works.
    pub(crate) fn sh(&self, line: &str) -> String {
        let out = self.inside(|| Command::new("sh").args(["-c", line]).output().unwrap());
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&out.stderr));
        said
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

/// A user namespace as a kubelet makes it for a pod, which owns a network namespace. It goes away with the test.
pub(crate) struct Users(Child);

impl Users {
    /// The node's number of its root, and how many it has.
    pub(crate) const FIRST: u32 = 7 * 65_536;
    pub(crate) const COUNT: u32 = 65_536;

    pub(crate) fn new() -> Self {
        let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let child = Command::new("unshare").args(["--user", "--net", "sleep", "infinity"]).spawn().unwrap();
        let users = Self(child);
        for kind in ["user", "net"] {
            let other = || fs::read_link(users.path(kind)).ok().filter(|other| *other != own(kind));
            until("the pod's namespaces", other);
        }
        for map in ["uid_map", "gid_map"] {
            let line = format!("0 {} {}", Self::FIRST, Self::COUNT);
            fs::write(format!("/proc/{}/{map}", users.0.id()), line).unwrap();
        }
        users
    }

    pub(crate) fn path(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.0.id()).into()
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A pod whose interface leads to somewhere.
pub(crate) struct Pod {
    pub(crate) ns: Namespace,
    /// Hardware address of its interface in the beginning.
    pub(crate) mac: [u8; 6],
    outside: Namespace,
}

impl Pod {
    pub(crate) fn new() -> Self {
        Self::with(Namespace::new())
    }

    /// With users of its own.
    pub(crate) fn of(users: &Users) -> Self {
        Self::with(Namespace::of(users))
    }

    fn with(ns: Namespace) -> Self {
        let outside = Namespace::new();
        // A new namespace takes over the machine's setting.
        ns.sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        ns.sh("echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start");
        ns.sh(&format!(
            "ip link add eth0 type veth peer name other; ip link set other netns {}; ip addr add {POD}/24 dev eth0; \
             ip link set eth0 up; ip route add default via {OUTSIDE}",
            outside.path.display()
        ));
        outside.sh(&format!("ip addr add {OUTSIDE}/24 dev other; ip link set other up"));
        let text = ns.sh("ip -o link show eth0");
        let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
        let mut bytes = words.nth(1).unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        let mac = std::array::from_fn(|_| bytes.next().unwrap());
        Self { ns, mac, outside }
    }

    /// A guest behind these queues asks who its gateway is, hears it, and sends a packet to the outside, which comes from
    /// the pod's address.
    pub(crate) fn speaks_through(&self, queues: &[OwnedFd]) {
        let heard = self.outside.inside(|| UdpSocket::bind((OUTSIDE, 4000)).unwrap());
        heard.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut ask = ethernet(0x0806, [0xff; 6]);
        ask.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        ask.extend(GUEST_MAC);
        ask.extend([10, 0, 2, 2]);
        ask.extend([0; 6]);
        ask.extend([10, 0, 2, 1]);
        let begin = Instant::now();
        // A port of a bridge forwards a moment after it is up.
        while !answered(queues, &ask) {
            assert!(begin.elapsed() < LIMIT, "the gateway does not answer");
        }
        let packet = udp([10, 0, 2, 2], OUTSIDE.octets(), 4000);
        let mut bytes = [0; 16];
        let from = loop {
            write(&queues[0], &packet);
            if let Ok((length, from)) = heard.recv_from(&mut bytes) {
                assert_eq!(&bytes[..length], b"guest");
                break from;
            }
            assert!(begin.elapsed() < LIMIT, "nothing comes out");
        };
        assert_eq!(from.ip(), POD);
    }
}

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What stands before a frame in a queue (`struct virtio_net_hdr`), and the frame's head.
fn ethernet(kind: u16, to: [u8; 6]) -> Vec<u8> {
    [&[0; 10][..], &to, &GUEST_MAC, &kind.to_be_bytes()].concat()
}

fn udp(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
    let data = b"guest";
    let length = u16::try_from(data.len()).unwrap();
    let mut head = vec![0x45, 0];
    head.extend((length + 28).to_be_bytes());
    head.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    head.extend(from);
    head.extend(to);
    let sum: u32 = head.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    // The hub's address, which [`ferrovirt_handler::net::pod::Pod::masquerade`] gives it.
    let mut packet = ethernet(0x0800, [2, 0, 0, 0, 0, 0]);
    packet.extend(head);
    packet.extend(port.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend((length + 8).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(data);
    packet
}

fn write(queue: &OwnedFd, frame: &[u8]) {
    assert_eq!(rustix::io::write(queue, frame).unwrap(), frame.len());
}

/// Whether an answer to the question comes out of a queue in a moment.
fn answered(queues: &[OwnedFd], ask: &[u8]) -> bool {
    write(&queues[0], ask);
    let end = Instant::now() + Duration::from_millis(200);
    loop {
        let mut fds: Vec<_> = queues.iter().map(|queue| PollFd::new(queue, PollFlags::IN)).collect();
        let left = end.saturating_duration_since(Instant::now());
        poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap();
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if !ready.contains(&true) {
            return false;
        }
        for (queue, _) in queues.iter().zip(ready).filter(|(_, ready)| *ready) {
            let mut frame = [0; 2048];
            let Ok(length) = rustix::io::read(queue, &mut frame[..]) else { continue };
            let frame = &frame[..length];
            // An ARP answer from the gateway.
            if frame.get(22..24) == Some(&[8, 6][..]) && frame.get(38..42) == Some(&[10, 0, 2, 1][..]) {
                return true;
            }
        }
    }
}

/// A node on which the program runs, in a namespace of its own as a pod without hostNetwork. The node's is the test's.
pub(crate) struct Node {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) own: Namespace,
    pub(crate) store: Store,
    pub(crate) child: Child,
    api: Connection,
    /// The links that were announced, by their slots.
    links: RefCell<HashMap<String, u64>>,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With a program before it.
    pub(crate) fn start_with(before: &[&str]) -> Self {
        let (mut node, problem) = Self::start_and_ask(before);
        assert_eq!(problem, None);
        node.child.try_wait().unwrap();
        node
    }

    /// And what keeps networks from being made.
    pub(crate) fn start_and_ask(before: &[&str]) -> (Self, Option<String>) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("plug")).unwrap();
        let store = Store::open(&directory.path().join("plug")).unwrap();
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        store.set_host(Some(netns::cookie(here.as_fd()).unwrap())).unwrap();
        let own = Namespace::new();
        let child = run(&directory, &own, before);
        let api = connect(&directory);
        let node = Self { directory, own, store, child, api, links: RefCell::default() };
        let ToApi::Node { problem } = node.next().0 else { panic!("it says something else first") };
        (node, problem)
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::remove_file(self.directory.path().join("api.sock")).unwrap();
        self.child = run(&self.directory, &self.own, &[]);
        self.links.borrow_mut().clear();
        drop(self.connect());
    }

    /// Connects as another api; the connection from before.
    pub(crate) fn connect(&mut self) -> Connection {
        let before = std::mem::replace(&mut self.api, connect(&self.directory));
        assert_eq!(self.next().0, ToApi::Node { problem: None });
        before
    }

    /// Connects as another api, which is heard from then on.
    pub(crate) fn connect_again(&self) -> Connection {
        connect(&self.directory)
    }

    /// A pod gets a slot; its name.
    pub(crate) fn slot(&self, number: u32) -> String {
        let name = self.store.name().unwrap();
        let (namespace, pod) = ("vms".to_owned(), format!("pod{number}"));
        let holder = Holder { namespace, pod, container: "compute".to_owned() };
        let number = number.into();
        let record = Record { slot: name.clone(), number, state: State::Held(holder.clone()) };
        self.store.make(&name, &record).unwrap();
        assert_eq!(self.next().0, ToApi::Slot { slot: name.clone(), holder, number });
        name
    }

    /// The pod's slot goes.
    pub(crate) fn gone(&self, slot: &str) {
        // The program may make its socket again meanwhile: what could not be removed is removed by another call, as by `plug`.
        until("the slot's directory goes", || self.store.remove(slot).ok());
        let gone = ToApi::Gone { slot: slot.to_owned() };
        while self.next().0 != gone {}
    }

    pub(crate) fn ask(&self, head: &FromApi, body: &[u8]) {
        let line = serde_json::to_vec(head).unwrap();
        self.api.send(&[&line, &b"\n"[..], body].concat(), &[]).unwrap();
    }

    /// The last link of the slot; a number that none has before the first.
    pub(crate) fn link(&self, slot: &str) -> u64 {
        self.links.borrow().get(slot).copied().unwrap_or_default()
    }

    pub(crate) fn prepare(&self, slot: &str, wanted: Wanted) {
        self.ask(&FromApi::Prepare { slot: slot.to_owned(), link: self.link(slot), wanted }, &[]);
    }

    pub(crate) fn relay(&self, slot: &str, body: &[u8]) {
        self.ask(&FromApi::Relay { slot: slot.to_owned(), link: self.link(slot) }, body);
    }

    pub(crate) fn end(&self, slot: &str) {
        self.ask(&FromApi::End { slot: slot.to_owned(), link: self.link(slot) }, &[]);
    }

    /// A launcher has connected, which is said next.
    pub(crate) fn linked(&self, slot: &str) {
        self.linked_as(slot, 0);
    }

    /// The launcher's user is this one of the node.
    pub(crate) fn linked_as(&self, slot: &str, wanted: u32) {
        let before = self.link(slot);
        match self.next().0 {
            ToApi::Linked { slot: of, link, user } if user == wanted => {
                assert!(of == slot && link > before);
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn next(&self) -> (ToApi, Vec<u8>) {
        let bytes = next(&self.api);
        let (head, body) = read::<ToApi>(&bytes).unwrap();
        if let ToApi::Linked { slot, link, .. } = &head {
            self.links.borrow_mut().insert(slot.clone(), *link);
        }
        (head, body.to_owned())
    }

    /// Why the link has ended, which is what is said next.
    pub(crate) fn ended(&self) -> String {
        match self.next().0 {
            ToApi::Ended { why: Some(why), .. } => why,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn refused(&self) -> String {
        match self.next().0 {
            ToApi::Refused { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a console of the slot's launcher; the connection and the answer.
    pub(crate) fn console(&self, slot: &str, link: u64) -> (Connection, Opened) {
        let connection = Connection::connect(&self.directory.path().join(STREAMS)).unwrap();
        let line = serde_json::to_vec(&Open { slot: slot.to_owned(), link }).unwrap();
        connection.send(&[&line, &b"\n"[..]].concat(), &[]).unwrap();
        let answer = read::<Opened>(&next(&connection)).unwrap().0;
        (connection, answer)
    }

    pub(crate) fn socket(&self, slot: &str) -> PathBuf {
        self.directory.path().join("plug/slots").join(slot).join("machine.sock")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.directory.path().join("log")).unwrap());
        }
    }
}

pub(crate) fn arguments(directory: &tempfile::TempDir) -> [String; 3] {
    let path = |name: &str| directory.path().join(name).display().to_string();
    ["net".to_owned(), format!("--directory={}", path("plug")), format!("--api-socket={}", path("api.sock"))]
}

fn run(directory: &tempfile::TempDir, own: &Namespace, before: &[&str]) -> Child {
    let mut words = before.to_vec();
    words.push(env!("CARGO_BIN_EXE_virt-handler"));
    let mut command = Command::new(words[0]);
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.path().join("log")).unwrap();
    command.args(&words[1..]).args(arguments(directory)).stderr(log);
    let network_namespace = Some(own.open.try_clone().unwrap());
    spawn(command, Setup { network_namespace, ..Setup::default() }).unwrap()
}

fn connect(directory: &tempfile::TempDir) -> Connection {
    until("the program listens", || Connection::connect(&directory.path().join("api.sock")).ok())
}

/// Looks until it is so.
pub(crate) fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn next(connection: &Connection) -> Vec<u8> {
    let mut fds = [PollFd::new(connection, PollFlags::IN)];
    let limit = Timespec::try_from(LIMIT).unwrap();
    assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "nothing is said");
    connection.recv(MOST).unwrap().expect("the connection has ended").bytes
}

/// A launcher without a capability, which is the test.
pub(crate) struct Fake<'a> {
    ns: &'a Namespace,
    pub(crate) link: Connection,
}

impl<'a> Fake<'a> {
    pub(crate) fn connect(node: &Node, slot: &str, ns: &'a Namespace) -> Self {
        until("the slot is served", || Self::try_connect(node, slot, ns).ok())
    }

    pub(crate) fn try_connect(node: &Node, slot: &str, ns: &'a Namespace) -> io::Result<Self> {
        let socket = node.socket(slot);
        let link = ns.inside(|| Connection::connect(&socket))?;
        Ok(Self { ns, link })
    }

    /// What it opens for a TAP.
    pub(crate) fn open(&self, queues: usize) -> Vec<OwnedFd> {
        open(self.ns, queues)
    }

    /// It was asked for that.
    pub(crate) fn asked(&self, queues: usize) {
        let request: Request = serde_json::from_slice(&self.next()).unwrap();
        assert_eq!(request, Request::Network { queues: u32::try_from(queues).unwrap() });
    }

    pub(crate) fn send(&self, descriptors: &[OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.link.send(b"\"network\"", &descriptors).unwrap();
    }

    pub(crate) fn next(&self) -> Vec<u8> {
        next(&self.link)
    }
}

/// What a launcher of a namespace opens.
pub(crate) fn open(ns: &Namespace, queues: usize) -> Vec<OwnedFd> {
    ns.inside(|| {
        let none = rustix::thread::CapabilitySet::empty();
        let none = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, none).unwrap();
        let inet = AddressFamily::INET;
        let mut all = vec![
            socket_with(inet, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap(),
            netlink::open(Protocol::Route).unwrap(),
            netlink::open(Protocol::Netfilter).unwrap(),
        ];
        all.extend((0..queues).map(|_| OwnedFd::from(tap::open_node("/dev/net/tun").unwrap())));
        all
    })
}
