//! A disk in a file of the node (hostDisk), through a hostPath volume. Pod Security above `privileged` and every SCC
//! without allowHostDirVolumePlugin refuse it.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right, VolumeSource},
};

const SCC: Grant = Grant::new(
    Subject::Controller,
    Phase::Start,
    &[
        Right::Scc { field: "allowHostDirVolumePlugin", value: "true" },
        Right::Scc { field: "volumes", value: "hostPath" },
    ],
    "admission: an SCC without allowHostDirVolumePlugin refuses hostPath volumes",
    "machines can use the hostPath volume plug-in",
    "host-disk-scc",
);

const MOUNT: &str =
    "kernel: a path that is not in the pod's mount namespace does not resolve (path_lookupat)";
const WHY: &str =
    "the directory of the disk's file is mounted, so that nothing else of the node is reachable";

const PATH: &str = "/var/run/kubevirt-private/vmi-disks/{volume}";

const fn mount(access: Access, create: bool) -> Right<&'static str> {
    Right::Mount {
        volume: "{volume}",
        path: PATH,
        source: VolumeSource::HostPath { path: "{directory}", create },
        access,
    }
}

const OPEN_WRITE: Grant = Grant::new(
    Subject::Qemu,
    Phase::Running,
    &[Right::Open { path: PATH, access: Access::ReadWrite }],
    "kernel: may_open and sb_permission on the disk's file",
    "QEMU reads and writes the disk",
    "host-disk-open",
);

pub(super) const READ: Table = Table {
    both: &[&[
        SCC,
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[mount(Access::Read, false)],
            MOUNT,
            WHY,
            "host-disk-mount-read",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Open { path: PATH, access: Access::Read }],
            "kernel: may_open and sb_permission on the disk's file",
            "QEMU reads the disk",
            "host-disk-open-read",
        ),
    ]],
    ..Table::NONE
};

pub(super) const WRITE: Table = Table {
    both: &[&[
        SCC,
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[mount(Access::ReadWrite, false)],
            MOUNT,
            WHY,
            "host-disk-mount",
        ),
        OPEN_WRITE,
    ]],
    ..Table::NONE
};

pub(super) const CREATE: Table = Table {
    both: &[&[
        SCC,
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[mount(Access::ReadWrite, true)],
            MOUNT,
            "the directory of the disk's file is mounted, and made before when the machine asks for that",
            "host-disk-mount-create",
        ),
        OPEN_WRITE,
    ]],
    ..Table::NONE
};
