//! The life of a guest, from order to end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Launcher, bare, disk, event, readable, tiny_guest};
use ferrovirt_qemu::{
    order::{Kernel, Order},
    protocol::{Ending, Event, MAX_MESSAGE, Request, State},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

#[test]
fn a_guest_runs_pauses_runs_again_and_is_ended() {
    let mut launcher = Launcher::new();
    let qemu = launcher.run(bare());
    launcher.send(&Request::Unpause);
    assert!(launcher.refused().contains("already running"));
    launcher.send(&Request::Pause);
    assert_eq!(launcher.state(), (State::Paused, Some(qemu)));
    launcher.send(&Request::Unpause);
    assert_eq!(launcher.state(), (State::Running, Some(qemu)));
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.state().0, State::ShuttingDown);
    let (ending, message, code) = launcher.ended();
    assert_eq!((ending, code), (Ending::Destroyed, 1), "{message}");
    assert!(!Path::new(&format!("/proc/{qemu}")).exists());
    let last = std::fs::read(launcher.directory.path().join("ended.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<Event>(&last).unwrap(),
        Event::State { state: State::Ended { ending, message }, qemu_pid: None }
    );
}

#[test]
fn there_is_never_a_second_qemu() {
    let launcher = Launcher::new();
    let qemu = launcher.run(bare());
    launcher.start(bare());
    assert!(launcher.refused().contains("already started"));
    let other = launcher.connect();
    assert_eq!(event(&other), Event::State { state: State::Running, qemu_pid: Some(qemu) });
    other.send(&serde_json::to_vec(&Request::Start { order: Box::new(bare()) }).unwrap(), &[]).unwrap();
    assert!(matches!(event(&other), Event::Refused { .. }));
    let launcher_pid = launcher.child.id();
    let children = format!("/proc/{launcher_pid}/task/{launcher_pid}/children");
    assert_eq!(std::fs::read_to_string(children).unwrap().trim(), qemu.to_string());
}

#[test]
fn a_guest_can_start_paused_and_qemu_and_launcher_stay_small() {
    let launcher = Launcher::new();
    launcher.start(Order { start_paused: true, ..bare() });
    assert_eq!(launcher.state().0, State::Starting);
    assert_eq!(launcher.state().0, State::Paused);
    let pid = i32::try_from(launcher.child.id()).unwrap();
    let private = Launcher::proc(pid, "smaps_rollup", "Private_Dirty")
        + Launcher::proc(pid, "smaps_rollup", "Private_Clean");
    assert!(private < 4096, "{private} KiB");
}

#[test]
fn sigterm_presses_the_power_button_and_a_guest_that_obeys_ends_well() {
    let mut launcher = Launcher::new();
    let order = tiny_guest(&launcher.directory);
    launcher.run(order);
    let mut console = UnixStream::connect(launcher.directory.path().join("sockets/serial0.sock")).unwrap();
    let mut byte = [0];
    readable(&console);
    console.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"R");
    console.write_all(b"x").unwrap();
    console.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    kill_process(Pid::from_child(&launcher.child), Signal::TERM).unwrap();
    assert_eq!(launcher.state().0, State::ShuttingDown);
    let (ending, message, code) = launcher.ended();
    assert_eq!((ending, message.as_str(), code), (Ending::Shutdown, "the guest shut down", 0));
    assert_eq!(std::fs::read(launcher.directory.path().join("serial.log")).unwrap(), b"Rx");
}

