//! Inside a pod's network namespace: the bridge of the guest, its TAP queues, its DHCP socket and its translation.
//!
//! Names are those that KubeVirt's users know: `eth0`, `tap0`, `k6t-eth0`, `eth0-nic`.

use super::{
    Error,
    cni::{self, Attachment},
    mac::MacAddress,
    run,
};
use ferrovirt_model::machine::{Binding, Interface, Port, Protocol};
use ferrovirt_qemu::order::Lease;
use ferrovirt_sys::{link, netns, tap, udp};
use std::{fs, net::Ipv4Addr, os::fd::OwnedFd};

/// The bridge between pod and guest.
pub const BRIDGE: &str = "k6t-eth0";
/// The TAP of the first interface.
pub const TAP: &str = "tap0";
/// Behind masquerade the guest is always this, its gateway is one less.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// Where the DHCP server is when the guest has the pod's own address.
const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

/// The bridge of a pod: two ends, so that it need not learn who is where, and a guest cannot fill its table.
const HUB: &str = "type bridge forward_delay 0 ageing_time 0 mcast_snooping 0";
/// Connections of one address that the pod keeps track of: the memory for it is the node's.
const MOST_CONNECTIONS: u32 = 4096;

/// What the guest of one interface needs to know, and the launcher to create its TAP.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wired {
    /// Name of the interface.
    pub nic: String,
    /// What DHCP tells the guest.
    pub lease: Lease,
    /// Bytes.
    pub mtu: u32,
    /// The address that others reach the guest by.
    pub ip: Ipv4Addr,
    /// The guest takes over this hardware address, unless the machine names one.
    pub mac: Option<MacAddress>,
}

/// Makes what a machine's side of the pod consists of, as far as it does not depend on the pod's own link: the plug-in
/// that makes that one takes as long as all of this.
///
/// # Errors
/// When the machine has more than one interface, or the kernel, ip or nft refuse.
pub fn prepare(namespace: &OwnedFd, interfaces: &[Interface]) -> Result<(), Error> {
    match interfaces {
        [] => Ok(()),
        [one] if one.binding == Binding::Masquerade => masquerade(namespace, cni::MTU, &one.ports),
        [_] => Ok(()),
        _ => Err(Error::Unsupported("a machine can have one interface: there is one pod network")),
    }
}

/// Connects the guest's side of the pod, after [`prepare`]: one interface on the pod network, or none.
///
/// # Errors
/// When the kernel or ip refuse.
pub fn wire(
    namespace: &OwnedFd,
    interfaces: &[Interface],
    attachment: &Attachment,
    hostname: &str,
) -> Result<Vec<Wired>, Error> {
    let Some(interface) = interfaces.first() else { return Ok(Vec::new()) };
    let address = attachment.address;
    let mtu = cni::MTU;
    let mut wired = Wired {
        nic: interface.name.clone(),
        lease: Lease {
            address: GUEST,
            prefix: 24,
            server: GATEWAY,
            gateway: Some(GATEWAY),
            dns: Vec::new(),
            search: Vec::new(),
            hostname: hostname.to_owned(),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        },
        mtu,
        ip: address.ip,
        mac: None,
    };
    resolver(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), &mut wired.lease);
    if interface.binding == Binding::Bridge {
        bridge(namespace, mtu, attachment)?;
        wired.mac = Some(attachment.mac);
        wired.lease.address = address.ip;
        wired.lease.prefix = address.prefix;
        wired.lease.gateway = address.gateway;
        wired.lease.server = LINK_LOCAL;
    }
    Ok(vec![wired])
}

/// Opens every queue of a TAP on the bridge. The TAP ends with the descriptors.
///
/// # Errors
/// When the kernel refuses.
pub fn queues(namespace: &OwnedFd, queues: u32, owner: u32) -> Result<Vec<OwnedFd>, Error> {
    netns::run_in(namespace, || {
        let fds = tap::create(TAP, queues, owner)?;
        link::set_mtu(TAP, cni::MTU)?;
        link::attach(BRIDGE, TAP)?;
        link::up(TAP)?;
        Ok(fds)
    })
    .map_err(|source| Error::Kernel { what: "opening TAP queues", source })
}

