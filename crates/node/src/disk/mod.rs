//! Space on the node's disk: what takes it, when it is too much, and how it is given back.

mod limits;
mod remove;
mod unlinked;
mod usage;

pub use limits::{Candidate, Held, Pressure, Short, Threshold, Thresholds, first, over_limit, requested};
pub use remove::{remove_tree, unmount};
pub use unlinked::{MOST_OPEN, Processes, unlinked};
pub use usage::{Free, Usage, free, usage};

use std::time::Duration;

/// What the node and its pods may take of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// When the node is short.
    pub thresholds: Thresholds,
    /// How long the node says so after it was.
    pub transition: Duration,
    /// Most that one pod may hold that names no limit of its own.
    pub scratch: Threshold,
}