#[test]
fn a_guest_that_powers_itself_off_is_shut_down() {
    let mut launcher = Launcher::new();
    let mut order = tiny_guest(&launcher.directory);
    // Nobody chose what to start from: the first disk.
    order.disks[0].boot_order = None;
    let empty = launcher.directory.path().join("empty.img");
    std::fs::write(&empty, vec![0; 1 << 20]).unwrap();
    order.disks.push(disk("empty", empty));
    let base = order.disks[0].path.clone();
    let qemu = launcher.run(order);
    // The base of the overlay is open for reading only.
    let opened: Vec<u32> = std::fs::read_dir(format!("/proc/{qemu}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|fd| std::fs::read_link(fd).is_ok_and(|file| file == Path::new(&base)))
        .map(|fd| {
            let info = format!("/proc/{qemu}/fdinfo/{}", fd.file_name().unwrap().to_str().unwrap());
            let text = std::fs::read_to_string(info).unwrap();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            u32::from_str_radix(flags.trim(), 8).unwrap() & 3
        })
        .collect();
    assert!(!opened.is_empty() && opened.iter().all(|mode| *mode == 0), "{opened:?}");
    let mut console = UnixStream::connect(launcher.directory.path().join("sockets/serial0.sock")).unwrap();
    console.write_all(b"q").unwrap();
    let (ending, _, code) = launcher.ended();
    assert_eq!((ending, code), (Ending::Shutdown, 0));
}

#[test]
fn a_guest_that_does_not_obey_is_ended_after_its_grace() {
    let mut launcher = Launcher::new();
    launcher.run(Order { grace_seconds: 1, ..bare() });
    launcher.send(&Request::Shutdown { grace_seconds: None });
    let (ending, message, code) = launcher.ended();
    assert_eq!((ending, code), (Ending::Destroyed, 1));
    assert!(message.contains("grace period"), "{message}");
}

#[test]
fn sigterm_before_an_order_ends_the_launcher() {
    let mut launcher = Launcher::new();
    kill_process(Pid::from_child(&launcher.child), Signal::TERM).unwrap();
    let (ending, _, code) = launcher.ended();
    assert_eq!((ending, code), (Ending::Destroyed, 1));
}

#[test]
fn a_killed_qemu_is_a_failure() {
    let mut launcher = Launcher::new();
    let qemu = launcher.run(bare());
    kill_process(Pid::from_raw(qemu).unwrap(), Signal::KILL).unwrap();
    let (ending, message, code) = launcher.ended();
    assert_eq!((ending, code), (Ending::Failed, 1));
    assert!(message.contains("signal 9"), "{message}");
}

#[test]
fn qemu_ends_with_its_launcher() {
    let mut launcher = Launcher::new();
    let qemu = launcher.run(bare());
    let watched =
        rustix::process::pidfd_open(Pid::from_raw(qemu).unwrap(), rustix::process::PidfdFlags::empty());
    launcher.child.kill().unwrap();
    readable(watched.unwrap());
}

#[test]
fn what_cannot_be_started_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.img");
    let kernel = Kernel {
        kernel: Some(missing.to_str().unwrap().into()),
        initrd: None,
        args: String::new(),
        image: None,
    };
    let cases = [
        (Order { version: 9, ..bare() }, "order version 9"),
        (Order { machine: "pc".into(), ..bare() }, "must be q35"),
        (Order { disks: vec![disk("root", missing)], ..bare() }, "missing.img: No such file"),
        (Order { kernel: Some(kernel), ..bare() }, "could not open kernel file"),
    ];
    for (order, words) in cases {
        let mut launcher = Launcher::new();
        launcher.start(order);
        let (ending, message, code) = launcher.ended();
        assert_eq!((ending, code), (Ending::Failed, 1));
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn malformed_messages_are_refused_and_harm_nobody() {
    let launcher = Launcher::new();
    let null = std::fs::File::open("/dev/null").unwrap();
    let hostile: [&[u8]; 7] = [
        b"\xff",
        b"{}",
        b"[]",
        b"{\"start\":{}}",
        b"{\"start\":{\"order\":{}}}",
        b"{\"shutdown\":{\"grace_seconds\":-1}}",
        b"\"stop\"",
    ];
    for bytes in hostile {
        launcher.agent.send(bytes, &[]).unwrap();
        assert!(launcher.refused().contains("no request"), "{bytes:?}");
    }
    launcher.send(&Request::Pause);
    assert!(launcher.refused().contains("no guest was started"));
    use std::os::fd::AsFd;
    launcher.send_with(&Request::Pause, &[null.as_fd()]);
    assert!(launcher.refused().contains("descriptors"));
    launcher.send_with(&Request::Descriptors { purposes: Vec::new() }, &[null.as_fd()]);
    assert!(launcher.refused().contains("0 purposes for 1 descriptors"));

    let other = launcher.connect();
    event(&other);
    other.send(&vec![b' '; MAX_MESSAGE + 1], &[]).unwrap();
    assert!(matches!(event(&other), Event::Refused { .. }));
    assert!(other.recv(1).unwrap().is_none());

    launcher.run(bare());
}