/// Opens the DHCP server's socket on the bridge.
///
/// # Errors
/// When the kernel refuses.
pub fn dhcp(namespace: &OwnedFd) -> Result<OwnedFd, Error> {
    netns::run_in(namespace, || udp::dhcp_server(BRIDGE))
        .map_err(|source| Error::Kernel { what: "opening the DHCP socket", source })
}

/// Runs a program with its input in the pod's namespace.
fn run_inside(
    namespace: &OwnedFd,
    program: &'static str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<String, Error> {
    netns::run_in(namespace, || Ok(run(program, package, args, input)))
        .map_err(|source| Error::Kernel { what: "entering the pod's network namespace", source })?
}

/// The pod's interfaces, as `ip -j link` shows them.
pub(super) fn links(namespace: &OwnedFd) -> Result<String, Error> {
    run_inside(namespace, "ip", "iproute2", &["-j", "link", "show"], "")
}

fn ip_batch(namespace: &OwnedFd, lines: &str) -> Result<(), Error> {
    run_inside(namespace, "ip", "iproute2", &["-batch", "-"], lines).map(|_| ())
}

/// Two programs that do not depend on each other.
fn side_by_side(namespace: &OwnedFd, links: &str, rules: &str) -> Result<(), Error> {
    let (links, rules) = std::thread::scope(|scope| {
        let rules = scope.spawn(|| run_inside(namespace, "nft", "nftables", &["-f", "-"], rules));
        let links = ip_batch(namespace, links);
        (links, rules.join().unwrap_or(Err(Error::Unsupported("nft could not be waited for"))))
    });
    links?;
    rules.map(|_| ())
}

/// The kernel's table of neighbours is one for all namespaces: a guest is one of them.
fn neighbours(guest: Ipv4Addr) -> String {
    format!(
        "table arp kubevirt {{\n\
         chain input {{\ntype filter hook input priority filter; policy accept;\n\
         iifname \"{BRIDGE}\" arp saddr ip != {{ {guest}, 0.0.0.0 }} drop\n}}\n}}\n"
    )
}

fn masquerade(namespace: &OwnedFd, mtu: u32, ports: &[Port]) -> Result<(), Error> {
    let links = format!(
        "link add {BRIDGE} mtu {mtu} address 02:00:00:00:00:00 {HUB}\n\
         addr add {GATEWAY}/24 dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    );
    side_by_side(namespace, &links, &[translation(ports), neighbours(GUEST)].concat())?;
    netns::run_in(namespace, || {
        // Both belong to the calling thread's namespace.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        fs::write(format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet"), "1")
    })
    .map_err(|source| Error::Kernel { what: "setting sysctls of the pod", source })
}

/// The translation table: everything, or the given ports, to the guest; the guest out with the pod's address. What the
/// guest sends in another's name would leave untranslated and goes nowhere.
fn translation(ports: &[Port]) -> String {
    let (mut inbound, mut local) = (String::new(), String::new());
    if ports.is_empty() {
        inbound = format!("iifname \"eth0\" dnat to {GUEST}\n");
    }
    for port in ports {
        let (protocol, number) = (
            match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            },
            port.port,
        );
        inbound.push_str(&format!("iifname \"eth0\" {protocol} dport {number} dnat to {GUEST}\n"));
        local.push_str(&format!("ip daddr 127.0.0.1 {protocol} dport {number} dnat to {GUEST}\n"));
    }
    format!(
        "table ip kubevirt {{\n\
         set connections {{ type ipv4_addr; size 512; flags dynamic; }}\n\
         chain input {{\ntype filter hook input priority filter; policy accept;\n\
         iifname \"{BRIDGE}\" ct state established,related accept\n\
         iifname \"{BRIDGE}\" udp dport != 67 drop\n\
         iifname \"{BRIDGE}\" meta l4proto != {{ udp, icmp }} drop\n\
         iifname \"{BRIDGE}\" ct state new add @connections {{ ip saddr ct count over {MOST_CONNECTIONS} }} drop\n}}\n\
         chain prerouting {{\ntype nat hook prerouting priority dstnat; policy accept;\n{inbound}}}\n\
         chain output {{\ntype nat hook output priority -100; policy accept;\n{local}}}\n\
         chain postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\n\
         ip saddr {GUEST} masquerade\n\
         oifname \"{BRIDGE}\" ip saddr 127.0.0.1 snat to {GATEWAY}\n}}\n\
         chain forward {{\ntype filter hook forward priority filter; policy accept;\n\
         iifname \"{BRIDGE}\" ip saddr != {GUEST} drop\n\
         ct state new add @connections {{ ip saddr ct count over {MOST_CONNECTIONS} }} drop\n}}\n}}\n"
    )
}

