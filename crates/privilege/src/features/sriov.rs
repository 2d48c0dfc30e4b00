//! Single Root I/O Virtualization. Only the documented rule: machines cannot ask for virtual functions yet, and
//! the minimal profile will let the node agent write to sysfs instead.

use super::Table;
use crate::grant::{Grant, Phase, Subject, selinux};

pub(super) const TABLE: Table = Table {
    documented: &[Grant::new(
        Subject::Launcher,
        Phase::Start,
        selinux!["virt_launcher.process" "sysfs_t" "file": "write"],
        "security hook: selinux_inode_permission on open for writing in sysfs",
        "the pod writes information to files in sysfs",
        "sriov-selinux",
    )],
    ..Table::NONE
};
