//! Scratch disks: files of the pod's own scratch space.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right, VolumeSource},
};

pub(super) const TABLE: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Mount {
                volume: "ephemeral-disks",
                path: "/var/run/kubevirt-ephemeral-disks",
                source: VolumeSource::Scratch,
                access: Access::ReadWrite,
            }],
            "kernel: open for writing on the read-only root fails with EROFS (mnt_want_write)",
            "the disk's file is in the pod's scratch space and ends with it",
            "empty-disk-mount",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open {
                path: "/var/run/kubevirt-ephemeral-disks/disk-data/{volume}",
                access: Access::ReadWrite,
            }],
            "kernel: may_open and sb_permission on the disk's file",
            "QEMU reads and writes the disk",
            "empty-disk-open",
        ),
    ]],
    ..Table::NONE
};
