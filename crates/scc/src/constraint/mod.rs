//! The SCC object: its types, defaults and validation, the order, and what is prepared of a cluster's SCCs once per change.

pub(crate) mod compiled;
pub mod defaults;
pub(crate) mod metadata;
pub(crate) mod object;
pub(crate) mod order;
pub(crate) mod types;
