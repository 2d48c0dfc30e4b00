//! Scratch disks: files of the pod's own scratch space.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right, VolumeSource},
};

const MOUNT: Grant = Grant::new(
    Subject::Qemu,
    Phase::Running,
    &[Right::Mount {
        volume: "ephemeral-disks",
        path: "/var/run/kubevirt-ephemeral-disks",
        source: VolumeSource::Scratch,
        access: Access::ReadWrite,
    }],
    "kernel: a path that is not in the pod's mount namespace does not resolve (path_lookupat)",
    "the launcher makes the disk's file in the pod's scratch space, and it ends with it",
    "empty-disk-mount",
);

const FILE: &str = "/var/run/kubevirt-ephemeral-disks/disk-data-{volume}.img";
const OPEN: &str = "kernel: may_open and sb_permission on the disk's file";

pub(super) const WRITE: Table = Table {
    both: &[&[
        MOUNT,
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open { path: FILE, access: Access::ReadWrite }],
            OPEN,
            "QEMU reads and writes the disk",
            "empty-disk-open",
        ),
    ]],
    ..Table::NONE
};

pub(super) const READ: Table = Table {
    both: &[&[
        MOUNT,
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open { path: FILE, access: Access::Read }],
            OPEN,
            "QEMU reads the disk",
            "empty-disk-open-read",
        ),
    ]],
    ..Table::NONE
};
