//! A NoCloud seed: the launcher makes an image of the user's data, QEMU only reads it.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, verbs},
    right::{Access, Right},
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
