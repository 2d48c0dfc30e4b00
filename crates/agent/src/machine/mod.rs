//! The machine of a pod: its order, the conversation with its launcher, its status.

pub mod conduct;
pub mod facts;
pub mod link;
pub mod report;
pub mod status;
