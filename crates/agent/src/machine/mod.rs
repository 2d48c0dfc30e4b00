//! The machine of a pod: its order, the conversation with its launcher, its status.

pub mod huge_pages;
pub mod link;

pub use ferrovirt_handler::machine::{facts, meter, report, status};
