//! Ferrovirt's own processes beside the node agent, in the embedded default: the supervisor and the API server. What is
//! not here they do not have: the API server has no capability in any set, and starts no program.

use super::calls;
use crate::{
    grant::{Grant, Phase, Subject},
    right::Right,
};

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Supervisor,
        Phase::Install,
        &[
            Right::Host { operation: "start the API server as a user of its own", capability: "SETUID" },
            Right::Host { operation: "give it one group and take the others away", capability: "SETGID" },
            Right::Host { operation: "empty its capability sets", capability: "SETPCAP" },
        ],
        "kernel: __sys_setresuid asks CAP_SETUID, setgroups CAP_SETGID, cap_prctl_drop CAP_SETPCAP",
        "the API server reads requests of strangers, so it has nothing that they could take over",
        "supervisor-identity",
    ),
    Grant::new(
        Subject::Supervisor,
        Phase::Install,
        &[
            Right::Host { operation: "take root's groups from `virt-handler plug`", capability: "SETGID" },
            Right::Host { operation: "empty its capability sets", capability: "SETPCAP" },
        ],
        "kernel: setgroups asks CAP_SETGID, cap_prctl_drop CAP_SETPCAP",
        "what offers places for machines to the node agent is root without a capability, as in its container on a cluster",
        "supervisor-plug",
    ),
    Grant::new(
        Subject::Supervisor,
        Phase::Install,
        &[
            Right::Host { operation: "give the API server its directory", capability: "CHOWN" },
            Right::Host {
                operation: "open that directory, which is another user's, for it",
                capability: "DAC_OVERRIDE",
            },
        ],
        "kernel: chown_common asks capable_wrt_inode_uidgid(CAP_CHOWN); generic_permission asks CAP_DAC_OVERRIDE",
        "store and keys belong to the API server alone, also those that an earlier version kept as root",
        "supervisor-ownership",
    ),
    Grant::new(
        Subject::Supervisor,
        Phase::Running,
        &[Right::Host { operation: "end the API server, which is another user's", capability: "KILL" }],
        "kernel: check_kill_permission asks CAP_KILL",
        "it ends with its supervisor, and is ended when it says what it may not say",
        "supervisor-ends",
    ),
    Grant::new(
        Subject::Supervisor,
        Phase::Install,
        &[Right::Host {
            operation: "listen for the API server, on a port under 1024 where one is asked for",
            capability: "NET_BIND_SERVICE",
        }],
        "kernel: inet_bind_sk asks ns_capable(CAP_NET_BIND_SERVICE) for ports under ip_unprivileged_port_start",
        "the API server gets the open socket, so that no other program of its user can take the port",
        "supervisor-port",
    ),
    Grant::new(
        Subject::Supervisor,
        Phase::Install,
        &[Right::Host {
            operation: "lower the OOM score of the system's processes, where root has the capability",
            capability: "SYS_RESOURCE",
        }],
        "kernel: __set_oom_adj asks capable(CAP_SYS_RESOURCE) to go under the process's lowest score",
        "guests end before the processes that look after all of them",
        "supervisor-oom",
    ),
    Grant::new(
        Subject::ApiServer,
        Phase::Start,
        &[
            Right::Descriptor("the listening sockets: one for everybody, one for the system's own accounts"),
            Right::Descriptor("its own directory, as its working directory"),
            Right::Descriptor("the directory of the node agent's socket"),
            Right::Descriptor("a socket on which the supervisor takes kubeconfigs"),
        ],
        "kernel: inode_permission refuses the way through directories of root, and inet_bind_sk ports under 1024",
        "it answers requests, keeps objects, and asks the agent for logs and consoles, without a right on the node",
        "api-descriptors",
    ),
    Grant::new(
        Subject::ApiServer,
        Phase::Running,
        CALLS,
        "kernel: __seccomp_filter returns EPERM for every call that its own filter does not name",
        "network, files of its directory, threads (those for large requests give way) and time; no program, no namespace, no other process",
        "api-calls",
    ),
];

/// What the API server may call, found by tracing it, with a margin for other C libraries.
const CALLS: &[Right<&'static str>] = calls![
    OwnSyscall:
    "accept4" "access" "arch_prctl" "bind" "brk" "chmod" "clock_getres" "clock_gettime" "clock_nanosleep"
    "clone" "clone3" "close" "connect" "dup" "epoll_create1" "epoll_ctl" "epoll_pwait" "epoll_wait" "eventfd2"
    "exit" "exit_group" "fallocate" "fchmod" "fcntl" "fdatasync" "flock" "fstat" "fstatfs" "fsync" "ftruncate"
    "futex" "getcwd" "getdents64" "getegid" "geteuid" "getgid" "getpeername" "getpid" "getppid" "getpriority"
    "getrandom" "getrlimit" "getsockname" "getsockopt" "gettid" "gettimeofday" "getuid" "ioctl" "lseek"
    "lstat" "madvise" "mkdir" "mmap" "mprotect" "mremap" "munmap" "nanosleep" "newfstatat" "open" "openat"
    "pipe2" "poll" "ppoll" "prctl" "pread64" "prlimit64" "pwrite64" "read" "readlink" "readv" "recvfrom"
    "recvmmsg" "recvmsg" "rename" "restart_syscall" "rseq" "rt_sigaction" "rt_sigprocmask" "rt_sigreturn"
    "sched_getaffinity" "sched_yield" "sendmmsg" "sendmsg" "sendto" "set_robust_list" "set_tid_address"
    "setpriority" "setsockopt" "shutdown" "sigaltstack" "socket" "socketpair" "stat" "statfs" "statx"
    "sysinfo" "tgkill" "umask" "uname" "unlink" "unlinkat" "write" "writev"
];
