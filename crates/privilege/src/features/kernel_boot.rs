//! Direct kernel boot from a container image.

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
                volume: "kernel-boot-volume",
                path: "/var/run/kubevirt-image-volume/kernel-boot-volume",
                source: VolumeSource::Image("{image}"),
                access: Access::Read,
            }],
            "kernel: a path that is not in the pod's mount namespace does not resolve (path_lookupat)",
            "the image that holds the kernel is mounted, read-only as the kubelet mounts every image",
            "kernel-boot-mount",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Open {
                path: "/var/run/kubevirt-image-volume/kernel-boot-volume",
                access: Access::Read,
            }],
            "kernel: may_open and sb_permission on the image's files",
            "QEMU loads the kernel and the initial RAM file system",
            "kernel-boot-open",
        ),
        Grant::new(
            Subject::Controller,
            Phase::Start,
            &[Right::Scc { field: "volumes", value: "image" }],
            "admission: an SCC refuses volume types that it does not list",
            "container disks and kernels are volumes of type image",
            "kernel-boot-scc",
        ),
    ]],
    ..Table::NONE
};
