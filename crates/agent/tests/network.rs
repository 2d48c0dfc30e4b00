//! The pod network on the real kernel with the real plug-ins, inside a network namespace that plays the node. Needs
//! root.
#![allow(clippy::unwrap_used, clippy::panic)]

use ferrovirt_agent::network::{
    host::Host,
    pod::{self, BRIDGE},
};
use ferrovirt_model::machine::{Binding, Interface, NicModel, Port, Protocol};
use ferrovirt_sys::netns;
use std::{fs, net::Ipv4Addr, os::fd::OwnedFd, path::PathBuf, process::Command};

/// A network namespace that goes away with the test, whatever happens.
struct Namespace {
    path: PathBuf,
    open: OwnedFd,
}

impl Namespace {
    fn new(path: PathBuf) -> Self {
        netns::create(&path).unwrap();
        let open = netns::open(&path).unwrap();
        Self { path, open }
    }

    fn shell(&self, line: &str) -> (bool, String) {
        netns::run_in(&self.open, || {
            let out = Command::new("sh").args(["-c", line]).output()?;
            Ok((out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned()))
        })
        .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

fn interface(binding: Binding, ports: Vec<Port>, queues: u32) -> Interface {
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

#[test]
fn a_pod_gets_an_address_a_guest_network_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let node = Namespace::new(folder.path().join("node"));
    let pod_ns = Namespace::new(folder.path().join("pod"));
    // A new namespace takes over the machine's setting.
    node.shell("echo 0 > /proc/sys/net/ipv4/ip_forward");
    let host = netns::run_in(&node.open, || Ok(Host::set_up(folder.path()).unwrap())).unwrap();
    let cni = host.cni();
    let address = netns::run_in(&node.open, || Ok(cni.add("pod1", &pod_ns.path).unwrap())).unwrap();
    assert_eq!(
        pod_ns.shell("cat /sys/class/net/eth0/mtu; ip -o link show eth0").1.matches("mtu 1500").count(),
        1
    );
    assert_eq!(address.ip.octets()[..2], [10, 244]);
    assert!(node.shell(&format!("ping -c1 -W2 {} || busybox ping -c1 -W2 {}", address.ip, address.ip)).0);
    assert_eq!(node.shell("cat /proc/sys/net/ipv4/ip_forward").1.trim(), "1");
    // A second set-up changes nothing.
    netns::run_in(&node.open, || Ok(Host::set_up(folder.path()).unwrap())).unwrap();
    assert_eq!(node.shell("nft list ruleset").1.matches("masquerade").count(), 1);

    let ports = vec![Port { name: None, protocol: Protocol::Tcp, port: 80 }];
    let interfaces = [interface(Binding::Masquerade, ports, 4)];
    pod::prepare(&pod_ns.open, &interfaces).unwrap();
    let wired = pod::wire(&pod_ns.open, &interfaces, address, "host").unwrap();
    assert_eq!((wired[0].ip, wired[0].lease.address.to_string().as_str()), (address.ip, "10.0.2.2"));
    let queues = pod::queues(&pod_ns.open, 4, 107).unwrap();
    let dhcp = pod::dhcp(&pod_ns.open).unwrap();
    assert_eq!(queues.len(), 4);
    let links = pod_ns.shell("ip -o link; ip -o addr").1;
    assert!(links.contains("tap0") && links.contains(&format!("master {BRIDGE}")), "{links}");
    assert!(links.contains("02:00:00:00:00:00") && links.contains("10.0.2.1/24"), "{links}");
    let rules = pod_ns.shell("nft list ruleset").1;
    assert!(rules.contains("tcp dport 80 dnat to 10.0.2.2"), "{rules}");
    assert_eq!(pod_ns.shell(&format!("cat /proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet")).1.trim(), "1");

    the_guest_speaks_for_itself_only(&node, &pod_ns, folder.path().join("guest"), address.gateway.unwrap());
    drop((queues, dhcp));
    assert!(!pod_ns.shell("ip -o link").1.contains("tap0"), "a TAP ends with its descriptors");
    netns::run_in(&node.open, || {
        cni.del("pod1", &pod_ns.path).unwrap();
        cni.del("pod1", &pod_ns.path).unwrap();
        host.tear_down().unwrap();
        Ok(())
    })
    .unwrap();
    let left = node.shell("ip -o link; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward").1;
    assert!(!left.contains("fv-") && !left.contains("masquerade") && left.trim().ends_with('0'), "{left}");
    let leases: Vec<_> =
        walk(&folder.path().join("cni")).into_iter().filter(|name| name.starts_with("10.")).collect();
    assert!(leases.is_empty(), "{leases:?}");
}

/// A guest that takes the address of another pod is not heard outside of its own.
fn the_guest_speaks_for_itself_only(node: &Namespace, pod: &Namespace, guest: PathBuf, gateway: Ipv4Addr) {
    let guest = Namespace::new(guest);
    let [a, b, c, _] = gateway.octets();
    let other = Ipv4Addr::new(a, b, c, 200);
    let place = guest.path.display();
    let plug = format!(
        "ip link add g0 type veth peer name g1 && ip link set g1 master {BRIDGE} up && ip link set g0 netns {place}
        for all in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $all; done"
    );
    assert!(pod.shell(&plug).0);
    assert!(
        guest
            .shell(&format!(
                "ip addr add 10.0.2.2/24 dev g0 && ip addr add {other}/32 dev g0 && ip link set g0 up && \
                 ip route add default via 10.0.2.1 src 10.0.2.2"
            ))
            .0
    );
    let heard = |from: Ipv4Addr| {
        let listen = format!(
            "nft -f - <<. \ntable ip probe\ndelete table ip probe\ntable ip probe {{ chain in {{ \
             type filter hook input priority 0; ip saddr {from} counter; }}; }}\n.\n"
        );
        assert!(node.shell(&listen).0);
        let source = if from == other { other } else { Ipv4Addr::new(10, 0, 2, 2) };
        guest.shell(&format!("busybox ping -c1 -W1 -I {source} {gateway}"));
        let counted = node.shell("nft list table ip probe; nft delete table ip probe").1;
        !counted.contains("packets 0")
    };
    let pod_address = pod.shell("ip -o -4 addr show eth0").1;
    let own = pod_address.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
    assert!(heard(own), "the guest reaches the node with the pod's address");
    assert!(!heard(other), "the guest reaches the node with another's address");
    assert!(pod.shell("ip link delete g1").0);
}

#[test]
fn with_bridge_binding_the_guest_has_the_pods_own_address() {
    let folder = tempfile::tempdir().unwrap();
    let node = Namespace::new(folder.path().join("node"));
    let pod_ns = Namespace::new(folder.path().join("pod"));
    netns::run_in(&node.open, || {
        let host = Host::set_up(folder.path()).unwrap();
        let cni = host.cni();
        let address = cni.add("pod1", &pod_ns.path).unwrap();
        let before = pod_ns.shell("cat /sys/class/net/eth0/address; ip -o link show eth0").1;
        let wired =
            pod::wire(&pod_ns.open, &[interface(Binding::Bridge, vec![], 1)], address, "host").unwrap();
        assert_eq!(wired[0].lease.address, address.ip);
        assert_eq!(wired[0].lease.gateway, address.gateway);
        let [a, b, c, d, e, f] = wired[0].mac.unwrap();
        assert!(before.contains(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")), "{before}");
        let links = pod_ns.shell("ip -o link; ip -o -4 addr").1;
        assert!(links.contains("eth0-nic") && !links.contains(&address.ip.to_string()), "{links}");
        cni.del("pod1", &pod_ns.path).unwrap();
        host.tear_down().unwrap();
        Ok(())
    })
    .unwrap();
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        names.push(entry.file_name().to_string_lossy().into_owned());
        names.extend(walk(&entry.path()));
    }
    names
}
