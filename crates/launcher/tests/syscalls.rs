//! The witness `base-syscalls`: the system calls of launcher and QEMU, as strace sees them, beside the profile. Every
//! call that is made is in the profile, and every call of the profile is made here or has its reason below.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Launcher, Namespace, bare, disk, nic, tiny_guest};
use ferrovirt_privilege::{
    Right, Scenario,
    scenario::{registered, witnessed},
};
use ferrovirt_qemu::{
    order::{Order, Tap},
    protocol::{Purpose, Request},
};
use ferrovirt_sys::{netns, tap, udp};
use std::{
    collections::BTreeSet, io::Read, io::Write, os::fd::AsFd, os::unix::net::UnixStream, process::Command,
};

/// Calls that are not made in these runs, and when they are.
const ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "a C library or kernel without the faster way: no vDSO, older calls for the same function",
        &[
            "clock_getres",
            "clock_gettime",
            "gettimeofday",
            "getrlimit",
            "lstat",
            "stat",
            "pipe",
            "dup",
            "dup3",
            "readlinkat",
            "nanosleep",
            "select",
            "pselect6",
            "uname",
            "getcwd",
            "readv",
            "writev",
            "getuid",
            "geteuid",
            "getgid",
            "getegid",
            "getresuid",
            "getresgid",
            "getpgrp",
            "restart_syscall",
        ],
    ),
    (
        "QEMU's event loop once it watches more than 64 descriptors, and its timers",
        &[
            "epoll_create1",
            "epoll_ctl",
            "epoll_wait",
            "epoll_pwait",
            "timer_create",
            "timer_settime",
            "timer_delete",
            "timerfd_create",
            "timerfd_settime",
            "timerfd_gettime",
        ],
    ),
    (
        "a guest's requests to a disk without the page cache",
        &[
            "io_submit",
            "io_getevents",
            "io_pgetevents",
            "io_cancel",
            "io_destroy",
            "io_uring_enter",
            "io_uring_register",
        ],
    ),
    (
        "a guest's requests to other disks: flush, discard, zeroes, several buffers at once",
        &[
            "fsync",
            "fallocate",
            "sync_file_range",
            "preadv",
            "preadv2",
            "pwritev",
            "pwritev2",
            "msync",
            "flock",
        ],
    ),
    (
        "guest memory on chosen nodes or locked, and translated code that grows",
        &["mbind", "mlock", "munlock", "mincore", "mremap", "membarrier"],
    ),
    (
        "signals: the launcher ends a QEMU that does not, QEMU's threads interrupt each other",
        &[
            "kill",
            "tgkill",
            "rt_sigpending",
            "rt_sigreturn",
            "rt_sigsuspend",
            "rt_sigtimedwait",
            "sched_yield",
        ],
    ),
    (
        "the guest's memory to and from a socket or file: migration and snapshots",
        &["connect", "shutdown", "sendfile", "sendmmsg", "recvmmsg", "userfaultfd"],
    ),
    (
        "files that are replaced or removed: the launcher's last state, QEMU's own temporary ones",
        &["rename", "unlinkat", "fchmod"],
    ),
    ("the container runtime between the filter and the launcher's first instruction", &["capget"]),
];

fn traced(file: &std::path::Path, network: Option<&Namespace>) -> Launcher {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(file).arg(env!("CARGO_BIN_EXE_virt-launcher"));
    let launcher = Launcher::behind(command, network.map(Namespace::open));
    // In a pod it is a mount; without it the launcher would make it, which it may not do there.
    std::fs::create_dir(launcher.folder.path().join("sockets")).unwrap();
    launcher
}

/// The names of the calls in a trace.
fn calls(file: &std::path::Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let name = |line: &str| {
        let (_pid, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (!name.is_empty() && name.chars().all(plain)).then(|| name.to_owned())
    };
    text.lines().filter_map(name).collect()
}

/// The guest in one sector, with a console, to its own end.
fn small(file: &std::path::Path) {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = traced(file, None);
    launcher.run(tiny_guest(&folder));
    let mut console = UnixStream::connect(launcher.folder.path().join("sockets/serial0.sock")).unwrap();
    let mut byte = [0];
    console.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"R");
    console.write_all(b"q").unwrap();
    launcher.ended();
}

/// A machine with devices of each kind, paused, run again and ended.
fn large(file: &std::path::Path) {
    let network = Namespace::new();
    network.bridge();
    let mut launcher = traced(file, Some(&network));
    let image = launcher.folder.path().join("disk.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let (queues, dhcp) =
        netns::run_in(&network.open(), || Ok((tap::create("tap0", 2, 0)?, udp::dhcp_server("k6t-eth0")?)))
            .unwrap();
    let mut purposes = vec![Purpose::TapQueue { nic: "default".into() }; 2];
    purposes.push(Purpose::Dhcp { nic: "default".into() });
    let fds: Vec<_> = queues.iter().chain([&dhcp]).map(AsFd::as_fd).collect();
    launcher.send_with(&Request::Descriptors { purposes }, &fds);
    launcher.run(Order {
        cores: 2,
        disks: vec![disk("data", image)],
        nics: vec![nic(2, Tap::Passed)],
        serial: true,
        graphics: true,
        balloon: true,
        rng: true,
        ..bare()
    });
    let mut screen = UnixStream::connect(launcher.folder.path().join("sockets/vnc.sock")).unwrap();
    let mut banner = [0; 12];
    screen.read_exact(&mut banner).unwrap();
    assert!(banner.starts_with(b"RFB 003."), "{banner:?}");
    launcher.send(&Request::Pause);
    launcher.state();
    launcher.send(&Request::Unpause);
    launcher.state();
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    launcher.ended();
}

#[test]
fn every_call_of_the_profile_is_made_or_has_its_reason() {
    assert_eq!(registered(Scenario::Launcher).collect::<Vec<_>>(), ["base-syscalls"]);
    let rights = witnessed("base-syscalls").unwrap().rights.iter();
    let profile: BTreeSet<String> = rights
        .filter_map(|right| match right {
            Right::Syscall(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("small"), folder.path().join("large"));
    small(&one);
    large(&two);
    let made: BTreeSet<String> = calls(&one).union(&calls(&two)).cloned().collect();
    assert!(made.contains("execve") && made.contains("recvmsg"), "{made:?}");
    let outside: Vec<_> = made.difference(&profile).collect();
    assert!(outside.is_empty(), "made and not in the profile: {outside:?}");
    let elsewhere: BTreeSet<String> =
        ELSEWHERE.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned()).collect();
    let unknown: Vec<_> =
        profile.iter().filter(|call| !made.contains(*call) && !elsewhere.contains(*call)).collect();
    assert!(unknown.is_empty(), "in the profile, not made here and without a reason: {unknown:?}");
    assert!(ELSEWHERE.iter().all(|(why, _)| why.split(' ').count() > 3));
    let strangers: Vec<_> = elsewhere.difference(&profile).collect();
    assert!(strangers.is_empty(), "a reason for what is not in the profile: {strangers:?}");
}
