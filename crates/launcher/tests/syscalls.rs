//! The witnesses `launcher-syscalls` and `base-syscalls`: the system calls of launcher and QEMU, as strace sees them, beside
//! the table. Every
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
    collections::{BTreeMap, BTreeSet},
    io::Read,
    io::Write,
    os::fd::AsFd,
    os::unix::net::UnixStream,
    process::Command,
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
            "dup2",
            "fstat",
            "getpid",
            "open",
            "pipe2",
            "recvfrom",
            "sendto",
            "sigaltstack",
            "statx",
            "umask",
            "exit",
            "futex",
            "lseek",
            "madvise",
            "readlink",
            "clone3",
            "clock_nanosleep",
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
        &["io_submit", "io_getevents", "io_cancel", "io_destroy"],
    ),
    (
        "a guest's requests to other disks: flush, discard, zeroes, several buffers at once",
        &["fsync", "fallocate", "sync_file_range", "preadv", "preadv2", "pwritev", "pwritev2"],
    ),
    (
        "guest memory on chosen nodes or locked, and translated code that grows",
        &["mbind", "mlock", "munlock", "mremap", "membarrier"],
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
        "files that the launcher makes: of the disks that are made or looked at in files.rs and mounted.rs",
        &["fstatfs", "ftruncate", "getdents64"],
    ),
    ("a screen's client is sent away, and QEMU closes its side of a socket", &["shutdown"]),
    ("the launcher puts a filter on QEMU; older kernels know it by its own name alone", &["seccomp"]),
    (
        "files that are replaced or removed: the launcher's last state, QEMU's own temporary ones",
        &["rename", "unlinkat", "fchmod"],
    ),
    ("the container runtime between the filter and the launcher's first instruction", &["capget"]),
];

fn traced(file: &std::path::Path, network: Option<&Namespace>) -> Launcher {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(file).arg(env!("CARGO_BIN_EXE_virt-launcher"));
    Launcher::behind(command, network.map(Namespace::open))
}

/// The names of the calls in a trace: the launcher's, and QEMU's from its program's start on.
fn calls(file: &std::path::Path) -> [BTreeSet<String>; 2] {
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let name = |call: &str| {
        let (name, _) = call.trim_start().split_once('(')?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (!name.is_empty() && name.chars().all(plain)).then(|| name.to_owned())
    };
    // Who was made by whom: the answer of a clone may stand behind the first calls of the new thread.
    let makes =
        |call: &str| ["clone", "<... clone", "vfork", "<... vfork"].iter().any(|m| call.starts_with(m));
    let made: BTreeMap<&str, &str> = lines
        .iter()
        .filter(|(_, call)| makes(call.trim_start()))
        .filter_map(|(pid, call)| Some((call.rsplit_once("= ")?.1.trim(), *pid)))
        .collect();
    let mut qemu = BTreeSet::new();
    let mut all = [BTreeSet::new(), BTreeSet::new()];
    for (pid, call) in &lines {
        let Some(name) = name(call) else { continue };
        if name == "execve" && call.contains("qemu-system") {
            qemu.insert(*pid);
        }
        let mut of = Some(pid);
        while let Some(one) = of.filter(|one| !qemu.contains(*one)) {
            of = made.get(one);
        }
        all[usize::from(of.is_some())].insert(name);
    }
    all
}

/// The guest in one sector, with a console, to its own end.
fn small(file: &std::path::Path) {
    let directory = tempfile::tempdir().unwrap();
    let mut launcher = traced(file, None);
    launcher.run(tiny_guest(&directory));
    let mut console = UnixStream::connect(launcher.directory.path().join("sockets/serial0.sock")).unwrap();
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
    let image = launcher.directory.path().join("disk.img");
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
    let mut screen = UnixStream::connect(launcher.directory.path().join("sockets/vnc.sock")).unwrap();
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

/// Calls that are tried, refused, and done without.
const TRIED: [(&str, &str); 1] = [("io_uring_setup", "QEMU's event loop polls instead")];

fn granted(witness: &str) -> BTreeSet<String> {
    let rights = witnessed(witness).unwrap().rights.iter();
    let names = rights.filter_map(|right| match right {
        Right::Syscall(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

/// Where a node's runtime has no profile, or a wider one.
#[test]
fn without_a_profile_of_the_node_launcher_and_qemu_have_their_filters() {
    let launcher = Launcher::new();
    let own = i32::try_from(launcher.child.id()).unwrap();
    let qemu = launcher.run(bare());
    for pid in [own, qemu] {
        assert_eq!(Launcher::proc(pid, "status", "Seccomp:"), 2);
        assert_eq!(Launcher::proc(pid, "status", "NoNewPrivs:"), 1);
    }
    assert_eq!(Launcher::proc(own, "status", "Seccomp_filters:"), 1);
    // The launcher's, the one that the launcher puts on it, and its own sandbox.
    assert_eq!(Launcher::proc(qemu, "status", "Seccomp_filters:"), 3);
}

#[test]
fn every_call_of_the_profile_is_made_or_has_its_reason() {
    let witnesses = ["launcher-syscalls", "base-syscalls"];
    // The third is run in slot.rs, the fourth in mounted.rs.
    let all = [&witnesses[..], &["slot-calls", "volume-group"]].concat();
    assert_eq!(registered(Scenario::Launcher).collect::<BTreeSet<_>>(), all.into_iter().collect());
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("small"), directory.path().join("large"));
    small(&one);
    large(&two);
    let [one, two] = [calls(&one), calls(&two)];
    let elsewhere: BTreeSet<String> =
        ELSEWHERE.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned()).collect();
    let mut all = BTreeSet::new();
    let mut wrong = Vec::new();
    for (index, witness) in witnesses.into_iter().enumerate() {
        let granted = granted(witness);
        let mut made: BTreeSet<String> = one[index].union(&two[index]).cloned().collect();
        made.retain(|call| TRIED.iter().all(|(tried, _)| tried != call));
        if std::env::var_os("SHOW_CALLS").is_some() {
            println!("{witness}: {made:?}");
        }
        assert!(made.contains("execve") && made.contains("recvmsg"), "{witness}: {made:?}");
        let outside: Vec<_> = made.difference(&granted).collect();
        wrong.extend((!outside.is_empty()).then(|| format!("{witness}: made and not granted: {outside:?}")));
        let unknown: Vec<_> =
            granted.iter().filter(|call| !made.contains(*call) && !elsewhere.contains(*call)).collect();
        wrong.extend(
            (!unknown.is_empty())
                .then(|| format!("{witness}: granted, not made here and without a reason: {unknown:?}")),
        );
        all.extend(granted);
    }
    assert!(ELSEWHERE.iter().all(|(why, _)| why.split(' ').count() > 3));
    let strangers: Vec<_> = elsewhere.difference(&all).collect();
    wrong.extend((!strangers.is_empty()).then(|| format!("a reason for what is not granted: {strangers:?}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
