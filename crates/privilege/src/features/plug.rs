//! `virt-handler plug`, the part of the handler that speaks with the kubelet. What is not here it does not have: no
//! capability, no token, no network, no program that it starts, nothing that a launcher sends.

use super::calls;
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right},
};

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Plug,
        Phase::Start,
        &[Right::NodePath { path: "/var/lib/kubelet/device-plugins", access: Access::Read }],
        "kernel: unix_find_bsd finds no socket that the mount namespace has not",
        "makes itself known to the kubelet, which works through a read-only mount, since its own socket is in its own \
         directory; who writes there is root on the node, for a plug-in may answer with any path and device",
        "plug-registers",
    ),
    Grant::new(
        Subject::Plug,
        Phase::Running,
        &[Right::NodePath { path: "/var/lib/kubelet/pod-resources", access: Access::Read }],
        "kernel: unix_find_bsd finds no socket that the mount namespace has not",
        "only the kubelet knows which pod holds a slot",
        "plug-holders",
    ),
    Grant::new(
        Subject::Plug,
        Phase::Running,
        &[Right::NodePath { path: "/var/lib/ferrovirt/plug", access: Access::ReadWrite }],
        "kernel: path_openat finds no directory that the mount namespace has not",
        "makes the directories that the kubelet mounts into launchers, and keeps what is known of each",
        "plug-slots",
    ),
    Grant::new(
        Subject::Plug,
        Phase::Start,
        &[Right::PodField { field: "runAsUser", value: "0" }],
        "kernel: unix_find_bsd asks inode_permission to write to the socket, which is root's",
        "the kubelet's sockets belong to root, and so does the directory of the slots",
        "plug-user",
    ),
    Grant::new(
        Subject::Plug,
        Phase::Running,
        CALLS,
        "kernel: __seccomp_filter returns EPERM for every call that its own filter does not name",
        "local sockets, files below its directory and time, in one thread",
        "plug-calls",
    ),
];

/// What it may call, found by tracing it, with a margin for other C libraries.
const CALLS: &[Right<&'static str>] = calls![
    OwnSyscall:
    "accept4" "brk" "clock_gettime" "close" "connect" "epoll_create1" "epoll_ctl" "epoll_pwait" "epoll_wait"
    "eventfd2" "exit_group" "fchmod" "fcntl" "fdatasync" "fstat" "fsync" "futex" "getdents64" "getpid"
    "getrandom" "getsockopt" "gettid" "gettimeofday" "lstat" "madvise" "mkdirat" "mmap" "mprotect" "mremap"
    "munmap" "newfstatat" "openat" "read" "recvfrom" "renameat" "restart_syscall" "rt_sigaction"
    "rt_sigprocmask" "rt_sigreturn" "sched_yield" "sendto" "shutdown" "sigaltstack" "socket" "socketpair"
    "statx" "tgkill" "unlinkat" "write" "writev"
];
