//! Guests that try to reach who is not theirs, and to be somebody else.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, process::Process, wait_for};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::Command,
    thread,
    time::Duration,
};

/// Where every guest of this test offers something.
const PORT: u16 = 8080;
/// How long a connection may take that comes about.
const SOON: Duration = Duration::from_secs(5);

fn sh(line: &str) -> Result<String> {
    let output = Command::new("sh").args(["-c", line]).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{line}: {said}");
    Ok(said)
}

/// A machine whose guest runs a script as it starts; what it says is on the serial line.
fn machine(name: &str, binding: &str, script: &str) -> String {
    let script = script.lines().map(|line| format!("              {line}\n")).collect::<String>();
    format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}}}
spec:
  runStrategy: Always
  template:
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        memory: {{guest: 192Mi}}
        firmware:
          kernelBoot:
            container: {{image: 'ferrovirt/guest-kernel', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
        devices:
          autoattachGraphicsDevice: false
          disks: [{{name: init, disk: {{bus: virtio}}}}]
          interfaces: [{{name: default, {binding}: {{}}}}]
      networks: [{{name: default, pod: {{}}}}]
      volumes:
        - name: init
          cloudInitNoCloud:
            userData: |
{script}"
    )
}

/// A guest that greets anyone who comes.
fn host(name: &str) -> String {
    let greet =
        format!("#!/bin/sh\nnc -ll -p {PORT} -e echo greetings from {name} </dev/null >/dev/null 2>&1 &\n");
    machine(name, "masquerade", &greet)
}

fn apply(cluster: &Cluster, namespace: &str, manifest: &str) -> Result<()> {
    let file = cluster.data().join("machine.yaml");
    fs::write(&file, manifest)?;
    cluster.kubectl(&["apply", "-n", namespace, "-f", &file.to_string_lossy()])?;
    Ok(())
}

/// The address of a machine whose guest is up.
fn address(cluster: &Cluster, namespace: &str, name: &str) -> Result<Ipv4Addr> {
    cluster.wait_serial(namespace, name, "guest: ready")?;
    let instance = cluster.json(&["get", "vmi", name, "-n", namespace])?;
    let address = instance["status"]["interfaces"][0]["ipAddress"].as_str().context("no address")?;
    Ok(address.parse()?)
}

/// What a listener there says; nothing where nobody does.
fn heard(address: Ipv4Addr) -> String {
    let mut said = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::new(address.into(), PORT), SOON) {
        let _ended = stream.set_read_timeout(Some(SOON)).and_then(|()| stream.read_to_string(&mut said));
    }
    said
}

/// Greets anybody who comes, in the network of the calling thread, until the test ends.
fn greet(name: &'static str, port: u16) -> Result<u16> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _gone = writeln!(stream, "greetings from {name}");
        }
    });
    Ok(port)
}

/// Another machine, one cable away from the node; gone on drop.
struct Outside;

impl Outside {
    const NODE: &str = "198.51.100.1";
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    fn new() -> Result<Self> {
        sh("ip netns add fvoutside")?;
        let outside = Self;
        sh(&format!(
            "ip link add fvout0 type veth peer name up0 netns fvoutside && ip addr add {}/24 dev fvout0 && ip link set fvout0 up
            ip netns exec fvoutside sh -c 'ip addr add {}/24 dev up0 && ip link set up0 up'",
            Self::NODE,
            Self::ADDRESS
        ))?;
        let namespace = File::open("/run/netns/fvoutside")?;
        let listening = thread::spawn(move || -> Result<u16> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            greet("outside", PORT)
        });
        listening.join().map_err(|_| anyhow::anyhow!("no listener"))??;
        Ok(outside)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = sh("ip link delete fvout0; ip netns delete fvoutside");
    }
}

/// What the node knows of two machines: neighbours, and ports of the bridge.
fn known(bridge: &str, machines: &[(Ipv4Addr, String)]) -> Result<Vec<String>> {
    let mut known = Vec::new();
    for (address, mac) in machines {
        let neighbour = sh(&format!("ip neigh show to {address} dev {bridge}"))?;
        ensure!(neighbour.contains(mac.as_str()), "{address} is {neighbour} and not {mac}");
        let table = sh(&format!("bridge fdb show br {bridge}"))?;
        known.extend(table.lines().filter(|line| line.starts_with(mac.as_str())).map(str::to_owned));
    }
    Ok(known)
}

fn spoofed(table: &str) -> Result<u64> {
    let text = sh(&format!("nft list counter bridge {table} spoofed"))?;
    let number = text.split_once("packets ").and_then(|(_, rest)| rest.split_whitespace().next());
    Ok(number.context(text.clone())?.parse()?)
}

