//! System calls that the standard library does not offer; the only crate with unsafe code.
//!
//! What `rustix` already offers safely (poll, socketpair, pidfd, wait, mount) is used from there directly.

pub mod calls;
pub mod confine;
pub mod fork;
pub mod identity;
pub mod kvm;
pub mod landlock;
pub mod link;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod rights;
pub mod seqpacket;
pub mod shared;
pub mod signal;
pub mod tap;
pub mod trace;
pub mod udp;
