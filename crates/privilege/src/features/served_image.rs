//! Disks and kernels in container images on a cluster that mounts no images, which is the default before Kubernetes 1.35.
//!
//! A container of the image gives the launcher a read-only descriptor of a file, without a copy, a shell in the image, or a
//! right that no other container has: the program that runs there is ours.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right, VolumeSource},
};

pub(super) const ONE: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::ImageServer { volume: "{volume}", image: "{image}" }],
            "kernel: unix_find_bsd finds no socket where nobody has bound one, and path_lookupat no file of another container",
            "the image that holds the disk or kernel is a container of its own, and its files come as descriptors",
            "served-image",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Open { path: "/var/run/kubevirt-image-volume/{volume}", access: Access::Read }],
            "kernel: may_open on the image's file, through proc_fd_link",
            "QEMU reads the disk, or loads the kernel and the initial RAM file system",
            "served-image-open",
        ),
    ]],
    ..Table::NONE
};

pub(super) const ALL: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::ImageHelper { image: "{helper}" }],
            "kernel: do_open_execat finds no program of ours in an image of somebody else's",
            "a program is copied out of the launcher's image for the containers of images",
            "served-image-helper",
        ),
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Mount {
                volume: "image-sockets",
                path: "/var/run/kubevirt-image-volume",
                source: VolumeSource::Scratch,
                access: Access::Read,
            }],
            "kernel: a path that is not in the pod's mount namespace does not resolve (path_lookupat)",
            "the sockets at which files of images are given out",
            "served-image-sockets",
        ),
    ]],
    ..Table::NONE
};
