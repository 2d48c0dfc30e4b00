//! A place on a node of a cluster. Its device plug-in has the kubelet mount a directory of the place's own into the pod, in
//! which the launcher is met: the pod asks for no path of the node.
//!
//! What a launcher has more when its orders come that way is nothing but that it connects. The sockets and descriptors that
//! it opens for the handler need no right of their own.

use super::{Table, calls};
use crate::{
    grant::{Grant, Phase, Subject},
    right::Right,
};

pub(super) const TABLE: Table = Table {
    both: &[&[Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::Resource { name: "devices.ferrovirt.io/machine", quantity: "1" }],
        "kernel: path_openat finds no directory that the mount namespace has not; the kubelet mounts a plug-in's for who asks for its device",
        "the parts of the handler meet the launcher in a directory of its place, and machines go only to nodes that have \
         places",
        "slot-resource",
    )]],
    ..Table::NONE
};

/// Of every launcher that is started so, whatever its machine is: they are a part of the filter.
pub(super) const GRANTS: &[Grant] = &[Grant::new(
    Subject::Launcher,
    Phase::Running,
    CALLS,
    "kernel: __seccomp_filter returns EPERM for every call that the launcher's own filter does not name",
    "the launcher connects to the handler in its slot, since nobody outside reaches into its container",
    "slot-calls",
)];

/// Beside those of every launcher.
const CALLS: &[Right<&'static str>] = calls![OwnSyscall: "connect"];
