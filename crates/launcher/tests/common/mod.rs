//! A real launcher with a real QEMU, seen through its socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    dead_code
)] // helpers of tests

use ferrovirt_qemu::{
    order::{Accelerator, Backing, Bus, Cache, Disk, Format, Memory, Nic, Order, Tap, VERSION},
    protocol::{Ending, Event, LISTEN_FD, MAX_MESSAGE, Request, State},
};
use ferrovirt_sys::{
    netns,
    process::{Setup, spawn},
    seqpacket::{Connection, Listener},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command},
};
use tempfile::TempDir;

/// Nothing here takes this long; a test that waits longer has failed.
const TIMEOUT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// A launcher under test. Dropped, it is killed, and QEMU with it.
pub struct Launcher {
    pub child: Child,
    pub directory: TempDir,
    pub agent: Connection,
}

impl Launcher {
    pub fn new() -> Self {
        Self::in_namespace(None)
    }

    pub fn in_namespace(network_namespace: Option<OwnedFd>) -> Self {
        Self::behind(Command::new(env!("CARGO_BIN_EXE_virt-launcher")), network_namespace)
    }

    /// `command` starts the launcher with the arguments and descriptors that it is given.
    pub fn behind(mut command: Command, network_namespace: Option<OwnedFd>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // In a pod it is a mount.
        fs::create_dir(directory.path().join("sockets")).unwrap();
        let listener = Listener::bind(&directory.path().join("launcher-sock")).unwrap();
        command.arg("--run-dir").arg(directory.path()).arg("--overlay-dir").arg(directory.path());
        let fds = vec![(listener.as_fd().try_clone_to_owned().unwrap(), LISTEN_FD)];
        let child = spawn(command, Setup { fds, network_namespace, ..Setup::default() }).unwrap();
        let agent = Connection::connect(&directory.path().join("launcher-sock")).unwrap();
        let launcher = Self { child, directory, agent };
        assert_eq!(launcher.state(), (State::Waiting, None));
        launcher
    }

    /// Starts one that connects to the test, in the slot's directory.
    pub fn on_slot(command: Command, network_namespace: Option<OwnedFd>) -> (Self, Listener) {
        let (child, directory, listener) = Self::start_on_slot(command, network_namespace);
        let agent = accept(&listener);
        let launcher = Self { child, directory, agent };
        assert_eq!(launcher.state(), (State::Waiting, None));
        (launcher, listener)
    }

