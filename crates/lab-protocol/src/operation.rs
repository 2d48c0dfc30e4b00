//! What a worker of the witness can do. The host knows of each which accesses the kernel asks for, the witness how it is done:
//! both match on this list, so that neither compiles without the other's.

use serde::{Deserialize, Serialize};

/// Something that is tried in a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Create a TAP with several queues.
    TapCreate,
    /// Create a TAP with one queue.
    TapCreateSingle,
    /// Open a second queue of a TAP of its own.
    TapSecondQueue,
    /// Open a TAP that another process of the domain made.
    TapOpenOwn,
    /// Switch a queue off.
    TapDetachQueue,
    /// Switch a queue on again.
    TapAttachQueue,
    /// Open a TAP that the node made.
    TapOpenForeign,
    /// Read from a queue that the node agent passed.
    TapPassedRead,
    /// Write to such a queue.
    TapPassedWrite,
    /// Switch such a queue off.
    TapPassedDetach,
    /// Switch a second such queue on.
    TapPassedAttach,
    /// Open a further queue of the node agent's TAP.
    TapOpenAgents,
    /// Make a directory in a hugetlbfs.
    HugeMkdir,
    /// Remove a directory there.
    HugeRmdir,
    /// Change the mode of a directory there.
    HugeChmodDir,
    /// Create a file there.
    HugeCreate,
    /// Remove a file there.
    HugeUnlink,
    /// Open a file there for reading and writing.
    HugeOpen,
    /// Map a file there and write to it.
    HugeMap,
    /// Map huge pages without a file.
    HugeAnonymous,
    /// Make, size and map a memfd of huge pages.
    HugeMemfd,
    /// List a directory in a hugetlbfs.
    HugeList,
    /// Rename a file there.
    HugeRename,
    /// Make a symbolic link there.
    HugeSymlink,
    /// Change the mode of a file there.
    HugeChmodFile,
    /// Change the label of a file there.
    HugeRelabel,
    /// Read how many virtual functions a device can have.
    SysfsRead,
    /// Make virtual functions and remove them.
    SysfsWrite,
    /// Open another file of sysfs for writing.
    SysfsWriteOther,
    /// Open the number of virtual functions for appending.
    SysfsAppend,
    /// Change the mode of that file.
    SysfsChmod,
    /// Open a file of /proc/sys for writing.
    ProcSysWrite,
    /// Read a file of its own pod.
    OwnFileRead,
    /// Read another machine's file.
    OtherFileRead,
    /// Open another machine's file again through a descriptor in /proc.
    OtherFileReopen,
    /// Open another machine's memory in a hugetlbfs.
    OtherHugeFile,
    /// Connect to another machine's socket.
    OtherSocket,
    /// Send another machine a signal.
    OtherSignal,
    /// Ask whether another machine's process exists.
    OtherExists,
    /// Trace another machine's process.
    OtherTrace,
    /// Read another machine's directory in /proc.
    OtherStatus,
    /// Open another machine's TAP.
    OtherTap,
    /// Become a privileged container.
    EscapeDomain,
    /// Switch enforcing off.
    EscapeEnforcing,
    /// Load another policy.
    EscapePolicy,
    /// Make a device node of the node's disk.
    EscapeDisk,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}
