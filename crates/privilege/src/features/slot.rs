//! A place on a node of a cluster. Its device plug-in has the kubelet mount a directory of the place's own into the pod, in
//! which the launcher is met: the pod asks for no path of the node.
//!
//! What a launcher has more when its orders come that way is nothing but that it connects. The sockets and descriptors that
//! it opens for the handler need no right of their own.

use super::{Table, calls};
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, DeviceSource, Right},
};

pub(super) const TABLE: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Resource { name: "devices.ferrovirt.io/machine", quantity: "1" }],
            "kernel: path_openat finds no directory that the mount namespace has not; the kubelet mounts a plug-in's for who asks for its device",
            "the parts of the handler meet the launcher in a directory of its place, and machines go only to nodes that have \
             places",
            "slot-resource",
        ),
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Device {
                path: "/dev/net/tun",
                source: DeviceSource::Plugin("devices.ferrovirt.io/machine"),
                access: Access::ReadWrite,
            }],
            "kernel: path_openat finds no node in the pod's /dev, and devcgroup_check_permission refuses to open 10:200",
            "the launcher opens it for the handler, which alone can make a TAP of what was opened: without a capability in the \
             pod's network namespace the node gives nothing",
            "slot-tun",
        ),
    ]],
    ..Table::NONE
};

/// Of every launcher that is started so, whatever its machine is: they are a part of the filter.
pub(super) const GRANTS: &[Grant] = &[Grant::new(
    Subject::Launcher,
    Phase::Running,
    CALLS,
    "kernel: __seccomp_filter returns EPERM for every call that the launcher's own filter does not name",
    "the launcher connects to the handler in its slot, since nobody outside reaches into its container, and finds out in a \
     child with a deadline whether KVM works, since nobody outside can open it",
    "slot-calls",
)];

/// Beside those of every launcher.
const CALLS: &[Right<&'static str>] = calls![OwnSyscall: "connect" "pidfd_open"];
