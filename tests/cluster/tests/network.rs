//! A machine's network on a real kubelet: the controller makes the launcher's pod, which has no capability and is admitted by
//! a namespace of level restricted; `virt-handler net`, with NET_ADMIN alone, makes TAP, bridge and rules in the pod's
//! namespace without entering it; QEMU runs on them. A pod with the node's network gets nothing.
//!
//! The test is the part `api`, which reads machines and tells `net` what to make, so that it can tell it other things than
//! that part does: the guest that it orders is firmware alone. `machine.rs` has the real one.
//! The device node `/dev/net/tun` may be opened by everybody on the cluster's nodes, as udev makes it.
#![allow(clippy::indexing_slicing)]

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{Api, TIMEOUT, Test};
use ferrovirt_cluster::{network, wait};
use ferrovirt_e2e::process::Process;
use ferrovirt_handler::net::talk::{FromApi, ToApi};
use ferrovirt_qemu::{
    order::{Accelerator, Backing, Lease, Memory, Nic, Order, Tap, VERSION},
    protocol::{Request, State},
};
use ferrovirt_sys::netns;
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";
const LAUNCHER: &str = concat!("localhost/ferrovirt/virt-launcher:", env!("CARGO_PKG_VERSION"));

/// What a line of the shell prints in a network namespace.
fn inside(namespace: &Path, line: &str) -> Result<String> {
    let opened = netns::open(namespace)?;
    let output = netns::run_in(&opened, || Command::new("sh").args(["-c", line]).output())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Each set of capabilities is this one, or empty.
fn holds(process: &Process, capabilities: u64) -> Result<()> {
    for (set, wanted) in [
        ("CapInh", 0),
        ("CapPrm", capabilities),
        ("CapEff", capabilities),
        ("CapBnd", capabilities),
        ("CapAmb", 0),
    ] {
        let held = process.status(set)?;
        ensure!(u64::from_str_radix(&held, 16)? == wanted, "{set} of {}: {held}", process.pid);
    }
    ensure!(process.status("NoNewPrivs")? == "1" && process.status("Seccomp")? == "2", "it is not confined");
    Ok(())
}

/// What `net` has: NET_ADMIN, its own network, the places and a directory of the pod.
fn rights(test: &Test, net: &Process) -> Result<()> {
    const NET_ADMIN: u64 = 1 << 12;
    holds(net, NET_ADMIN)?;
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", net.pid))?;
    ensure!(mounts.lines().any(|line| line.contains(" / ") && line.contains(" ro,")), "{mounts}");
    let lacks = |word: &str| !mounts.contains(word);
    ensure!(lacks("/var/lib/kubelet/d") && lacks("/var/lib/kubelet/p") && lacks("/secrets/"), "{mounts}");
    let own = fs::read_link(format!("/proc/{}/ns/net", net.pid))?;
    let init = fs::read_link(format!("/proc/{}/ns/net", test.cluster.init(&test.node)?.pid))?;
    ensure!(own != init, "it has the node's network");
    Ok(())
}

fn order(name: &str) -> Order {
    let lease = Lease {
        address: Ipv4Addr::new(10, 0, 2, 2),
        prefix: 24,
        server: Ipv4Addr::new(10, 0, 2, 1),
        gateway: None,
        dns: vec![],
        search: vec![],
        hostname: name.into(),
        mtu: 1500,
    };
    let nic = Nic {
        name: "default".into(),
        mac: "02:00:00:00:00:01".into(),
        model: "virtio".into(),
        queues: 1,
        tap: Tap::Opened { bridge: "k6t-eth0".into(), resolver: false },
        boot_order: None,
        dhcp: Some(lease),
    };
    Order {
        version: VERSION,
        name: format!("vms_{name}"),
        uuid: "5d307ca9-b3ef-428c-8861-06e72d69f223".into(),
        serial_number: None,
        machine: "q35".into(),
        accelerator: Accelerator::Tcg,
        cpu_model: "max".into(),
        sockets: 1,
        cores: 1,
        threads: 1,
        memory: Memory { bytes: 64 << 20, backing: Backing::Anonymous },
        kernel: None,
        disks: Vec::new(),
        nics: vec![nic],
        serial: false,
        graphics: false,
        balloon: false,
        rng: false,
        acpi: true,
        start_paused: false,
        grace_seconds: 30,
    }
}

/// A machine's pod gets its network, and its guest runs on it.
fn machine(test: &Test, api: &Api) -> Result<()> {
    test.cluster.apply(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: guest, namespace: vms}
spec:
  runStrategy: Once
  template:
    spec: {domain: {memory: {guest: 64Mi}, devices: {}}}
",
    )?;
    let pod = wait("the launcher's pod", TIMEOUT, || {
        let pods = test.json("get pods -n vms -l kubevirt.io=virt-launcher")?;
        Ok(pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned))
    })?;
    let address = test.address("vms", &pod)?;
    let slot = api.slot(&pod).with_context(|| test.log())?;
    api.state(&slot, State::Waiting).with_context(|| test.log())?;
    let ToApi::Ready { facts, .. } = api.prepare(&slot, vec![address])? else {
        bail!("{}", api.said.borrow().join("\n"))
    };
    ensure!(facts.address == address && facts.gateway.is_some(), "{facts:?}");
    let start = serde_json::to_vec(&Request::Start { order: Box::new(order("guest")) })?;
    api.ask(&FromApi::Relay { slot: slot.clone(), link: api.link(&slot) }, &start)?;
    api.state(&slot, State::Running).with_context(|| test.log())?;

    let launchers = test.processes(&["/usr/bin/virt-launcher", "--slot"]);
    let machines = test.processes(&["qemu-system-x86_64", "vms_guest"]);
    let [launcher] = launchers.as_slice() else { bail!("no launcher, or several") };
    // QEMU's own filter may make more than one process of a moment; all have the pod's rights.
    ensure!(!machines.is_empty(), "no QEMU");
    for process in [launcher].into_iter().chain(&machines) {
        holds(process, 0)?;
        ensure!(!process.status("Uid")?.split_whitespace().any(|user| user == "0"), "it is root");
    }
    let namespace = |process: &Process| PathBuf::from(format!("/proc/{}/ns/net", process.pid));
    ensure!(fs::read_link(namespace(launcher))? == fs::read_link(namespace(&machines[0]))?, "two namespaces");
    let shown = inside(
        &namespace(launcher),
        "ip -o -d link show tap0; ip -o link show k6t-eth0; nft list ruleset; cat /proc/net/udp",
    )?;
    for word in
        ["master k6t-eth0", "LOWER_UP", "table ip kubevirt", "masquerade", "dnat to 10.0.2.2", ":0043 "]
    {
        ensure!(shown.contains(word), "{word}: {shown}");
    }
    Ok(())
}

