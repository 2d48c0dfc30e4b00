//! A real launcher with a real QEMU.

use crate::{
    support::{Node, Pod, until},
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
        node.linked(&slot);
        assert_eq!(state(&node), State::Waiting);
        node.prepare(&slot, wanted(queues));
        let ready = node.next().0;
        assert!(matches!(ready, ToApi::Ready { .. }), "{ready:?}");
        let start = Request::Start { order: Box::new(order(queues)) };
        node.relay(&slot, &serde_json::to_vec(&start).unwrap());
        assert_eq!([state(&node), state(&node)], [State::Starting, State::Running]);
        let shown = pod.ns.sh("ip -o -d link show tap0; nft list table ip kubevirt; cat /proc/net/udp");
        assert_eq!(shown.contains("multi_queue"), queues > 1, "{shown}");
        for word in ["master k6t-eth0", "LOWER_UP", "masquerade", ":0043 "] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        let (console, opened) = node.console(&slot, node.link(&slot));
        let Opened::Listening { socket } = opened else { panic!("{opened:?}") };
        let request = Request::Console { socket, console: Console::Vnc };
        node.relay(&slot, &serde_json::to_vec(&request).unwrap());
        crate::attacks::connected(&console);
        assert_eq!(console.recv(64).unwrap().unwrap().bytes, b"RFB 003.008\n");
        let status = fs::read_to_string(format!("/proc/{}/status", launcher.0.id())).unwrap();
        assert!(status.contains("CapPrm:\t0000000000000000\n"), "{status}");
        // The guest's network is the guest's alone: it goes with it.
        drop(launcher);
        node.gone(&slot);
        until("the TAP goes", || (!pod.ns.sh("ip -o link").contains("tap0")).then_some(()));
    }
}
