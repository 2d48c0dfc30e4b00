//! A NoCloud seed: the launcher makes an image of the user's data, QEMU only reads it.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, verbs},
    right::{Access, Right, VolumeSource},
};

pub(super) const TABLE: Table = Table {
    both: &[&[Grant::new(
        Subject::Qemu,
        Phase::Start,
        &[Right::Open { path: "/var/run/kubevirt-private/cloud-init-{volume}.iso", access: Access::Read }],
        "kernel: may_open on the seed",
        "the guest reads the seed as a CD-ROM or disk",
        "cloud-init-open",
    )]],
    ..Table::NONE
};

pub(super) const SECRET: Table = Table {
    both: &[&[Grant::new(
        Subject::Node,
        Phase::Start,
        verbs!["" "secrets": "get"],
        "authorizer: RBAC refuses get secrets",
        "the seed's contents are in a secret: they come to the launcher before its order, and the controller does not see them",
        "cloud-init-secret",
    )]],
    ..Table::NONE
};

/// On a cluster no process that serves more than one machine reads a secret.
pub(super) const MOUNTED: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Mount {
                volume: "{mount}",
                path: "/var/run/kubevirt-private/secret/{mount}",
                source: VolumeSource::Secret { name: "{secret}", keys: "{keys}" },
                access: Access::Read,
            }],
            "kernel: a path that is not in the pod's mount namespace does not resolve (path_lookupat)",
            "the seed's contents are in a secret: the kubelet mounts the keys that a seed is made of, and the launcher makes \
             the image of them",
            "cloud-init-mount",
        ),
        Grant::new(
            Subject::Controller,
            Phase::Start,
            &[Right::Scc { field: "volumes", value: "secret" }],
            "admission: an SCC refuses volume types that it does not list",
            "the contents of seeds are mounted secrets",
            "cloud-init-scc",
        ),
    ]],
    ..Table::NONE
};
