//! Witnesses of what the node does: each step is made by the agent's own code without the one capability, or by the
//! launcher's user without the one mount, descriptor or file, and the kernel refuses it. Needs root.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use ferrovirt_agent::{
    container::rootfs,
    machine::network::{self as pod, BRIDGE},
};
use ferrovirt_handler::net::view::View;
use ferrovirt_model::machine::{Binding, Interface, NicModel};
use ferrovirt_netlink::{
    Socket,
    mac::MacAddress,
    nft::{Batch, Family, Table},
    route::{self, Bridge, Link},
};
use ferrovirt_node::{
    disk,
    network::{
        Network, Policy, Port,
        cni::{Address, Attachment},
    },
    oci::{
        bundle::{self, Mount, Node},
        cgroup::{self, Layout},
        crun::Crun,
        granted::Granted,
        identity::Identity,
        sources::Sources,
    },
    volumes::{
        Claim,
        marks::{Mark, Name},
    },
};
use ferrovirt_privilege::{
    Access, Right, Scenario,
    scenario::{registered, witnessed},
};
use ferrovirt_qemu::{
    Descriptors, command_line,
    order::{Accelerator, Backing, Bus, Cache, Disk, Format, Kernel, Memory, Order, VERSION},
};
use ferrovirt_sys::{
    netlink::Protocol, netns, process::Setup, seqpacket::Listener, shared::Shared, tap, udp,
};
use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    net::{Ipv4Addr, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[path = "witnesses/images.rs"]
mod images;
#[path = "witnesses/opens.rs"]
mod opens;

/// The user of launchers.
const USER: u32 = 107;

fn set(capability: &str) -> CapabilitySet {
    match capability {
        "CHOWN" => CapabilitySet::CHOWN,
        "FOWNER" => CapabilitySet::FOWNER,
        "DAC_OVERRIDE" => CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH,
        "KILL" => CapabilitySet::KILL,
        "MKNOD" => CapabilitySet::MKNOD,
        "NET_ADMIN" => CapabilitySet::NET_ADMIN,
        "NET_BIND_SERVICE" => CapabilitySet::NET_BIND_SERVICE,
        "SETGID" => CapabilitySet::SETGID,
        "SETPCAP" => CapabilitySet::SETPCAP,
        "SETUID" => CapabilitySet::SETUID,
        "SYS_ADMIN" => CapabilitySet::SYS_ADMIN,
        "SYS_RESOURCE" => CapabilitySet::SYS_RESOURCE,
        other => panic!("{other}"),
    }
}

/// Does something on a thread that has lost capabilities for good: neither it nor its threads and programs have them.
fn without<T: Send>(lost: CapabilitySet, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            for one in lost.iter() {
                remove_capability_from_bounding_set(one).unwrap();
            }
            let mut sets = capabilities(None).unwrap();
            for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
                set.remove(lost);
            }
            set_capabilities(None, sets).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A step that works, and is refused in these words without the capability.
fn missed(
    witness: &str,
    capability: &str,
    words: &[&str],
    step: impl Fn() -> Result<(), String> + Send + Sync,
) {
    let held = witnessed(witness).unwrap().rights.iter();
    let mut named = held.filter_map(|right| match right {
        Right::Host { capability, .. } => Some(*capability),
        _ => None,
    });
    assert!(named.any(|name| name == capability), "{witness} grants no {capability}");
    let refusal = without(set(capability), &step).expect_err(&format!("{witness} without {capability}"));
    assert!(words.iter().any(|word| refusal.contains(word)), "{witness} without {capability}: {refusal}");
    step().unwrap_or_else(|error| panic!("{witness} with everything: {error}"));
}

const DENIED: &[&str] = &["not permitted", "Permission denied"];

/// A network namespace that goes away with the test.
struct Namespace {
    path: PathBuf,
    open: OwnedFd,
    _directory: tempfile::TempDir,
}

impl Namespace {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ns");
        netns::create(&path).unwrap();
        let open = netns::open(&path).unwrap();
        Self { path, open, _directory: directory }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

fn interface(binding: Binding) -> Interface {
    Interface {
        name: "default".to_owned(),
        model: NicModel::Virtio,
        mac: None,
        boot_order: None,
        binding,
        ports: vec![],
        queues: 1,
    }
}

fn text<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

fn network() {
    // Each try has a namespace of its own: a step is made once in it.
    let prepared = || -> Result<Namespace, String> {
        let namespace = Namespace::new();
        pod::prepare(&namespace.open, &[interface(Binding::Masquerade)]).map_err(|e| e.to_string())?;
        Ok(namespace)
    };
    let bare = Namespace::new();
    missed("tap-bridge", "SYS_ADMIN", DENIED, || text(netns::run_in(&bare.open, || Ok(()))));
    // The bridge comes first, then the translation.
    let other = Namespace::new();
    missed("tap-bridge", "NET_ADMIN", &["Operation not permitted"], || {
        let mut links = netns::run_in(&other.open, || Ok(Socket::open(Protocol::Route))).unwrap().unwrap();
        text(links.order(&Link::new_bridge(BRIDGE, Bridge::default()).create()))
    });
    let looked = "looking into the pod's network namespace: Operation not permitted";
    missed("tap-bridge", "NET_ADMIN", &[looked], || text(View::of(other.open.as_fd())));
    let rules = Namespace::new();
    missed("masquerade-nat", "NET_ADMIN", &["nf_tables, the batch: Operation not permitted"], || {
        let mut socket =
            netns::run_in(&rules.open, || Ok(Socket::open(Protocol::Netfilter))).unwrap().unwrap();
        let mut batch = Batch::new();
        batch.table(Table { family: Family::Ip, name: "kubevirt" });
        text(batch.send(socket.channel()))
    });
    let ready = prepared().unwrap();
    missed("tap-agent-creates", "NET_ADMIN", DENIED, || text(pod::queues(&ready.open, 2, USER)));
    missed("dhcp-agent-binds", "NET_BIND_SERVICE", DENIED, || text(pod::dhcp(&ready.open)));
    let set = |links: &mut Socket| {
        links.order(&Link::new_bridge("eth0", Bridge::default()).create())?;
        let eth0 = route::link_named(links, None, "eth0")?.unwrap().index;
        links.order(&Link::of(eth0).ipv4(false, false).set())
    };
    set(&mut netns::run_in(&ready.open, || Ok(Socket::open(Protocol::Route))).unwrap().unwrap()).unwrap();
    missed("masquerade-nat", "NET_ADMIN", DENIED, || {
        text(pod::wire(&ready.open, &[interface(Binding::Masquerade)], &attachment(), "host"))
    });
    forwarding(&ready);
    unprivileged_port(&ready);
    on_the_node();
}

/// What a plug-in answers; nothing of it is used behind translation.
fn attachment() -> Attachment {
    Attachment {
        address: Address { ip: Ipv4Addr::new(10, 244, 0, 9), prefix: 24, gateway: None },
        port: "none".to_owned(),
        mac: MacAddress([2, 0, 0, 0, 0, 9]),
    }
}

/// The sysctls of `masquerade-nat`: they are set.
fn forwarding(ready: &Namespace) {
    let read = |namespace: &Namespace, name: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        netns::run_in(&namespace.open, || fs::read_to_string(path)).unwrap().trim().to_owned()
    };
    for right in witnessed("masquerade-nat").unwrap().rights {
        let Right::Sysctl { name, value } = right else { continue };
        let file = name.trim_start_matches("net.ipv4.").replace('.', "/");
        assert_eq!(read(ready, &file), *value, "{name}");
    }
}

/// `dhcp-socket`: the launcher cannot have the port of its own.
fn unprivileged_port(ready: &Namespace) {
    let lost = CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    let all = lost | CapabilitySet::SYS_ADMIN;
    // Inside already, as a launcher is.
    let bound = netns::run_in(&ready.open, || Ok(without(all, || udp::dhcp_server(BRIDGE)))).unwrap();
    assert_eq!(bound.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let made = netns::run_in(&ready.open, || Ok(without(all, || tap::create("tap1", 1, USER)))).unwrap();
    assert_eq!(made.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

/// The node's bridge and rules, the pod's link to it and the bridge binding.
fn on_the_node() {
    let node = Namespace::new();
    let directory = tempfile::tempdir().unwrap();
    netns::run_in(&node.open, || {
        drop(Network::set_up(directory.path()).unwrap());
        let refusal = "making the bridge of the pod network: Operation not permitted";
        missed("node-bridge", "NET_ADMIN", &[refusal], || text(Network::set_up(directory.path())));
        for right in witnessed("node-bridge").unwrap().rights {
            let Right::Sysctl { name, value } = right else { continue };
            let file = format!("/proc/sys/{}", name.replace('.', "/"));
            assert_eq!(fs::read_to_string(file)?.trim(), *value, "{name}");
        }
        let network = Network::set_up(directory.path()).unwrap();
        let pod = Namespace::new();
        missed("node-network", "NET_ADMIN", DENIED, || text(network.attach("pod", &pod.path)));
        network.release("pod", &pod.path).unwrap();
        let attachment = network.attach("pod", &pod.path).unwrap();
        let port = Port {
            name: attachment.port.clone(),
            mac: attachment.mac,
            ip: attachment.address.ip,
            namespace: "alpha".to_owned(),
        };
        missed("node-rules", "NET_ADMIN", DENIED, || {
            text(network.admit("pod", port.clone(), &Policy::default()))
        });
        missed("bridge-enslave", "NET_ADMIN", DENIED, || {
            text(pod::wire(&pod.open, &[interface(Binding::Bridge)], &attachment, "host"))
        });
        network.release("pod", &pod.path).unwrap();
        network.tear_down().unwrap();
        Ok(())
    })
    .unwrap();
}

/// A container that ends by itself.
struct Once {
    directory: tempfile::TempDir,
    layout: Layout,
    crun: Crun,
    id: String,
}

impl Once {
    /// Runs a shell line as a launcher runs, with these volumes; what it said.
    fn run(id: &str, line: &str, volumes: &[Mount], device: bool) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = directory.path().join("rootfs");
        rootfs::prepare(&root, "").unwrap();
        let layout = Layout::detect().unwrap();
        let crun = Crun::new(directory.path().join("crun"), layout.hide_v2());
        for name in ["crun", "bundle"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let bundle = directory.path().join("bundle");
        let netns = directory.path().join("netns");
        File::create(&netns).unwrap();
        let limits = if device { json!({"devices.kubevirt.io/tun": "1"}) } else { json!({}) };
        let container: Container = serde_json::from_value(json!({
            "name": "compute", "image": "x", "command": ["/usr/bin/busybox", "sh", "-c", line],
            "resources": {"limits": limits},
            "securityContext": {
                "runAsUser": USER, "runAsGroup": USER, "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": id}})).unwrap();
        let identity = Identity::of(&pod, &container, rootfs::IMAGE_ID).unwrap();
        let node = Node {
            rootfs: &root,
            sources: &Sources::default(),
            program: rootfs::program(Path::new("/bin/true")),
            own_ports: true,
            hostname: "p",
            granted: &Granted::default(),
            usr: Path::new("/usr"),
            netns: &netns,
            huge: layout.huge_limit(),
            seccomp: ferrovirt_plan::render::seccomp::profile(),
        };
        let devices = ferrovirt_agent::container::devices::devices(&container).unwrap();
        let mut config = bundle::config(&pod, &container, &identity, volumes, &devices, &node).unwrap();
        // A namespace of the runtime's own making: nothing here is about the network.
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            namespace.as_object_mut().unwrap().remove("path");
        }
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let listener = Listener::bind(&directory.path().join("sock")).unwrap();
        let once = Self { directory, layout, crun, id: id.to_owned() };
        once.crun.run(id, &bundle, log, Some(listener.into())).map_err(|error| error.to_string())?;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let said = fs::read_to_string(once.directory.path().join("log")).unwrap();
            if said.contains("over") {
                return Ok(said);
            }
            assert!(std::time::Instant::now() < deadline, "{said}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        // Without a capability there may be nothing, and nothing may be removable: the state is a temporary directory.
        let _ended = self.crun.delete(&self.id, &self.directory.path().join("bundle"));
        cgroup::remove(&self.layout, &self.id);
    }
}

fn containers() {
    let ordinary = |id: &'static str, device| move || text(Once::run(id, "echo over", &[], device));
    missed("node-mounts", "SYS_ADMIN", DENIED, ordinary("witness-mounts", false));
    let directory = tempfile::tempdir().unwrap();
    missed("node-mounts", "SYS_ADMIN", DENIED, || {
        let path = directory.path().join(format!("{:?}", std::thread::current().id()));
        let made = netns::create(&path);
        let gone = netns::delete(&path);
        text(made).and(text(gone))
    });
    missed("node-devices", "MKNOD", DENIED, ordinary("witness-devices", true));
    missed("node-identity", "SETUID", DENIED, ordinary("witness-setuid", false));
    missed("node-identity", "SETGID", DENIED, ordinary("witness-setgid", false));
    missed("node-identity", "SETPCAP", DENIED, ordinary("witness-setpcap", false));

    // `node-ports`: a new network namespace, and a container's own.
    let lost = set("NET_BIND_SERVICE");
    let ports = Namespace::new();
    let bind = || without(lost, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).map(drop));
    let refused = netns::run_in(&ports.open, || Ok(bind())).unwrap().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    let line = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo over";
    assert!(Once::run("witness-ports", line, &[], false).unwrap().starts_with("0\n"));

    // `base-sockets`: the same line with and without the two directories.
    let line = "for d in /var/run/kubevirt /var/run/kubevirt/sockets; do (: > $d/made); done; ls /var/run/kubevirt/made; echo over";
    let said = Once::run("witness-no-sockets", line, &[], false).unwrap();
    assert!(said.contains("/var/run/kubevirt/sockets/made"), "{said}");
    assert!(said.contains("nonexistent directory") || said.contains("No such file"), "{said}");
    let volume = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = volume.path().join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        path
    };
    let volumes = [
        Mount::bind(place("public"), "/var/run/kubevirt", false),
        Mount::bind(place("sockets"), "/var/run/kubevirt/sockets", false),
    ];
    let said = Once::run("witness-sockets", line, &volumes, false).unwrap();
    assert!(said.starts_with("/var/run/kubevirt/made\n"), "{said}");
}

fn ownership() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk");
    fs::write(&file, "x").unwrap();
    missed("node-ownership", "CHOWN", DENIED, || {
        text(chown(&file, Some(USER), None)).and(text(chown(&file, Some(0), None)))
    });
    let secret = directory.path().join("secret");
    fs::write(&secret, "x").unwrap();
    chown(&secret, Some(USER), Some(USER)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    missed("node-ownership", "DAC_OVERRIDE", DENIED, || text(fs::read(&secret)));
    let claim = directory.path().join("claim");
    fs::create_dir(&claim).unwrap();
    chown(&claim, Some(USER), Some(USER)).unwrap();
    let mark = Mark {
        file: directory.path().join("mark"),
        claim: Name { namespace: "n".to_owned(), name: "c".to_owned() },
    };
    let claim = Claim {
        mark,
        volume: "pv".to_owned(),
        path: claim,
        block: false,
        create: false,
        follows_group: true,
        capacity: 1,
    };
    let pod = Pod::default();
    let identity = Identity::of(&pod, &Container::default(), USER + 1).unwrap();
    let identity = Identity { fs_group: Some(USER + 1), ..identity };
    missed("node-ownership", "FOWNER", DENIED, || text(claim.hand_over("v", &pod, &identity)));

    let mut other = Command::new("sleep").arg("1000").uid(USER).gid(USER).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&other);
    missed("node-lifecycle", "KILL", DENIED, || text(rustix::process::test_kill_process(pid)));
    other.kill().unwrap();
    other.wait().unwrap();
    // What a launcher's user owns below a cgroup (a delegated one) is still limited by the node.
    let limits = directory.path().join("limits");
    fs::write(&limits, "").unwrap();
    chown(&limits, Some(USER), Some(USER)).unwrap();
    fs::set_permissions(&limits, fs::Permissions::from_mode(0o600)).unwrap();
    missed("node-lifecycle", "DAC_OVERRIDE", DENIED, || text(fs::write(&limits, "1")));
}

/// The user of the API server.
const API: u32 = 76_443;

/// What `ferrovirt up` does as the supervisor of its other processes.
fn supervisor() {
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let own = closed.path().join("api");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    missed("supervisor-ownership", "CHOWN", DENIED, || {
        text(chown(&own, Some(0), Some(0))).and(text(chown(&own, Some(API), Some(API))))
    });
    chown(&own, Some(API), Some(API)).unwrap();
    missed("supervisor-ownership", "DAC_OVERRIDE", DENIED, || text(File::open(&own)));

    let start_as = |user: u32, line: &'static str, directory: Option<&Path>| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let directory = directory.map(|path| File::open(path).unwrap().into());
        ferrovirt_sys::process::spawn(command, Setup { directory, user: Some(user), ..Setup::default() })
    };
    let start = |line, directory| start_as(API, line, directory);
    let starts = |user| match start_as(user, "exit 0", None) {
        Ok(mut child) => text(child.wait()),
        Err(error) => Err(error.to_string()),
    };
    for capability in ["SETUID", "SETGID", "SETPCAP"] {
        missed("supervisor-identity", capability, DENIED, || starts(API));
    }
    for capability in ["SETGID", "SETPCAP"] {
        missed("supervisor-plug", capability, DENIED, || starts(0));
    }
    let mut other = start("exec sleep 1000", None).unwrap();
    let pid = rustix::process::Pid::from_child(&other);
    missed("supervisor-ends", "KILL", DENIED, || text(rustix::process::test_kill_process(pid)));
    other.kill().unwrap();
    other.wait().unwrap();
    let network = Namespace::new();
    // Inside already: entering takes another capability.
    netns::run_in(&network.open, || {
        missed("supervisor-port", "NET_BIND_SERVICE", DENIED, || {
            text(std::net::TcpListener::bind("127.0.0.1:443"))
        });
        Ok(())
    })
    .unwrap();

    // `api-descriptors`: the same directory by its name and as the working directory that it was started in.
    fs::write(own.join("store"), "").unwrap();
    chown(own.join("store"), Some(API), Some(API)).unwrap();
    let line = format!("cat {}/store 2>&1; cat store && echo by descriptor", own.display());
    let line: &'static str = Box::leak(line.into_boxed_str());
    let said = start(line, Some(&own)).unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("Permission denied") && said.ends_with("by descriptor\n"), "{said}");
}

