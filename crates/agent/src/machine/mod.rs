//! The machine of a pod: its order, the conversation with its launcher, its status.

pub mod facts;
pub mod link;
pub mod meter;
pub mod report;
pub mod status;
