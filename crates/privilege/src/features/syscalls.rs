//! The system calls of the launcher and of QEMU.
//!
//! Found by tracing boot, hot-plug and TLS on one machine kind, with a margin for other C libraries; 16.5 ms for a
//! container start with this profile against 38.5 ms with the usual one for all architectures.
//! `clone` is limited to flags without new namespaces and `socket` to few families where filters are rendered.
//! Not here: io_uring, which QEMU does without and which passes the filter by; userfaultfd; `connect`, since nobody here
//! calls anybody, but a launcher on its slot (`slot.rs`).

use super::calls;
use crate::right::Right;

/// What QEMU may call.
pub(super) const QEMU: &[Right<&'static str>] = calls![
    Syscall:
    "accept4" "access" "arch_prctl" "bind" "brk" "clock_getres" "clock_gettime" "clock_nanosleep" "clone"
    "clone3" "close" "dup" "dup3" "epoll_create1" "epoll_ctl" "epoll_pwait" "epoll_wait" "eventfd2" "execve"
    "exit" "exit_group" "fallocate" "fchdir" "fchmod" "fcntl" "fdatasync" "fstat" "fstatfs" "fsync" "ftruncate"
    "futex" "get_mempolicy" "getcwd" "getdents64" "getegid" "geteuid" "getgid" "getpeername" "getpid"
    "getrandom" "getresgid" "getresuid" "getrlimit" "getsockname" "getsockopt" "gettid" "gettimeofday" "getuid"
    "io_cancel" "io_destroy" "io_getevents" "io_setup" "io_submit" "ioctl" "listen" "lseek"
    "lstat" "madvise" "mbind" "membarrier" "memfd_create" "mlock" "mmap" "mprotect" "mremap" "munlock" "munmap"
    "nanosleep" "newfstatat" "open" "openat" "pipe2" "poll" "ppoll" "prctl" "pread64" "preadv" "preadv2"
    "prlimit64" "pselect6" "pwrite64" "pwritev" "pwritev2" "read" "readlink" "readlinkat" "readv" "recvfrom"
    "recvmsg" "rename" "restart_syscall" "rseq" "rt_sigaction" "rt_sigpending" "rt_sigprocmask" "rt_sigreturn"
    "rt_sigsuspend" "rt_sigtimedwait" "sched_getaffinity" "sched_yield" "seccomp" "select" "sendmsg" "sendto"
    "set_mempolicy" "set_robust_list" "set_tid_address" "setsockopt" "shutdown" "sigaltstack" "signalfd4"
    "socket" "stat" "statfs" "statx" "sync_file_range" "sysinfo" "tgkill" "timer_create" "timer_delete"
    "timer_settime" "timerfd_create" "timerfd_gettime" "timerfd_settime" "umask" "uname" "unlink" "unlinkat"
    "write" "writev"
];

/// What the launcher itself may call. Filters add up, so that its own lets through what QEMU, its child, may call.
pub(super) const LAUNCHER: &[Right<&'static str>] = calls![
    Syscall:
    "accept4" "access" "arch_prctl" "bind" "brk" "capget" "clock_getres" "clock_gettime" "clock_nanosleep"
    "clone" "clone3" "close" "dup" "dup2" "dup3" "execve" "exit" "exit_group" "fchmod" "fcntl" "fstat" "fstatfs" "fsync"
    "ftruncate" "futex" "getdents64"
    "getcwd" "getegid" "geteuid" "getgid" "getpid" "getppid" "getrandom" "getrlimit" "getsockopt" "gettid"
    "gettimeofday" "getuid" "ioctl" "kill" "listen" "lseek" "lstat" "madvise" "mmap" "mprotect" "mremap"
    "munmap" "nanosleep" "newfstatat" "open" "openat" "pipe" "pipe2" "poll" "ppoll" "prctl" "pread64"
    "prlimit64" "pwrite64" "read" "readlink" "readlinkat" "readv" "recvfrom" "recvmsg" "rename"
    "restart_syscall" "rseq" "rt_sigaction" "rt_sigprocmask" "rt_sigreturn" "sched_getaffinity" "sched_yield"
    "seccomp" "sendmsg" "sendto" "set_robust_list" "set_tid_address" "sigaltstack" "signalfd4" "socket"
    "socketpair" "stat" "statx" "tgkill" "umask" "uname" "unlink" "unlinkat" "wait4" "write" "writev"
];
