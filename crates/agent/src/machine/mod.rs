//! The machine of a pod: its disks and network, its order, the conversation with its launcher, its status.

pub mod disks;
pub mod huge_pages;
pub mod link;
pub mod network;

pub use ferrovirt_handler::machine::{facts, meter, report, status};
