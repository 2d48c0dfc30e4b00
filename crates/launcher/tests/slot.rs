//! A launcher on a slot: the test is the handler.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Launcher, Namespace, accept, bare, event, nic, readable, slot_socket};
use ferrovirt_privilege::{Right, scenario::witnessed};
use ferrovirt_qemu::{
    order::{Accelerator, Lease, Nic, Order, Tap},
    protocol::{Console, Ending, Event, MAX_MESSAGE, Request, State},
};
use ferrovirt_sys::{
    kvm::{self, Kvm},
    netns,
    seqpacket::Listener,
    tap,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read},
    net::Ipv4Addr,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Command,
    time::Duration,
};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_virt-launcher"))
}

/// Root without a capability, and without a way to one: the device node may be root's alone.
fn powerless() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.arg(env!("CARGO_BIN_EXE_virt-launcher"));
    command
}

/// Asks for what a TAP is made with; what came.
fn network(launcher: &Launcher, queues: u32) -> Vec<OwnedFd> {
    launcher.send(&Request::Network { queues });
    readable(&launcher.agent);
    let message = launcher.agent.recv(MAX_MESSAGE).unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Event>(&message.bytes).unwrap(), Event::Network);
    message.fds
}

fn opened(queues: u32, dhcp: Option<Lease>) -> Nic {
    Nic { dhcp, ..nic(queues, Tap::Opened { bridge: "k6t-eth0".into(), resolver: false }) }
}

fn lease() -> Lease {
    Lease {
        address: Ipv4Addr::new(10, 0, 2, 2),
        prefix: 24,
        server: Ipv4Addr::new(10, 0, 2, 1),
        gateway: None,
        dns: vec![],
        search: vec![],
        hostname: "test".into(),
        mtu: 1500,
    }
}

#[test]
fn it_connects_late_and_again_and_takes_orders_from_there_alone() {
    let (mut child, directory, early) = Launcher::start_on_slot(program(), None);
    // Anyone who listened goes before it has accepted, and another one comes.
    drop(early);
    fs::remove_file(slot_socket(&directory)).unwrap();
    let listener = Listener::bind(&slot_socket(&directory)).unwrap();
    let first = accept(&listener);
    assert_eq!(event(&first), Event::State { state: State::Waiting, qemu_pid: None });
    drop(first);
    let agent = accept(&listener);
    assert_eq!(event(&agent), Event::State { state: State::Waiting, qemu_pid: None });
    let order = serde_json::to_vec(&Request::Start { order: Box::new(bare()) }).unwrap();
    agent.send(&order, &[]).unwrap();
    assert!(matches!(event(&agent), Event::State { state: State::Starting, .. }));
    let Event::State { state: State::Running, qemu_pid } = event(&agent) else { panic!("it does not run") };
    // The guest goes on without a link, and the next one learns of it.
    drop(agent);
    drop(listener);
    fs::remove_file(slot_socket(&directory)).unwrap();
    let listener = Listener::bind(&slot_socket(&directory)).unwrap();
    let agent = accept(&listener);
    assert_eq!(event(&agent), Event::State { state: State::Running, qemu_pid });
    // There is one link, and no other way in.
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let pid = child.id();
    let own = directory.path().to_str().unwrap();
    let listening = || {
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
        sockets.lines().filter(|line| line.contains(own) && line.contains(" 00010000 ")).count()
    };
    // What another test is just starting has a copy of the test's earlier one, until it is another program.
    let begin = std::time::Instant::now();
    while listening() != 1 {
        assert!(begin.elapsed().as_secs() < 60, "{} listen", listening());
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_a_capability_it_opens_what_a_tap_is_made_with() {
    let namespace = Namespace::new();
    namespace.bridge();
    namespace.run("sysctl", "-q -w net.ipv4.ip_unprivileged_port_start=0");
    let (mut launcher, _listener) = Launcher::on_slot(powerless(), Some(namespace.open()));
    let pid = i32::try_from(launcher.child.id()).unwrap();
    assert_eq!(Launcher::proc(pid, "status", "CapPrm:"), 0);
    // A second request is a new beginning: the first TAP has gone with its queues.
    let first = network(&launcher, 1);
    tap::make("tap0", &first[3..], 0).unwrap();
    drop(first);
    let sent = network(&launcher, 4);
    assert_eq!(sent.len(), 7);
    let cookie = netns::run_in(&namespace.open(), || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        netns::cookie(std::os::fd::AsFd::as_fd(&socket))
    });
    for socket in &sent[..3] {
        assert_eq!(netns::cookie(std::os::fd::AsFd::as_fd(socket)).unwrap(), *cookie.as_ref().unwrap());
    }
    tap::make("tap0", &sent[3..], 0).unwrap();
    drop(sent);
    let qemu = launcher.run(Order { nics: vec![opened(4, Some(lease()))], ..bare() });
    let link = namespace.run("ip", "-o -d link show tap0");
    assert!(link.contains("numqueues 4") || link.contains("multi_queue"), "{link}");
    let queues = fs::read_dir(format!("/proc/{qemu}/fd")).unwrap().flatten();
    let queues = queues.filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.ends_with("net/tun")));
    assert_eq!(queues.count(), 4, "QEMU has the launcher's own descriptors");
    assert!(namespace.run("cat", "/proc/net/udp").contains(":0043 "), "DHCP is answered");
    launcher.send(&Request::Network { queues: 1 });
    assert!(launcher.refused().contains("already started"));
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
    // The launcher has not kept a queue.
    assert!(!namespace.run("ip", "-o link").contains("tap0"));
}

