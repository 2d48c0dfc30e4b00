//! What a launcher has more when its orders come through a slot, as on clusters: nothing but that it connects. The sockets
//! and descriptors that it opens for the handler need no right of their own.

use super::calls;
use crate::{
    grant::{Grant, Phase, Subject},
    right::Right,
};

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