/// A pod with a place and the node's network, which only somebody who has taken the controller over could make: its launcher
/// is not heard, and the node's network stays as it is.
fn with_the_nodes_network(test: &Test, api: &Api) -> Result<()> {
    let node = network::file(&test.node.namespace);
    let look = "ip -o link show type bridge; ip -o link show type tun; nft list tables";
    let before = inside(&node, look)?;
    let manifest = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: host, namespace: kubevirt}}
spec:
  hostNetwork: true
  automountServiceAccountToken: false
  securityContext: {{runAsUser: 107, runAsGroup: 107, fsGroup: 107}}
  containers:
  - name: compute
    image: {LAUNCHER}
    command: [/usr/bin/virt-launcher, --run-dir, /scratch, --overlay-dir, /scratch, --slot, /run/ferrovirt]
    resources: {{limits: {{devices.ferrovirt.io/machine: 1}}}}
    volumeMounts: [{{name: scratch, mountPath: /scratch}}, {{name: sockets, mountPath: /scratch/sockets}}]
  volumes: [{{name: scratch, emptyDir: {{}}}}, {{name: sockets, emptyDir: {{}}}}]
"
    );
    test.cluster.create_as(CONTROLLER, &manifest)?;
    let slot = api.slot("host").with_context(|| test.log())?;
    let why = api
        .until("the end of its link", |head, _| match head {
            ToApi::Ended { slot: of, why: Some(why), .. } if *of == slot => Some(why.clone()),
            ToApi::Linked { slot: of, .. } if *of == slot => Some("it is heard".to_owned()),
            _ => None,
        })
        .with_context(|| test.log())?;
    ensure!(
        why == "the launcher's network namespace is the host's: pods of machines have their own",
        "{why}"
    );
    let answer = api.prepare(&slot, vec![test.address("kubevirt", "host")?])?;
    ensure!(matches!(answer, ToApi::Refused { .. }), "{answer:?}");
    ensure!(inside(&node, look)? == before, "the node's network is another: {before}");
    Ok(())
}

#[test]
fn a_launcher_without_a_capability_gets_its_network_from_a_handler_with_one() -> Result<()> {
    let test = Test::start("network")?;
    let (net, api) = test.net()?;
    rights(&test, &net)?;
    machine(&test, &api)?;
    with_the_nodes_network(&test, &api)
}
