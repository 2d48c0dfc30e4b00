//! A user namespace of the pod's own: its users are users of the node that no other pod has.
//!
//! It takes away, it gives nothing. A pod needs nobody's leave for it: Pod Security and every SCC admit it wherever they admit
//! the same pod without it, and `restricted-v3` demands it.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject},
    right::Right,
};

pub(super) const TABLE: Table = Table {
    minimal: &[Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::PodField { field: "hostUsers", value: "false" }],
        "kernel: map_id_range_down makes of each user of the pod one of the node, and cap_capable knows capabilities of the pod's \
         own user namespace over that and what it owns alone",
        "a guest that breaks out of QEMU is on the node a user that owns nothing and that no other pod has, and a capability that \
         it came by would hold in its own pod alone",
        "user-namespace",
    )],
    ..Table::NONE
};
