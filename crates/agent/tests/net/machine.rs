//! A real launcher with a real QEMU.

use crate::{
    support::{Node, Pod, Users, until},
    wanted,
};
use ferrovirt_handler::net::talk::{Opened, ToApi};
use ferrovirt_qemu::{
    order::{Accelerator, Backing, Lease, Memory, Nic, Order, Tap, VERSION},
    protocol::{Console, Event, Request, State},
};
use ferrovirt_sys::process::{Setup, spawn};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
};

/// The launcher's program beside the handler's.
fn program() -> PathBuf {
    let made = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--package", "ferrovirt-launcher"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(made.unwrap().success());
    Path::new(env!("CARGO_BIN_EXE_virt-handler")).with_file_name("virt-launcher")
}

struct Launcher(Child);

impl Drop for Launcher {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn order(queues: u32) -> Order {
    let lease = Lease {
        address: Ipv4Addr::new(10, 0, 2, 2),
        prefix: 24,
        server: Ipv4Addr::new(10, 0, 2, 1),
        gateway: None,
        dns: vec![],
        search: vec![],
        hostname: "test".into(),
        mtu: 1500,
    };
    let nic = Nic {
        name: "default".into(),
        mac: "02:00:00:00:00:01".into(),
        model: "virtio".into(),
        queues,
        tap: Tap::Opened { bridge: "k6t-eth0".into(), resolver: false },
        boot_order: None,
        dhcp: Some(lease),
    };
    Order {
        version: VERSION,
        name: "default_test".into(),
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
        graphics: true,
        balloon: false,
        rng: false,
        acpi: true,
        start_paused: false,
        grace_seconds: 30,
    }
}

fn state(node: &Node) -> State {
    let (head, body) = node.next();
    assert!(matches!(head, ToApi::Said { .. }), "{head:?}");
    match serde_json::from_slice(&body).unwrap() {
        Event::State { state, .. } => state,
        other => panic!("{other:?}"),
    }
}

/// A launcher that has connected as this user of the node gets its network, and its guest runs.
fn runs(node: &Node, pod: &Pod, slot: &str, queues: u32, launcher: &Launcher, user: u32) {
    node.linked_as(slot, user);
    assert_eq!(state(node), State::Waiting);
    node.prepare(slot, wanted(queues));
    let ready = node.next().0;
    assert!(matches!(ready, ToApi::Ready { .. }), "{ready:?}");
    let start = Request::Start { order: Box::new(order(queues)) };
    node.relay(slot, &serde_json::to_vec(&start).unwrap());
    assert_eq!([state(node), state(node)], [State::Starting, State::Running]);
    let shown = pod.ns.sh("ip -o -d link show tap0; nft list table ip kubevirt; cat /proc/net/udp");
    assert_eq!(shown.contains("multi_queue"), queues > 1, "{shown}");
    for word in ["master k6t-eth0", "LOWER_UP", "masquerade", ":0043 "] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let (console, opened) = node.console(slot, node.link(slot));
    let Opened::Listening { socket } = opened else { panic!("{opened:?}") };
    let request = Request::Console { socket, console: Console::Vnc };
    node.relay(slot, &serde_json::to_vec(&request).unwrap());
    crate::attacks::connected(&console);
    assert_eq!(console.recv(64).unwrap().unwrap().bytes, b"RFB 003.008\n");
    let status = fs::read_to_string(format!("/proc/{}/status", launcher.0.id())).unwrap();
    assert!(status.contains("CapPrm:\t0000000000000000\n"), "{status}");
}

#[test]
fn a_launcher_without_a_capability_runs_a_guest_on_a_tap_of_one_and_of_four_queues() {
    let (program, node) = (program(), Node::start());
    for queues in [1, 4] {
        let pod = Pod::new();
        let slot = node.slot(queues);
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sockets")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]).arg(&program);
        command.arg("--run-dir").arg(directory.path()).arg("--overlay-dir").arg(directory.path());
        command.arg("--slot").arg(node.socket(&slot).parent().unwrap());
        let setup = Setup { network_namespace: Some(pod.ns.open.try_clone().unwrap()), ..Setup::default() };
        let launcher = Launcher(spawn(command, setup).unwrap());
        runs(&node, &pod, &slot, queues, &launcher, 0);
        // The guest's network is the guest's alone: it goes with it.
        drop(launcher);
        node.gone(&slot);
        until("the TAP goes", || (!pod.ns.sh("ip -o link").contains("tap0")).then_some(()));
    }
}

/// What a runtime does for a pod: its mounts, which root makes, then its users. The node of the TUN driver is open to
/// everybody, as udev makes it.
const POD_WITH_USERS: &str = "set -e
mount -t tmpfs -o mode=755 net /dev/net
mknod -m 666 /dev/net/tun c 10 200
mount --bind \"$SLOT\" \"$DIR/slot\"
exec nsenter ${USERS:+--user=$USERS} --net=\"$NET\" setpriv --reuid 107 --regid 107 --clear-groups --bounding-set=-all \
    --inh-caps=-all --no-new-privs \"$DIR/virt-launcher\" --run-dir \"$DIR/run\" --overlay-dir \"$DIR/run\" --slot \"$DIR/slot\"";

/// Its network namespace belongs to the user namespace, which is not the handler's: the capability that counts there is that of
/// the namespace above. Without one of its own everything is as before, and who breaks out of QEMU
/// is a user of the node that others are, too.
#[test]
fn a_launcher_in_a_user_namespace_of_its_own_runs_a_guest() {
    let (program, node) = (program(), Node::start());
    for (queues, first) in [(1, Users::FIRST), (4, Users::FIRST), (1, 0)] {
        let user = first + 107;
        let users = Users::new();
        let pod = Pod::of(&users);
        let slot = node.slot(queues);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for made in ["run", "run/sockets", "slot"] {
            fs::create_dir(path(made)).unwrap();
            std::os::unix::fs::chown(path(made), Some(user), Some(user)).unwrap();
        }
        // By another process: one that this one starts meanwhile would have the file open for writing, and it could not be run.
        let copied = Command::new("cp").arg(&program).arg(path("virt-launcher")).status();
        assert!(copied.unwrap().success());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", POD_WITH_USERS]);
        command.env("SLOT", node.socket(&slot).parent().unwrap()).env("DIR", directory.path());
        let own = (first > 0).then(|| users.path("user"));
        command.env("USERS", own.unwrap_or_default()).env("NET", users.path("net"));
        let launcher = Launcher(spawn(command, Setup::default()).unwrap());
        runs(&node, &pod, &slot, queues, &launcher, user);
        let pid = launcher.0.id();
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        let map: Vec<u32> = map.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert_eq!(map == [0, first, Users::COUNT], first > 0, "{map:?}");
        let [qemu] = crate::rights::children(pid)[..] else { panic!("QEMU is not the only child") };
        let status = fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{user}\t{user}\t{user}\t{user}\n")), "{status}");
        drop(launcher);
        node.gone(&slot);
    }
}