#[test]
fn queues_that_nobody_has_made_into_a_tap_are_not_given_to_qemu() {
    let (mut launcher, _listener) = Launcher::on_slot(program(), None);
    drop(network(&launcher, 2));
    launcher.start(Order { nics: vec![opened(2, None)], ..bare() });
    let (ending, message, _) = launcher.ended();
    assert_eq!((ending, message.contains("has not made its TAP")), (Ending::Failed, true), "{message}");
    let (mut launcher, _listener) = Launcher::on_slot(program(), None);
    launcher.start(Order { nics: vec![opened(1, None)], ..bare() });
    assert!(launcher.ended().1.contains("not asked for"));
}

#[test]
fn what_cannot_be_opened_is_said_with_its_reason() {
    let namespace = Namespace::new();
    namespace.bridge();
    namespace.run("sysctl", "-q -w net.ipv4.ip_unprivileged_port_start=1024");
    let (mut launcher, _listener) = Launcher::on_slot(powerless(), Some(namespace.open()));
    for queues in [0, 248] {
        launcher.send(&Request::Network { queues });
        assert!(launcher.refused().contains("a TAP has 1 to 247 queues"));
    }
    let sent = network(&launcher, 1);
    tap::make("tap0", &sent[3..], 0).unwrap();
    launcher.start(Order { nics: vec![opened(1, Some(lease()))], ..bare() });
    let (ending, message, _) = launcher.ended();
    assert_eq!(ending, Ending::Failed);
    assert!(message.contains("net.ipv4.ip_unprivileged_port_start has to be at most 67"), "{message}");
    // And one without a slot connects to nobody and sends nothing.
    let launcher = Launcher::new();
    launcher.send(&Request::Network { queues: 1 });
    assert!(launcher.refused().contains("has no slot"));
}

#[test]
fn consoles_go_to_the_one_who_waits_in_the_slot() {
    let (mut launcher, _listener) = Launcher::on_slot(program(), None);
    launcher.run(Order { graphics: true, serial: true, ..bare() });
    let open = |launcher: &Launcher, name: &str, console: Console| {
        let listener = UnixListener::bind(slot_socket(&launcher.directory).with_file_name(name)).unwrap();
        launcher.send(&Request::Console { socket: name.to_owned(), console });
        readable(&listener);
        listener.accept().unwrap().0
    };
    for name in ["console-1", "console-2"] {
        let mut vnc = open(&launcher, name, Console::Vnc);
        let mut greeting = [0; 12];
        vnc.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"RFB 003.008\n");
    }
    // The latest client of the serial port is the one.
    let mut first = open(&launcher, "console-3", Console::Serial);
    let second = open(&launcher, "console-4", Console::Serial);
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    let refused = |socket: &str, console: Console| {
        launcher.send(&Request::Console { socket: socket.to_owned(), console });
        let (message, named) = launcher.refused_console();
        assert_eq!(named, socket);
        message
    };
    for name in ["", "../console", "a/b", "Console", "machine.sock"] {
        assert!(refused(name, Console::Vnc).contains("no name of a console's socket"), "{name}");
    }
    assert!(refused("console-9", Console::Serial).contains("No such file"));
    drop(second);
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    launcher.ended();
}

