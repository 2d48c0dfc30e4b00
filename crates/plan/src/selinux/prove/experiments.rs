//! What is tried, and which accesses the kernel asks for, in its order.
//!
//! The accesses are the kernel's: each line was read in its source and seen in its records.

use ferrovirt_lab_protocol::Operation;
use ferrovirt_privilege::Feature;

/// What an experiment is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// A feature of machines, and its near misses.
    Feature(Feature),
    /// Another machine.
    Separation,
    /// Ways out of confinement.
    Confinement,
}

impl Topic {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Feature(feature) => feature.name(),
            Self::Separation => "separation",
            Self::Confinement => "confinement",
        }
    }
}

/// What an access is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process itself, or what carries its context: sockets, TAP devices, its directory in /proc.
    Own,
    /// Files of its pod.
    OwnFiles,
    /// What it made in a hugetlbfs.
    OwnHuge,
    /// Another machine's process, and what carries its context.
    Other,
    /// Another machine's files.
    OtherFiles,
    /// What another machine made in a hugetlbfs.
    OtherHuge,
    /// The kernel's own domain.
    Kernel,
    /// A privileged container, and what carries its context: the node agent is one.
    Privileged,
    /// Files that have this type for all of the node.
    Node(&'static str),
}

/// One question that the kernel asks: all of these permissions, or the operation ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// On what.
    pub target: Target,
    /// The class.
    pub class: &'static str,
    /// The permissions that are asked for at once.
    pub permissions: &'static [&'static str],
}

/// Something that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// What the witness does.
    pub operation: Operation,
    /// What it is about.
    pub topic: Topic,
    /// What happens, in words.
    pub title: &'static str,
    /// The accesses, in the kernel's order.
    pub accesses: &'static [Access],
}

impl Experiment {
    /// Whether it needs another machine.
    pub fn needs_neighbour(&self) -> bool {
        self.accesses.iter().any(|experiment| {
            matches!(experiment.target, Target::Other | Target::OtherFiles | Target::OtherHuge)
        })
    }
}

macro_rules! experiments {
    ($($topic:expr, $operation:ident, $title:literal: $($target:ident $(($kind:literal))? $class:literal $($permission:literal)+),+;)+) => {
        /// Every experiment.
        pub const EXPERIMENTS: &[Experiment] = &[$(Experiment {
            operation: Operation::$operation,
            topic: $topic,
            title: $title,
            accesses: &[$(Access {
                target: Target::$target $(($kind))?,
                class: $class,
                permissions: &[$($permission),+],
            }),+],
        }),+];

        /// Each operation is in the table, and once: otherwise this does not compile.
        const _: fn(Operation) = |operation| match operation {
            $(Operation::$operation => (),)+
        };
    };
}

const TAP: Topic = Topic::Feature(Feature::Tap);
const QUEUES: Topic = Topic::Feature(Feature::MultiQueue);
const HUGE: Topic = Topic::Feature(Feature::HugePages);
const SRIOV: Topic = Topic::Feature(Feature::Sriov);