#[test]
fn namespaces_the_node_and_others_addresses_are_out_of_a_guests_reach() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    for namespace in ["alpha", "beta"] {
        cluster.kubectl(&["create", "namespace", namespace])?;
    }
    let outside = Outside::new()?;
    let service = greet("the node", 0)?;
    apply(&cluster, "alpha", &host("friend"))?;
    apply(&cluster, "beta", &host("stranger"))?;
    let (friend, stranger) = (address(&cluster, "alpha", "friend")?, address(&cluster, "beta", "stranger")?);
    wait_for("both to greet", TIMEOUT, || {
        Ok((heard(friend).contains("friend") && heard(stranger).contains("stranger")).then_some(()))
    })?;
    let network = fs::read(cluster.data().join("agent/network.json"))?;
    let network: serde_json::Value = serde_json::from_slice(&network)?;
    let tag = network["tag"].as_str().context("no tag")?;
    let (bridge, table) = (format!("fv-{tag}"), format!("ferrovirt_{tag}"));
    let mac = |address: Ipv4Addr| -> Result<String> {
        let text = sh(&format!("ip neigh show to {address} dev {bridge}"))?;
        let after = text.split_once("lladdr ").map(|(_, rest)| rest.split_whitespace().next());
        Ok(after.flatten().context(text.clone())?.to_owned())
    };
    let machines = [(friend, mac(friend)?), (stranger, mac(stranger)?)];
    let (before, counted) = (known(&bridge, &machines)?, spoofed(&table)?);
    ensure!(before.len() == 2, "{before:?}");
    let six = sh(&format!("ip -o -6 addr show dev {bridge}"))?;
    ensure!(six.is_empty(), "the bridge has an address that services of the node answer at: {six}");

    let [a, b, c, _] = friend.octets();
    let gateway = Ipv4Addr::new(a, b, c, 1);
    let (outer, node) = (Outside::ADDRESS, Outside::NODE);
    let hostile = &machines[1].1;
    let script = format!(
        "#!/bin/sh
ask() {{ echo \"$1: $(nc -w 3 $2 $3 </dev/null 2>/dev/null || echo silence)\"; }}
ask friend {friend} {PORT}
ask stranger {stranger} {PORT}
ask outside {outer} {PORT}
ask gateway {gateway} {service}
ask node {node} {service}
ping -c 1 -W 3 {gateway} >/dev/null && echo echo: answered
own=$(cat /sys/class/net/eth0/address)
for victim in {stranger} {friend}; do
  arping -U -c 1 -w 1 -I eth0 -s $victim $victim
  arping -A -c 1 -w 1 -I eth0 -s $victim $victim
  arping -c 1 -w 1 -I eth0 -s $victim {gateway}
done >/dev/null 2>&1
ip link set eth0 address {hostile}
ping -c 1 -W 1 {gateway} >/dev/null && echo another hardware address is heard
ip addr add {stranger}/24 dev eth0
ping -c 1 -W 1 -I {stranger} {gateway} >/dev/null && echo another address is heard
ip addr del {stranger}/24 dev eth0
ip link set eth0 address $own
echo all was tried
echo what follows is for the administrator to open
until nc -w 3 {stranger} {PORT} </dev/null 2>/dev/null | grep greetings; do sleep 1; done
until nc -w 3 {gateway} {service} </dev/null 2>/dev/null | grep greetings; do sleep 1; done
echo all was opened
"
    );
    apply(&cluster, "alpha", &machine("attacker", "bridge", &script))?;
    let said = cluster.wait_serial("alpha", "attacker", "all was tried")?;
    for line in [
        "friend: greetings from friend",
        "stranger: silence",
        "outside: greetings from outside",
        "gateway: silence",
        "node: silence",
        "echo: answered",
    ] {
        ensure!(said.contains(line), "not `{line}`:\n{said}");
    }
    ensure!(!said.contains("is heard"), "{said}");
    ensure!(spoofed(&table)? > counted, "nothing was counted:\n{said}");
    let after = known(&bridge, &machines)?;
    ensure!(after == before, "{before:?} became {after:?}");
    ensure!(heard(friend).contains("friend") && heard(stranger).contains("stranger"));
    // What the administrator opens is open, for machines that run.
    let open = serde_json::json!({"spec": {"configuration": {"podNetwork": {
        "isolation": "None", "nodeServices": [{"port": service}]}}}});
    cluster.kubectl(&[
        "patch",
        "kubevirt",
        "kubevirt",
        "-n",
        "kubevirt",
        "--type=merge",
        "-p",
        &open.to_string(),
    ])?;
    cluster.wait_serial("alpha", "attacker", "all was opened")?;
    drop(outside);
    cluster.stop()?;
    let left = sh("nft list tables; ip -o link")?;
    ensure!(!left.contains(tag) && !left.contains("ferrovirt_router"), "{left}");
    Ok(())
}

#[test]
fn an_address_comes_back_whatever_became_of_its_pods_network() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&ferrovirt_e2e::machine("m", "Always", 0))?;
    cluster.wait_phase("default", "m", "Running")?;
    let agent = cluster.data().join("agent");
    let names = |directory: &str| -> Result<Vec<String>> {
        let entries = fs::read_dir(agent.join(directory))?.flatten();
        Ok(entries.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    };
    // The address plug-in has a directory for its one network, and a file for each address there.
    let network = names("cni")?.pop().context("no network")?;
    let leases = || -> Result<usize> {
        let all = names(&format!("cni/{network}"))?;
        Ok(all.iter().filter(|name| name.parse::<Ipv4Addr>().is_ok()).count())
    };
    ensure!(leases()? == 1, "{:?}", names(&format!("cni/{network}")));
    for name in names("netns")? {
        let path = agent.join("netns").join(name);
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)?;
        fs::remove_file(path)?;
    }
    cluster.kubectl(&["delete", "vm", "m", "--timeout=90s"])?;
    wait_for("the guest to be gone", TIMEOUT, || Ok(Process::qemu("default", "m").is_empty().then_some(())))?;
    wait_for("the address to be given back", TIMEOUT, || Ok((leases()? == 0).then_some(())))?;
    cluster.stop()
}
