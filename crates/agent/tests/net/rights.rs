//! What the program holds, and what is missed how.

use crate::{
    prepare,
    support::{Fake, Node, Pod, arguments, until},
    wanted,
};
use ferrovirt_handler::net::talk::ToApi;
use ferrovirt_privilege::{
    Right, Scenario,
    scenario::{registered, witnessed},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn it_and_its_children_hold_one_capability_and_the_sockets_are_open_to_whom_they_are_for() {
    let node = Node::start();
    let (slot, pod) = (node.slot(1), Pod::new());
    let fake = Fake::connect(&node, &slot, &pod.ns);
    node.next();
    let own = node.child.id();
    let all = [vec![own], children(own)].concat();
    assert_eq!(all.len(), 2);
    for pid in all {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in [
            "CapInh:\t0000000000000000\n",
            "CapPrm:\t0000000000001000\n",
            "CapEff:\t0000000000001000\n",
            "CapBnd:\t0000000000001000\n",
            "CapAmb:\t0000000000000000\n",
            "NoNewPrivs:\t1\n",
            "Seccomp:\t2\n",
            "Threads:\t1\n",
        ] {
            assert!(status.contains(line), "{line}{status}");
        }
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&node.socket(&slot)), 0o666);
    assert_eq!(mode(node.socket(&slot).parent().unwrap()), 0o711);
    assert_eq!(mode(&node.directory.path().join("api.sock")), 0o660);
    assert_eq!(mode(&node.directory.path().join("streams.sock")), 0o660);
    // Who serves a launcher has nothing of another's, nor of api's.
    let child = children(own)[0];
    let open = fs::read_dir(format!("/proc/{child}/fd")).unwrap().flatten();
    let open: Vec<_> = open.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
    let sockets = open.iter().filter(|file| file.to_string_lossy().starts_with("socket:")).count();
    assert_eq!(sockets, 3, "where it listens, the link and the program: {open:?}");
    let own = open.iter().filter(|file| file.starts_with(node.directory.path().join("plug"))).count();
    assert_eq!(own, 0, "{open:?}");
    drop(fake);
}

/// Calls that are granted and not made in the test, and when they are.
const ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "a C library or kernel without the faster way: no vDSO, older or newer calls for the same function",
        &[
            "clock_gettime",
            "fstat",
            "getpid",
            "gettimeofday",
            "lstat",
            "newfstatat",
            "poll",
            "ppoll",
            "recvfrom",
            "sendto",
            "stat",
            "statx",
            "unlink",
            "unlinkat",
            "waitid",
            "wait4",
            "nanosleep",
            "clock_nanosleep",
            "getsockname",
            "gettid",
            "set_robust_list",
            "rseq",
            "set_tid_address",
        ],
    ),
    ("a line of the log", &["write", "writev"]),
    ("memory that comes and goes", &["brk", "madvise", "mmap", "mprotect", "mremap", "munmap"]),
    (
        "a signal or a stop at an inconvenient moment, an abort",
        &[
            "futex",
            "restart_syscall",
            "rt_sigaction",
            "rt_sigprocmask",
            "rt_sigreturn",
            "sched_yield",
            "sigaltstack",
            "tgkill",
        ],
    ),
    ("another one that wants to be api, a lost signal", &["geteuid", "getrandom", "read", "lseek"]),
];