/// The hardware address with which a machine's frames leave its pod. Behind translation it is the pod's own.
pub fn hardware(interfaces: &[Interface], attachment: &Attachment) -> MacAddress {
    let named = interfaces.first().filter(|interface| interface.binding == Binding::Bridge);
    named.and_then(|interface| interface.mac).map_or(attachment.mac, MacAddress)
}

/// Puts the pod's interface on a bridge with the guest, which takes over its hardware address.
fn bridge(namespace: &OwnedFd, mtu: u32, attachment: &Attachment) -> Result<(), Error> {
    // The pod's end keeps working with an address of its own: the guest's, with the last byte changed.
    let MacAddress([a, b, c, d, e, f]) = attachment.mac;
    let own = MacAddress([a, b, c, d, e, f ^ 0xff]);
    let links = format!(
        "link set eth0 down\n\
         addr flush dev eth0\n\
         link set eth0 name eth0-nic\n\
         link set eth0-nic address {own}\n\
         link add {BRIDGE} mtu {mtu} {HUB}\n\
         link set eth0-nic master {BRIDGE} up\n\
         addr add {LINK_LOCAL}/32 dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    );
    side_by_side(namespace, &links, &neighbours(attachment.address.ip))
}

/// Name servers and search domains of the node. A server on the node's loopback is out of the guest's reach.
fn resolver(text: &str, lease: &mut Lease) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
                lease.dns.extend(server.filter(|server| !server.is_loopback() && lease.dns.len() < 3));
            }
            Some("search") => lease.search = words.take(6).map(str::to_owned).collect(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ports_everything_goes_to_the_guest() {
        let rules = translation(&[]);
        assert!(rules.contains("iifname \"eth0\" dnat to 10.0.2.2\n"), "{rules}");
        assert!(!rules.contains("dport 80") && rules.matches("dnat to").count() == 1, "{rules}");
    }

    #[test]
    fn with_ports_only_those_do() {
        let rules = translation(&[
            Port { name: None, protocol: Protocol::Tcp, port: 80 },
            Port { name: None, protocol: Protocol::Udp, port: 53 },
        ]);
        assert!(rules.contains("iifname \"eth0\" tcp dport 80 dnat to 10.0.2.2\n"), "{rules}");
        assert!(rules.contains("ip daddr 127.0.0.1 udp dport 53 dnat to 10.0.2.2\n"), "{rules}");
        assert!(!rules.contains("iifname \"eth0\" dnat"), "{rules}");
    }

    #[test]
    fn name_servers_that_the_guest_cannot_reach_are_left_out() {
        let mut lease = Lease {
            address: GUEST,
            prefix: 24,
            server: GATEWAY,
            gateway: None,
            dns: vec![],
            search: vec![],
            hostname: String::new(),
            mtu: 1500,
        };
        resolver("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nsearch a.b c\n", &mut lease);
        assert_eq!(lease.dns, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(lease.search, ["a.b", "c"]);
    }
}