/// `node-measure`: a file that is mapped, and neither named nor open, is seen.
fn mapped() {
    let first = fs::read_to_string("/proc/self/uid_map").unwrap();
    if first.split_whitespace().nth(2) != Some("4294967295") {
        eprintln!("node-measure: this root is not that of the first user namespace");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut file = tempfile::tempfile_in(directory.path()).unwrap();
    let _mapped = Shared::map(&file, 4096).unwrap();
    file.write_all(&vec![1; 64 << 20]).unwrap();
    drop(file);
    let own = [std::process::id()];
    let look = || {
        let processes = disk::Processes { all: &own, first: 0, user: 0, group: 0 };
        // The kernel takes this one, which the agent does not have, for the other.
        let held = without(CapabilitySet::CHECKPOINT_RESTORE, || disk::unlinked(processes, directory.path()));
        let held = held.map_err(|error| error.to_string())?;
        if held.bytes >= 64 << 20 { Ok(()) } else { Err(format!("{} bytes are seen", held.bytes)) }
    };
    missed("node-measure", "SYS_ADMIN", &["bytes are seen"], look);
}

/// Scores of the OOM killer. A nested root may lack the capability: then the kernel refuses with it as without.
fn scores() {
    let lower = || {
        text(fs::write("/proc/thread-self/oom_score_adj", "-999"))
            .and_then(|()| text(fs::write("/proc/thread-self/oom_score_adj", "0")))
    };
    if !capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_RESOURCE) {
        eprintln!("supervisor-oom, node-oom: this root lacks CAP_SYS_RESOURCE");
        lower().unwrap_err();
        return;
    }
    for witness in ["supervisor-oom", "node-oom"] {
        missed(witness, "SYS_RESOURCE", DENIED, lower);
    }
}

#[test]
fn each_step_on_the_node_is_refused_without_what_it_is_granted() {
    network();
    containers();
    ownership();
    images::unpacked();
    supervisor();
    scores();
    mapped();
    let mut ran = opens::opens();
    assert!(ran.len() > 8, "{ran:?}");
    ran.extend([
        "base-sockets",
        "bridge-enslave",
        "dhcp-agent-binds",
        "dhcp-socket",
        "masquerade-nat",
        "node-bridge",
        "node-devices",
        "node-identity",
        "node-images",
        "node-lifecycle",
        "node-measure",
        "node-mounts",
        "node-network",
        "node-ownership",
        "node-ports",
        "node-rules",
        "node-oom",
        "api-descriptors",
        "supervisor-ends",
        "supervisor-identity",
        "supervisor-oom",
        "supervisor-ownership",
        "supervisor-plug",
        "supervisor-port",
        "tap-agent-creates",
        "tap-bridge",
    ]);
    assert_eq!(ran, registered(Scenario::Node).collect());
}
