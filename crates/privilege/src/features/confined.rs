//! The SELinux type of every machine in the minimal profile, built up from nothing.
//!
//! What is here was seen to be refused without it when a real launcher and a real QEMU ran in an enforcing kernel
//! (`cargo xtask selinux-nested`). Everything in a pod, from its root file system to its volumes and device nodes, is
//! `container_file_t` with the pod's own pair of categories: so these rules are about kinds of objects, and what is
//! there at all is a matter of the pod's mounts and devices.

use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::Right,
};

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[
            Right::SelinuxAttribute { domain: "{domain}", attribute: "domain" },
            Right::SelinuxRole { domain: "{domain}", role: "system_r" },
        ],
        "security hook: selinux_bprm_creds_for_exec refuses a context whose type its role may not have",
        "base policies assert that nothing but a member of domain is a process, and let init, the node agent and \
         administrators act on processes by it",
        "selinux-domain",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::SelinuxAttribute { domain: "{domain}", attribute: "mcs_constrained_type" }],
        "security hook: context_struct_compute_av applies the constraints of categories to members only",
        "takes away: a machine reaches only what has its own categories, so machines are kept apart",
        "selinux-separation",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        selinux![
            "{runtime}" "{domain}" "process": "transition",
            "{runtime}" "{domain}" "process2": "nnp_transition",
            "{domain}" "container_file_t" "file": "entrypoint",
        ],
        "security hook: selinux_bprm_creds_for_exec on the change of domain, under no_new_privs too",
        "the container runtime starts the launcher's program in the machine's type",
        "selinux-start",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        selinux![
            "{agent}" "{domain}" "process": "transition",
            "{agent}" "{domain}" "process2": "nnp_transition" "nosuid_transition",
            "{domain}" "container_file_t" "file": "append",
        ],
        "security hooks: selinux_bprm_creds_for_exec on the change of domain, flush_unauthorized_files on the log",
        "in `ferrovirt up` the node agent is the container engine too: crun, its child, starts the launcher's program and \
         gives it a file as its log; the program is on a mount without set-user-ID programs",
        "selinux-start-by-agent",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        selinux!["{runtime}" "{domain}" "process": "sigkill"],
        "security hook: selinux_task_kill on the runtime's signal",
        "the container runtime ends a container that does not end by itself",
        "selinux-kill",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        selinux![
            "{domain}" "container_file_t" "file": "read" "open" "map" "execute" "execute_no_trans" "getattr",
            "{domain}" "container_file_t" "dir": "search" "getattr",
            "{domain}" "container_file_t" "lnk_file": "read",
        ],
        "security hooks: selinux_inode_permission, selinux_file_open, selinux_mmap_file, selinux_bprm_creds_for_exec",
        "the launcher is loaded from the image, starts QEMU, and QEMU loads its libraries and firmware; /lib64, where its \
         loader is, is a link",
        "selinux-programs",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        selinux!["{domain}" "container_file_t" "chr_file": "open" "read" "write" "lock"],
        "security hooks: selinux_file_open and selinux_file_lock on the pod's device node",
        "QEMU gets /dev/null as its standard input, and tries on it which kind of file locks there is",
        "selinux-null",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        selinux!["{domain}" "self" "process": "fork" "signal" "sigkill" "getsched"],
        "security hooks: selinux_task_alloc, selinux_task_kill, selinux_task_getscheduler",
        "the launcher starts QEMU, QEMU's threads wake each other by signals, QEMU dies with its launcher, and its \
         libraries ask which processors it may use",
        "selinux-processes",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        selinux![
            "{domain}" "{runtime}" "fd": "use",
            "{domain}" "{runtime}" "fifo_file": "write",
            "{domain}" "self" "fifo_file": "read" "write",
        ],
        "security hooks: selinux_file_permission, and flush_unauthorized_files when a program starts",
        "the launcher logs to the container runtime's pipe, and takes QEMU's last words out of a pipe of its own",
        "selinux-log",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        selinux![
            "{domain}" "{agent}" "fd": "use",
            "{domain}" "{agent}" "unix_stream_socket": "accept" "read" "write" "getopt",
        ],
        "security hooks: selinux_socket_accept, selinux_socket_recvmsg and selinux_socket_sendmsg on a socket with the \
         label of the node agent, which made it; selinux_file_receive for descriptors that come over it",
        "the node agent's order and the open descriptors come over its own listening socket, which the launcher inherits",
        "selinux-agent",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        selinux!["{domain}" "self" "unix_stream_socket": "create" "bind" "listen" "accept" "getattr" "getopt" "read" "write"],
        "security hooks: selinux_socket_create, selinux_socket_bind and others of the launcher's own sockets",
        "QMP, the serial port and the screen are sockets between launcher, QEMU and their clients",
        "selinux-sockets",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        selinux![
            "{domain}" "container_file_t" "sock_file": "create",
            "{domain}" "container_file_t" "dir": "write" "add_name",
            "{domain}" "container_file_t" "file": "create" "write",
        ],
        "security hooks: selinux_inode_create, selinux_inode_mknod and selinux_file_open in the pod's scratch space",
        "the sockets and the log of the serial port are entries there",
        "selinux-scratch",
    ),
    Grant::new(
        Subject::Qemu,
        Phase::Running,
        selinux![
            "{domain}" "container_file_t" "file": "lock" "unlink",
            "{domain}" "container_file_t" "dir": "remove_name",
        ],
        "security hooks: selinux_file_lock, selinux_inode_unlink",
        "QEMU locks the files of disks against a second user, and unlinks the file of an overlay as soon as it has it open",
        "selinux-disks",
    ),
];
