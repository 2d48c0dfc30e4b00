//! `virt-handler net`, the part of the handler that makes machines' networks. What is not here it does not have: no other
//! capability, no token, no network of its own, no directory of the kubelet, no program that it starts.

use super::calls;
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right},
};

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Net,
        Phase::Running,
        &[Right::Host {
            operation: "make TAP, bridge and rules of a pod through what its launcher has opened, and read its links",
            capability: "NET_ADMIN",
        }],
        "kernel: tun_set_iff asks ns_capable(CAP_NET_ADMIN) of the namespace's owner; __netlink_ns_capable asks it of the \
         sender of a message with an address",
        "so that no launcher has the capability, and nobody need enter a pod's namespace, which takes SYS_ADMIN",
        "net-admin",
    ),
    Grant::new(
        Subject::Net,
        Phase::Running,
        &[Right::NodePath { path: "/var/lib/ferrovirt/plug", access: Access::ReadWrite }],
        "kernel: path_openat finds no directory that the mount namespace has not",
        "reads who holds which slot, and makes sockets in the directory of each: one for its launcher, and one for each open \
         console; its own Landlock rules let it write nothing else",
        "net-slots",
    ),
    Grant::new(
        Subject::Net,
        Phase::Start,
        &[Right::PodField { field: "runAsUser", value: "0" }],
        "kernel: path_openat asks inode_permission to search the directory, which is root's and closed",
        "the directory of the slots is closed to everybody else, which keeps them from each other",
        "net-user",
    ),
    Grant::new(
        Subject::Net,
        Phase::Running,
        CALLS,
        "kernel: __seccomp_filter returns EPERM for every call that its own filter does not name",
        "sockets of the node and of netlink, copies of itself, reading below its directory and time; of ioctl six requests",
        "net-calls",
    ),
];

/// What it may call, found by tracing it, with a margin for other C libraries.
const CALLS: &[Right<&'static str>] = calls![
    OwnSyscall:
    "accept4" "bind" "brk" "clock_gettime" "clock_nanosleep" "clone" "close" "exit_group" "fcntl" "fstat" "futex"
    "getdents64" "geteuid" "getpid" "getppid" "getrandom" "getsockname" "getsockopt" "gettid" "gettimeofday" "ioctl"
    "listen" "lseek" "lstat" "madvise" "mmap" "mprotect" "mremap" "munmap" "nanosleep" "newfstatat" "openat"
    "pidfd_open" "pidfd_send_signal" "poll" "ppoll" "prctl" "read" "recvfrom" "recvmsg" "restart_syscall" "rseq"
    "rt_sigaction" "rt_sigprocmask" "rt_sigreturn" "sched_yield" "sendmsg" "sendto" "set_robust_list"
    "set_tid_address" "setsockopt" "sigaltstack" "socket" "socketpair" "stat" "statx" "tgkill" "unlink" "unlinkat"
    "wait4" "waitid" "write" "writev"
];
