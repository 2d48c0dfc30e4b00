//! The slot: a directory that the node's device plug-in has had mounted into this container, with a socket on which the
//! handler listens. Who connects is the launcher, since nobody outside can reach into the container.

use ferrovirt_qemu::protocol::MAX_DESCRIPTORS;
use ferrovirt_sys::{
    netlink::{self, Protocol},
    process, seqpacket, tap,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, ipproto, socket_with};
use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The socket's name in the directory.
const SOCKET: &str = "machine.sock";
/// Between two tries to connect, at first and at most. Each failure doubles it, and a request begins again. The handler may
/// learn of a container a moment after it has started, and a guest waits for that.
const FIRST: Duration = Duration::from_millis(10);
const LAST: Duration = Duration::from_secs(2);
/// What goes with the descriptors of a TAP's queues.
const OTHERS: usize = 3;

/// Where the handler listens, and when it is tried next.
pub(crate) struct Slot {
    socket: PathBuf,
    next: Instant,
    pause: Duration,
}

impl Slot {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { socket: directory.join(SOCKET), next: Instant::now(), pause: FIRST }
    }

    /// When to try.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Connects, when it is time.
    pub(crate) fn connect(&mut self) -> Option<seqpacket::Connection> {
        if self.next > Instant::now() {
            return None;
        }
        // Until this succeeds or the link ends.
        self.ended();
        seqpacket::Connection::connect(&self.socket).ok()
    }

    /// There is no link (any more).
    pub(crate) fn ended(&mut self) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LAST);
    }

    /// The handler has asked for something.
    pub(crate) fn works(&mut self) {
        self.pause = FIRST;
    }
}

/// Connects to the socket of a console in the slot's directory, at once or not at all.
pub(crate) fn connect_console(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(io::Error::other("this is no name of a console's socket"));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(directory.join(name))?)?;
    Ok(socket.into())
}

/// What a TAP is made with: sockets for UDP, links and rules, and one descriptor of the TUN driver for each queue. All
/// are opened without a capability, and bound to this network namespace.
pub(crate) struct Network {
    others: [OwnedFd; OTHERS],
    queues: Vec<OwnedFd>,
}

impl Network {
    /// Opens it.
    pub(crate) fn open(queues: u32) -> io::Result<Self> {
        let most = MAX_DESCRIPTORS - OTHERS;
        let count = usize::try_from(queues).ok().filter(|count| (1..=most).contains(count));
        let count = count.ok_or_else(|| io::Error::other(format!("a TAP has 1 to {most} queues here")))?;
        // As many as are on the way are counted against this limit.
        process::raise_open_files()?;
        let udp = ipproto::UDP;
        let others = [
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(udp))?,
            netlink::open(Protocol::Route)?,
            netlink::open(Protocol::Netfilter)?,
        ];
        let node = |_| tap::open_node("/dev/net/tun").map(OwnedFd::from);
        let queues = (0..count).map(node).collect::<io::Result<_>>();
        let named = |error: io::Error| io::Error::new(error.kind(), format!("/dev/net/tun: {error}"));
        Ok(Self { others, queues: queues.map_err(named)? })
    }

    /// All of it, in the order in which the handler takes it.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.others.iter().chain(&self.queues)
    }

    /// Leaves the queues.
    pub(crate) fn into_queues(self) -> Vec<OwnedFd> {
        self.queues
    }
}
