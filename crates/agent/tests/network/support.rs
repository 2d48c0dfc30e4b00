//! A namespace that plays the node, and pods on its network.

use ferrovirt_model::machine::{Binding, Interface, NicModel};
use ferrovirt_netlink::mac::MacAddress;
use ferrovirt_node::network::{Network, Policy, Port, cni::Attachment};
use ferrovirt_sys::netns;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long something that does not come is waited for.
const NEVER: Duration = Duration::from_secs(1);
/// How long something that comes is waited for.
const SOON: Duration = Duration::from_secs(10);

/// A network namespace that goes away with the test, whatever happens.
pub(crate) struct Namespace {
    pub(crate) path: PathBuf,
    pub(crate) open: OwnedFd,
}

impl Namespace {
    pub(crate) fn new(path: PathBuf) -> Self {
        netns::create(&path).unwrap();
        let open = netns::open(&path).unwrap();
        Self { path, open }
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.open, || Ok(work())).unwrap()
    }

    pub(crate) fn shell(&self, line: &str) -> (bool, String) {
        let out = self.inside(|| Command::new("sh").args(["-c", line]).output().unwrap());
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// A line that works.
    pub(crate) fn sh(&self, line: &str) -> String {
        let (fine, said) = self.shell(&format!("{line} 2>&1"));
        assert!(fine, "{line}: {said}");
        said
    }

    pub(crate) fn pings(&self, to: Ipv4Addr) -> bool {
        self.shell(&format!("busybox ping -c1 -W1 {to}")).0
    }

    /// Something that listens on every address.
    pub(crate) fn listen(&self) -> (TcpListener, u16) {
        let listener = self.inside(|| TcpListener::bind("[::]:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// Whether a connection comes about. `within`: how long it may take where it does not.
    pub(crate) fn connects(&self, to: impl Into<std::net::IpAddr> + Send, port: u16) -> bool {
        let to = SocketAddr::new(to.into(), port);
        self.inside(|| TcpStream::connect_timeout(&to, NEVER)).is_ok()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

pub(crate) fn interface(
    binding: Binding,
    ports: Vec<ferrovirt_model::machine::Port>,
    queues: u32,
) -> Interface {
    Interface {
        name: "default".to_owned(),
        model: NicModel::Virtio,
        mac: None,
        boot_order: None,
        binding,
        ports,
        queues,
    }
}

/// The node.
pub(crate) struct Node {
    pub(crate) ns: Namespace,
    network: Option<Network>,
    pub(crate) directory: tempfile::TempDir,
}

/// A pod on it.
pub(crate) struct Pod {
    pub(crate) ns: Namespace,
    pub(crate) attachment: Attachment,
}

impl Pod {
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.attachment.address.ip
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.attachment.address.gateway.unwrap()
    }

    pub(crate) fn port(&self, namespace: &str) -> Port {
        let Attachment { address, port, mac } = self.attachment.clone();
        Port { name: port, mac, ip: address.ip, namespace: namespace.to_owned() }
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ns = Namespace::new(directory.path().join("node"));
        // A new namespace takes over the machine's setting.
        ns.sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        let network = ns.inside(|| Network::set_up(directory.path()).unwrap());
        Self { ns, network: Some(network), directory }
    }

    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().unwrap()
    }

    /// Another agent on the same directory.
    pub(crate) fn again(&self) -> Network {
        self.ns.inside(|| Network::set_up(self.directory.path()).unwrap())
    }

    /// A pod that is attached, and not yet in the rules.
    pub(crate) fn bare(&self, id: &str) -> Pod {
        let ns = Namespace::new(self.directory.path().join(id));
        let attachment = self.ns.inside(|| self.network().attach(id, &ns.path).unwrap());
        Pod { ns, attachment }
    }

    /// A pod of a namespace.
    pub(crate) fn pod(&self, id: &str, namespace: &str) -> Pod {
        let pod = self.bare(id);
        self.admit(id, pod.port(namespace)).unwrap();
        pod
    }

    pub(crate) fn admit(&self, id: &str, port: Port) -> Result<(), String> {
        let admitted = self.ns.inside(|| self.network().admit(id, port, &Policy::default()));
        admitted.map_err(|error| error.to_string())
    }

    pub(crate) fn release(&self, id: &str, path: &Path) {
        self.ns.inside(|| self.network().release(id, path).unwrap());
    }

    pub(crate) fn assert(&self, policy: Option<&Policy>) {
        self.ns.inside(|| self.network().assert(policy).unwrap());
    }

    pub(crate) fn tear_down(&self) {
        self.ns.inside(|| self.network().tear_down().unwrap());
    }

    /// Name of the bridge.
    pub(crate) fn bridge(&self) -> String {
        let links = self.ns.sh("ip -o link show type bridge");
        links.split(": ").nth(1).unwrap().to_owned()
    }

    /// Packets that a counter of the bridge's table has seen.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let text = self.ns.sh("nft list counters bridge || nft list counters");
        let after = text.split_once(&format!("counter {name} {{")).unwrap_or_else(|| panic!("{text}")).1;
        let number = after.split_once("packets ").unwrap().1.split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    /// Addresses of others that the bridge knows, and where.
    pub(crate) fn learned(&self) -> String {
        let text = self.ns.sh(&format!("bridge fdb show br {}", self.bridge()));
        let mut lines: Vec<_> = text.lines().filter(|line| !line.contains("permanent")).collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// The node's entry of a neighbour.
    pub(crate) fn neighbour(&self, ip: Ipv4Addr) -> Option<MacAddress> {
        let text = self.ns.sh(&format!("ip neigh show to {ip}"));
        text.split_once("lladdr ")?.1.split_whitespace().next()?.parse().ok()
    }
}

/// How many connections a node keeps track of, as it reads there: the number itself is one for the whole machine, and
/// other tests need it as it is. What is below /proc/sys/net is another file in each network namespace.
pub(crate) struct TableSize<'a>(&'a Node);

impl<'a> TableSize<'a> {
    const FILE: &'static str = "/proc/sys/net/netfilter/nf_conntrack_max";

    pub(crate) fn new(node: &'a Node, most: u32) -> Self {
        let file = node.directory.path().join("most");
        std::fs::write(&file, format!("{most}\n")).unwrap();
        node.ns.sh(&format!("mount --bind {} {}", file.display(), Self::FILE));
        Self(node)
    }
}

impl Drop for TableSize<'_> {
    fn drop(&mut self) {
        self.0.ns.shell(&format!("umount {}", Self::FILE));
    }
}

/// Looks until it holds.
pub(crate) fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + SOON;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a frame as QEMU does: behind an empty header of virtio-net.
pub(crate) fn send(queue: &OwnedFd, frame: &[u8]) {
    let mut bytes = vec![0; 10];
    bytes.extend(frame);
    bytes.resize(bytes.len().max(10 + 60), 0);
    rustix::io::write(queue, &bytes).unwrap();
}

/// The next frame that the guest gets and that is wanted.
pub(crate) fn receive(queue: &OwnedFd, mut wanted: impl FnMut(&[u8]) -> bool) -> bool {
    let deadline = std::time::Instant::now() + SOON;
    let mut buffer = [0; 2048];
    while std::time::Instant::now() < deadline {
        match rustix::io::read(queue, &mut buffer) {
            Ok(count) if wanted(&buffer[10.min(count)..count]) => return true,
            Ok(_) => {}
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
    false
}