    /// The same, before it has connected.
    pub fn start_on_slot(
        mut command: Command,
        network_namespace: Option<OwnedFd>,
    ) -> (Child, TempDir, Listener) {
        let directory = tempfile::tempdir().unwrap();
        for name in ["sockets", "slot"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let listener = Listener::bind(&slot_socket(&directory)).unwrap();
        command.arg("--run-dir").arg(directory.path()).arg("--overlay-dir").arg(directory.path());
        command.arg("--slot").arg(directory.path().join("slot"));
        let child = spawn(command, Setup { network_namespace, ..Setup::default() }).unwrap();
        (child, directory, listener)
    }

    pub fn connect(&self) -> Connection {
        Connection::connect(&self.directory.path().join("launcher-sock")).unwrap()
    }

    pub fn send(&self, request: &Request) {
        self.send_with(request, &[]);
    }

    pub fn send_with(&self, request: &Request, fds: &[BorrowedFd<'_>]) {
        self.agent.send(&serde_json::to_vec(request).unwrap(), fds).unwrap();
    }

    pub fn start(&self, order: Order) {
        self.send(&Request::Start { order: Box::new(order) });
    }

    /// Starts and waits until the guest runs; QEMU's process.
    pub fn run(&self, order: Order) -> i32 {
        self.start(order);
        assert!(matches!(self.state(), (State::Starting, Some(_))));
        let (state, pid) = self.state();
        assert_eq!(state, State::Running);
        pid.unwrap()
    }

    pub fn event(&self) -> Event {
        event(&self.agent)
    }

    pub fn state(&self) -> (State, Option<i32>) {
        match self.event() {
            Event::State { state, qemu_pid } => (state, qemu_pid),
            other => panic!("{other:?}"),
        }
    }

    pub fn refused(&self) -> String {
        match self.event() {
            Event::Refused { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    /// The refusal of a console, and the name of its socket.
    pub fn refused_console(&self) -> (String, String) {
        match self.event() {
            Event::Refused { message, console: Some(socket) } => (message, socket),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end: how, the message, and the launcher's exit code.
    pub fn ended(&mut self) -> (Ending, String, i32) {
        loop {
            if let (State::Ended { ending, message }, _) = self.state() {
                assert!(self.agent.recv(MAX_MESSAGE).unwrap().is_none());
                let status = self.child.wait().unwrap();
                return (ending, message, status.code().unwrap());
            }
        }
    }

    /// The field of a file in /proc, in its own unit.
    pub fn proc(pid: i32, file: &str, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let line =
            text.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("{field}: {text}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the handler listens in the slot of a launcher under test.
pub fn slot_socket(directory: &TempDir) -> PathBuf {
    directory.path().join("slot/machine.sock")
}

/// Waits for the launcher to connect.
pub fn accept(listener: &Listener) -> Connection {
    readable(listener);
    listener.accept().unwrap()
}

pub fn event(connection: &Connection) -> Event {
    readable(connection);
    let message = connection.recv(MAX_MESSAGE).unwrap().expect("the launcher closed the connection");
    serde_json::from_slice(&message.bytes).unwrap()
}

pub fn readable(fd: impl AsFd) {
    let mut wait = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(poll(&mut wait, Some(&TIMEOUT)).unwrap(), 1, "nothing came");
}

/// A machine with nothing in it.
pub fn bare() -> Order {
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
        nics: Vec::new(),
        serial: false,
        graphics: false,
        balloon: false,
        rng: false,
        acpi: true,
        start_paused: false,
        grace_seconds: 30,
    }
}

pub fn disk(name: &str, path: PathBuf) -> Disk {
    Disk {
        name: name.into(),
        path: path.to_str().unwrap().into(),
        format: Format::Raw,
        read_only: false,
        overlay: false,
        cdrom: false,
        bus: Bus::Virtio,
        serial: None,
        boot_order: None,
        cache: Cache::Auto,
        queues: 1,
        prepare: None,
    }
}

pub fn nic(queues: u32, tap: Tap) -> Nic {
    Nic {
        name: "default".into(),
        mac: "02:00:00:00:00:01".into(),
        model: "virtio".into(),
        queues,
        tap,
        boot_order: None,
        dhcp: None,
    }
}

/// A guest in one sector: says `R`, echoes what comes on the serial port, powers off on `q` or the power button.
///
/// ```text
///     cli
///     mov dx, 0x602; mov ax, 0x100; out dx, ax            ; PM1 enable: power button
///     mov dx, 0x3f8; mov al, 'R'; out dx, al
/// poll:
///     mov dx, 0x3fd; in al, dx; test al, 1; jz button     ; line status: data ready
///     mov dx, 0x3f8; in al, dx; cmp al, 'q'; je off; out dx, al
/// button:
///     mov dx, 0x600; in ax, dx; test ax, 0x100; jz poll   ; PM1 status: power button
/// off:
///     mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt      ; PM1 control: sleep enable
/// ```
const SECTOR: [u8; 48] = [
    0xfa, 0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, 0xba, 0xf8, 0x03, 0xb0, 0x52, 0xee, 0xba, 0xfd, 0x03,
    0xec, 0xa8, 0x01, 0x74, 0x09, 0xba, 0xf8, 0x03, 0xec, 0x3c, 0x71, 0x74, 0x0a, 0xee, 0xba, 0x00, 0x06,
    0xed, 0xa9, 0x00, 0x01, 0x74, 0xe6, 0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4,
];

/// A machine that boots the guest in one sector, from a read-only file through an overlay.
pub fn tiny_guest(directory: &TempDir) -> Order {
    let path = directory.path().join("guest, in \"one\" sector.img");
    let mut bytes = vec![0; 1 << 20];
    bytes[..SECTOR.len()].copy_from_slice(&SECTOR);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&path, bytes).unwrap();
    let mut disk = disk("root", path);
    disk.overlay = true;
    disk.boot_order = Some(1);
    Order { disks: vec![disk], serial: true, ..bare() }
}

/// A network namespace that goes with the value.
pub struct Namespace {
    path: PathBuf,
    _directory: TempDir,
}

impl Namespace {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net");
        netns::create(&path).unwrap();
        Self { path, _directory: directory }
    }

    pub fn open(&self) -> OwnedFd {
        netns::open(&self.path).unwrap()
    }

    /// Runs a program in it; what it prints.
    pub fn run(&self, program: &str, arguments: &str) -> String {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).stdout(std::process::Stdio::piped());
        let setup = Setup { network_namespace: Some(self.open()), ..Setup::default() };
        let output = spawn(command, setup).unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{program} {arguments}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A bridge as the node agent makes it.
    pub fn bridge(&self) {
        self.run("ip", "link add k6t-eth0 type bridge");
        self.run("ip", "addr add 10.0.2.1/24 dev k6t-eth0");
        self.run("ip", "link set k6t-eth0 up");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = netns::delete(&self.path);
    }
}
