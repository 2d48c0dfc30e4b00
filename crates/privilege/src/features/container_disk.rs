//! A disk in a container image, and the throw-away overlay that takes the writes.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right, VolumeSource},
};

pub(super) const TABLE: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Mount {
                volume: "{volume}",
                path: "/var/run/kubevirt-image-volume/{volume}",
                source: VolumeSource::Image("{image}"),
                access: Access::Read,
            }],
            "kernel: a path that is not in the pod's mount namespace does not resolve (path_lookupat)",
            "the image that holds the disk is mounted, read-only as the kubelet mounts every image",
            "container-disk-mount",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Open { path: "/var/run/kubevirt-image-volume/{volume}", access: Access::Read }],
            "kernel: may_open and sb_permission on the image's file",
            "QEMU reads the disk",
            "container-disk-open",
        ),
        Grant::new(
            Subject::Controller,
            Phase::Start,
            &[Right::Scc { field: "volumes", value: "image" }],
            "admission: an SCC refuses volume types that it does not list",
            "container disks and kernels are volumes of type image",
            "container-disk-scc",
        ),
    ]],
    ..Table::NONE
};

pub(super) const OVERLAY: Table = Table {
    both: &[&[Grant::new(
        Subject::Qemu,
        Phase::Running,
        &[Right::Mount {
            volume: "ephemeral-disks",
            path: "/var/run/kubevirt-ephemeral-disks",
            source: VolumeSource::Scratch,
            access: Access::ReadWrite,
        }],
        "kernel: open with O_CREAT on the read-only root fails with EROFS (mnt_want_write)",
        "QEMU keeps what the guest writes in a temporary file that it has already unlinked",
        "overlay-scratch",
    )]],
    ..Table::NONE
};
