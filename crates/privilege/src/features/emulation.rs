//! Software emulation: QEMU translates the guest's instructions instead of letting the processor run them.

use super::Table;
use crate::grant::{Grant, Phase, Subject, selinux};

pub(super) const TABLE: Table = Table {
    minimal: &[Grant::new(
        Subject::Qemu,
        Phase::Running,
        selinux!["{domain}" "self" "process": "execmem"],
        "security hook: selinux_mmap_file and selinux_file_mprotect on anonymous memory that is written and executed",
        "QEMU writes translated instructions into memory and runs them; with KVM it does not",
        "emulation-selinux",
    )],
    ..Table::NONE
};