experiments! {
    // tun_set_iff of a name that is new.
    TAP, TapCreate, "create a multi-queue TAP":
        OwnFiles "chr_file" "ioctl", Own "capability" "net_admin", Own "tun_socket" "create";
    TAP, TapCreateSingle, "create a TAP with one queue":
        OwnFiles "chr_file" "ioctl", Own "capability" "net_admin", Own "tun_socket" "create";
    // tun_set_iff of a name that exists: selinux_tun_dev_open.
    QUEUES, TapSecondQueue, "open a second queue":
        OwnFiles "chr_file" "ioctl", Own "tun_socket" "relabelfrom", Own "tun_socket" "relabelto";
    QUEUES, TapOpenOwn, "open a TAP that a helper made in the same domain":
        OwnFiles "chr_file" "ioctl", Own "tun_socket" "relabelfrom", Own "tun_socket" "relabelto";
    QUEUES, TapDetachQueue, "switch a queue off":
        OwnFiles "chr_file" "ioctl";
    QUEUES, TapAttachQueue, "switch a queue on again":
        OwnFiles "chr_file" "ioctl", Own "tun_socket" "attach_queue";
    QUEUES, TapOpenForeign, "near miss: open a TAP of the node's":
        OwnFiles "chr_file" "ioctl", Kernel "tun_socket" "relabelfrom", Own "tun_socket" "relabelto";

    // Through a descriptor of another process: file_has_perm and ioctl_has_perm ask for the descriptor first.
    TAP, TapPassedRead, "read from a queue that the node agent passed":
        Privileged "fd" "use", Node("tun_tap_device_t") "chr_file" "read";
    TAP, TapPassedWrite, "write to it":
        Privileged "fd" "use", Node("tun_tap_device_t") "chr_file" "write";
    QUEUES, TapPassedDetach, "switch it off":
        Privileged "fd" "use", Node("tun_tap_device_t") "chr_file" "ioctl";
    QUEUES, TapPassedAttach, "switch a second passed queue on":
        Privileged "fd" "use", Node("tun_tap_device_t") "chr_file" "ioctl", Privileged "tun_socket" "attach_queue";
    QUEUES, TapOpenAgents, "near miss: open a further queue of that TAP":
        OwnFiles "chr_file" "ioctl", Privileged "tun_socket" "relabelfrom", Own "tun_socket" "relabelto";

    // may_create, may_link and selinux_inode_setattr; the first access is the path's, the second inode_permission's.
    HUGE, HugeMkdir, "make a directory":
        OwnHuge "dir" "search", OwnHuge "dir" "write" "search", OwnHuge "dir" "add_name" "search", OwnHuge "dir" "create";
    HUGE, HugeRmdir, "remove a directory":
        OwnHuge "dir" "search", OwnHuge "dir" "write" "search", OwnHuge "dir" "remove_name" "search", OwnHuge "dir" "rmdir";
    HUGE, HugeChmodDir, "change a directory's mode":
        OwnHuge "dir" "search", OwnHuge "dir" "setattr";
    HUGE, HugeCreate, "create a file":
        OwnHuge "dir" "search", OwnHuge "dir" "write" "search", OwnHuge "dir" "add_name" "search", OwnHuge "file" "create";
    HUGE, HugeUnlink, "remove a file":
        OwnHuge "dir" "search", OwnHuge "dir" "write" "search", OwnHuge "dir" "remove_name" "search", OwnHuge "file" "unlink";
    HUGE, HugeOpen, "open a file for reading and writing":
        OwnHuge "dir" "search", OwnHuge "file" "read" "write", OwnHuge "file" "read" "write" "open";
    HUGE, HugeMap, "map a file and write to it":
        OwnHuge "file" "map", OwnHuge "file" "read" "write";
    HUGE, HugeAnonymous, "map huge pages without a file":
        OwnHuge "file" "map", OwnHuge "file" "read";
    HUGE, HugeMemfd, "make, size and map a memfd of huge pages":
        OwnHuge "file" "write", OwnHuge "file" "map", OwnHuge "file" "read" "write";
    HUGE, HugeList, "list a directory":
        OwnHuge "dir" "search", OwnHuge "dir" "read", OwnHuge "dir" "read" "open";
    HUGE, HugeRename, "near miss: rename a file":
        OwnHuge "dir" "search", OwnHuge "dir" "write" "search", OwnHuge "dir" "remove_name" "search", OwnHuge "file" "rename",
        OwnHuge "dir" "add_name" "search";
    HUGE, HugeSymlink, "near miss: make a symbolic link":
        OwnHuge "dir" "search", OwnHuge "dir" "write" "search", OwnHuge "dir" "add_name" "search", OwnHuge "lnk_file" "create";
    HUGE, HugeChmodFile, "near miss: change a file's mode":
        OwnHuge "dir" "search", OwnHuge "file" "setattr";
    HUGE, HugeRelabel, "near miss: change a file's label":
        OwnHuge "file" "relabelfrom", Node("container_file_t") "file" "relabelto";

    SRIOV, SysfsRead, "read a device's number of virtual functions":
        Node("sysfs_t") "dir" "search", Node("sysfs_t") "file" "read", Node("sysfs_t") "file" "read" "open";
    SRIOV, SysfsWrite, "make virtual functions of a real device and remove them":
        Node("sysfs_t") "dir" "search", Node("sysfs_t") "file" "write", Node("sysfs_t") "file" "write" "open";
    SRIOV, SysfsWriteOther, "open another file of sysfs for writing: the rule names no file":
        Node("sysfs_t") "dir" "search", Node("sysfs_t") "file" "write", Node("sysfs_t") "file" "write" "open";
    SRIOV, SysfsAppend, "near miss: open it for appending":
        Node("sysfs_t") "dir" "search", Node("sysfs_t") "file" "append", Node("sysfs_t") "file" "append" "open";
    SRIOV, SysfsChmod, "near miss: change its mode":
        Node("sysfs_t") "dir" "search", Node("sysfs_t") "file" "setattr";
    SRIOV, ProcSysWrite, "near miss: open a file of /proc/sys for writing":
        Node("sysctl_vm_t") "dir" "search", Node("sysctl_vm_t") "file" "write", Node("sysctl_vm_t") "file" "write" "open";

    Topic::Separation, OwnFileRead, "control: read a file of its own pod":
        OwnFiles "dir" "search", OwnFiles "file" "read", OwnFiles "file" "read" "open";
    Topic::Separation, OtherFileRead, "read another machine's file":
        OtherFiles "dir" "search", OtherFiles "file" "read", OtherFiles "file" "read" "open";
    Topic::Separation, OtherFileReopen, "the same past the directory, through /proc/self/fd":
        Own "dir" "search", Own "lnk_file" "read", OtherFiles "file" "read", OtherFiles "file" "read" "open";
    Topic::Separation, OtherHugeFile, "open another machine's memory in a hugetlbfs":
        OtherHuge "dir" "search", OtherHuge "file" "read" "write", OtherHuge "file" "read" "write" "open";
    Topic::Separation, OtherSocket, "connect to another machine's socket":
        Own "unix_stream_socket" "connect", Other "unix_stream_socket" "connectto";
    Topic::Separation, OtherSignal, "send another machine a signal":
        Other "process" "signal";
    Topic::Separation, OtherExists, "ask whether another machine's process exists":
        Other "process" "signull";
    Topic::Separation, OtherTrace, "trace another machine's process":
        Other "process" "ptrace";
    Topic::Separation, OtherStatus, "read another machine's directory in /proc":
        Other "dir" "search", Other "file" "read", Other "file" "read" "open";
    Topic::Separation, OtherTap, "open another machine's TAP, in one network namespace":
        OwnFiles "chr_file" "ioctl", Other "tun_socket" "relabelfrom", Own "tun_socket" "relabelto";

    Topic::Confinement, EscapeDomain, "become a privileged container":
        Own "process" "setcurrent", Privileged "process" "dyntransition";
    Topic::Confinement, EscapeEnforcing, "switch enforcing off":
        Node("security_t") "security" "setenforce";
    Topic::Confinement, EscapePolicy, "load another policy":
        Node("security_t") "security" "load_policy";
    Topic::Confinement, EscapeDisk, "make a device node of the node's disk":
        OwnFiles "dir" "search", OwnFiles "dir" "write" "search", Own "capability" "mknod", OwnFiles "dir" "add_name" "search",
        OwnFiles "blk_file" "create";
}
