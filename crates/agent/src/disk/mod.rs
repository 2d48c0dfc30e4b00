//! Space on the node's disk: what takes it, and how it is given back.

mod remove;
mod usage;

pub use remove::remove_tree;
pub use usage::{Free, Usage, free, usage};