#[test]
fn who_has_no_console_or_no_slot_says_so() {
    let (mut launcher, _listener) = Launcher::on_slot(program(), None);
    let ask = |launcher: &Launcher, console: Console| {
        launcher.send(&Request::Console { socket: "console-1".to_owned(), console });
        let (message, named) = launcher.refused_console();
        assert_eq!(named, "console-1");
        message
    };
    assert!(ask(&launcher, Console::Vnc).contains("no guest was started"));
    launcher.run(bare());
    let _listener = UnixListener::bind(slot_socket(&launcher.directory).with_file_name("console-1")).unwrap();
    assert!(ask(&launcher, Console::Vnc).contains("no graphics device"));
    assert!(ask(&launcher, Console::Serial).contains("no serial console"));
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    launcher.ended();
    assert!(ask(&Launcher::new(), Console::Vnc).contains("has no slot"));
}

fn on_kvm() -> Order {
    Order { accelerator: Accelerator::Kvm, ..bare() }
}

#[test]
fn kvm_that_does_not_work_is_no_guest_that_hangs() {
    let (mut launcher, _listener) = Launcher::on_slot(program(), None);
    match kvm::probe(Duration::from_secs(2)).unwrap() {
        Kvm::Usable => {
            launcher.run(on_kvm());
            launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
            launcher.ended();
        }
        found => {
            launcher.start(on_kvm());
            let (ending, message, _) = launcher.ended();
            assert_eq!(ending, Ending::Failed);
            assert!(message.contains("useEmulation") && !message.contains("QEMU"), "{found:?}: {message}");
        }
    }
}

/// The names of the calls in a trace of one that runs no guest.
fn calls(trace: &str) -> BTreeSet<String> {
    let call = |line: &str| {
        let (name, _) = line.split_once(' ')?.1.trim_start().split_once('(')?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (!name.is_empty() && name.chars().all(plain)).then(|| name.to_owned())
    };
    trace.lines().filter_map(call).collect()
}

/// The witness `slot-calls`.
#[test]
fn on_a_slot_it_connects_and_makes_no_other_call_that_others_do_not_make() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let traced = |options: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq"]).args(options).arg("-o").arg(&trace);
        command.arg(env!("CARGO_BIN_EXE_virt-launcher"));
        command
    };
    let (mut launcher, _listener) = Launcher::on_slot(traced(&[]), None);
    drop(network(&launcher, 1));
    launcher.start(on_kvm());
    // Where it works the guest runs.
    if kvm::probe(Duration::from_secs(2)).unwrap() == Kvm::Usable {
        launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    }
    launcher.ended();
    let names = |witness: &str| -> BTreeSet<String> {
        let rights = witnessed(witness).unwrap().rights.iter();
        let name = |right: &Right<&str>| match right {
            Right::Syscall(name) | Right::OwnSyscall(name) => Some((*name).to_owned()),
            _ => None,
        };
        rights.filter_map(name).collect()
    };
    let made = calls(&fs::read_to_string(&trace).unwrap());
    let granted = &names("launcher-syscalls") | &names("base-syscalls");
    assert_eq!(made.difference(&granted).cloned().collect::<BTreeSet<_>>(), names("slot-calls"));

    // Nobody who cannot find out runs a guest that may hang.
    let (mut launcher, _listener) = Launcher::on_slot(traced(&["-e", "inject=pidfd_open:error=EPERM"]), None);
    launcher.start(on_kvm());
    assert!(launcher.ended().1.contains("KVM cannot be tried"));
    // Without connecting it tries again and again, and nobody hears of it.
    let (mut child, _directory, listener) =
        Launcher::start_on_slot(traced(&["-e", "inject=connect:error=EPERM"]), None);
    let tries =
        || fs::read_to_string(&trace).unwrap().matches("EPERM (Operation not permitted) (INJECTED)").count();
    let begin = std::time::Instant::now();
    while tries() < 2 {
        assert!(begin.elapsed().as_secs() < 60, "it does not try");
        std::thread::yield_now();
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // strace would leave it running.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let own = Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap()).unwrap();
    kill_process(own, Signal::TERM).unwrap();
    child.wait().unwrap();
}
