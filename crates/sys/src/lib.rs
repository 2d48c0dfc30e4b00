//! System calls that the standard library does not offer; the only crate with unsafe code.
//!
//! What `rustix` already offers safely (poll, socketpair, pidfd, wait) is used from there directly.

pub mod process;
pub mod seqpacket;
pub mod signal;