fn granted() -> BTreeSet<String> {
    let rights = witnessed("net-calls").unwrap().rights.iter();
    let names = rights.filter_map(|right| match right {
        Right::OwnSyscall(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

/// What was called after the filter was put on, and what of that it refused.
fn made(trace: &Path) -> BTreeSet<String> {
    let (mut made, mut filtered) = (BTreeSet::new(), false);
    for line in fs::read_to_string(trace).unwrap().lines() {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if filtered && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            made.insert(name.to_owned());
        }
        filtered |= call.contains("PR_SET_SECCOMP");
    }
    assert!(filtered, "there is no filter");
    made
}

/// The witness `net-calls`: the lives of two slots under strace.
#[test]
fn every_call_of_the_program_is_granted_and_every_granted_one_has_its_use() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut node = Node::start_with(&["strace", "-f", "-qq", "-o", trace.to_str().unwrap()]);
    for number in [1, 2] {
        let (slot, pod) = (node.slot(number), Pod::new());
        let fake = Fake::connect(&node, &slot, &pod.ns);
        node.next();
        assert!(matches!(prepare(&node, &slot, &fake, wanted(number)), ToApi::Ready { .. }));
        fake.link.send(b"x", &[]).unwrap();
        node.next();
        node.relay(&slot, b"y");
        fake.next();
        let (api, opened) = node.console(&slot, node.link(&slot));
        let mut console = crate::attacks::join(&node, &slot, &opened, &pod.ns);
        crate::attacks::connected(&api);
        console.write_all(b"x").unwrap();
        assert_eq!(api.recv(16).unwrap().unwrap().bytes, b"x");
        api.send(b"y", &[]).unwrap();
        console.read_exact(&mut [0]).unwrap();
        drop((api, console));
        node.gone(&slot);
    }
    // The program is strace's child.
    let own = children(node.child.id())[0];
    let own = rustix::process::Pid::from_raw(own.cast_signed()).unwrap();
    rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
    assert!(node.child.wait().unwrap().success());
    let (made, granted) = (made(&trace), granted());
    let lacking: Vec<_> = made.difference(&granted).collect();
    assert!(lacking.is_empty(), "made and not granted: {lacking:?}");
    let elsewhere: BTreeSet<_> = ELSEWHERE.iter().flat_map(|(_, calls)| calls.iter().copied()).collect();
    let idle = granted.iter().map(String::as_str).filter(|call| !made.contains(*call));
    let idle: Vec<_> = idle.filter(|call| !elsewhere.contains(call)).collect();
    assert!(idle.is_empty(), "granted, not made, and without a reason: {idle:?}");
    let odd: Vec<_> = elsewhere.iter().filter(|call| !granted.contains(**call)).collect();
    assert!(odd.is_empty(), "with a reason and not granted: {odd:?}");
}

#[test]
fn each_right_is_missed() {
    let all = ["net-admin", "net-calls", "net-slots", "net-user"];
    assert_eq!(registered(Scenario::Net).collect::<Vec<_>>(), all);

    // net-admin, and the kernel's rule is asked for at the start.
    let (node, problem) = Node::start_and_ask(&["setpriv", "--bounding-set=-net_admin"]);
    let problem = problem.expect("it has noticed nothing");
    assert!(problem.contains("has no CAP_NET_ADMIN"), "{problem}");
    let slot = node.slot(1);
    node.prepare(&slot, wanted(1));
    assert_eq!(node.refused(), problem);
    drop(node);

    // net-slots
    let directory = tempfile::tempdir().unwrap();
    let said = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        let out = command.args(&words[1..]).args(arguments(&directory)).output().unwrap();
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let program = directory.path().join("virt-handler");
    // By another process: one that this one starts meanwhile would have the file open for writing, and it could not be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_virt-handler")).arg(&program).status();
    assert!(copied.unwrap().success());
    let program = program.to_str().unwrap();
    let without = said(&[program]);
    assert!(without.contains("No such file or directory"), "{without}");

    // net-user: another one may not look into the directory, with the capability and everything else its own.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let _store = {
        fs::create_dir(directory.path().join("plug")).unwrap();
        ferrovirt_handler::plug::store::Store::open(&directory.path().join("plug")).unwrap()
    };
    let somebody = ["setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups", program];
    let denied = said(&somebody);
    assert!(denied.contains("Permission denied"), "{denied}");
    until("nothing is left", || (!directory.path().join("api.sock").exists()).then_some(()));
}
