//! Disks on PersistentVolumeClaims, as a file of a mounted volume or as a block device.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::{Access, DeviceSource, Right, VolumeSource},
};

const SCC: Grant = Grant::new(
    Subject::Controller,
    Phase::Start,
    &[Right::Scc { field: "volumes", value: "persistentVolumeClaim" }],
    "admission: an SCC refuses volume types that it does not list",
    "disks live on PersistentVolumeClaims",
    "claim-scc",
);

/// The documented profile's pods have a group in any case.
pub(super) const GROUP: Table = Table {
    minimal: &[Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::PodField { field: "fsGroup", value: "{group}" }],
        "kernel: inode_permission refuses who is neither the owner nor of the group; the kubelet gives a volume's files to \
         the pod's fsGroup",
        "the launcher makes and QEMU opens the file of a claim that is root's without it",
        "volume-group",
    )],
    ..Table::NONE
};

const FILE: &str = "/var/run/kubevirt-private/vmi-disks/{volume}";
const MOUNT: &str =
    "kernel: a path that is not in the pod's mount namespace does not resolve (path_lookupat)";
const DEVICE: &str =
    "kernel: devcgroup_check_permission refuses a block device without a rule for the access";
const BLOCK_HOOK: &str = "security hooks: selinux_file_open, selinux_file_ioctl, selinux_file_lock on the node, which has the pod's label";
const OPEN: &str = "kernel: may_open and sb_permission on the disk's file";

const fn mount(access: Access) -> Right<&'static str> {
    Right::Mount { volume: "{volume}", path: FILE, source: VolumeSource::Claim("{claim}"), access }
}

const fn device(access: Access) -> Right<&'static str> {
    Right::Device { path: "/dev/{volume}", source: DeviceSource::Claim("{claim}"), access }
}

pub(super) const FILE_READ: Table = Table {
    both: &[&[
        SCC,
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[mount(Access::Read)],
            MOUNT,
            "the claim is mounted; the guest does not write it",
            "claim-file-mount-read",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open { path: FILE, access: Access::Read }],
            OPEN,
            "QEMU reads the disk",
            "claim-file-open-read",
        ),
    ]],
    ..Table::NONE
};

pub(super) const FILE_WRITE: Table = Table {
    both: &[&[
        SCC,
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[mount(Access::ReadWrite)],
            MOUNT,
            "the claim that holds the disk is mounted",
            "claim-file-mount",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open { path: FILE, access: Access::ReadWrite }],
            OPEN,
            "QEMU reads and writes the disk",
            "claim-file-open",
        ),
    ]],
    ..Table::NONE
};

pub(super) const BLOCK_READ: Table = Table {
    both: &[&[
        SCC,
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[device(Access::Read)],
            DEVICE,
            "the claim is a block device; the guest does not write it",
            "claim-block-device-read",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open { path: "/dev/{volume}", access: Access::Read }],
            DEVICE,
            "QEMU reads the disk",
            "claim-block-open-read",
        ),
    ]],
    minimal: &[Grant::new(
        Subject::Qemu,
        Phase::Running,
        selinux!["{domain}" "container_file_t" "blk_file": "getattr" "open" "read" "ioctl" "lock"],
        BLOCK_HOOK,
        "QEMU finds out the size of the block device, locks it against a second user and reads it",
        "claim-block-read-selinux",
    )],
    documented: &[],
};

pub(super) const BLOCK_WRITE: Table = Table {
    both: &[&[
        SCC,
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[device(Access::ReadWrite)],
            DEVICE,
            "the claim that holds the disk is a block device",
            "claim-block-device",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open { path: "/dev/{volume}", access: Access::ReadWrite }],
            DEVICE,
            "QEMU reads and writes the disk",
            "claim-block-open",
        ),
    ]],
    minimal: &[Grant::new(
        Subject::Qemu,
        Phase::Running,
        selinux!["{domain}" "container_file_t" "blk_file": "write"],
        BLOCK_HOOK,
        "QEMU writes to the block device",
        "claim-block-selinux",
    )],
    documented: &[],
};
