//! Descriptors that the runtime polls.

use std::{io, os::fd::AsRawFd};
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime.
///
/// # Errors
/// What epoll_ctl(2) says.
// The replacement of `new` is unsafe, because a type could name a descriptor that it does not own. Those given to this
// function own theirs for all their life, and this crate has no unsafe code.
#[allow(deprecated)]
pub fn watch<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(descriptor)
}
