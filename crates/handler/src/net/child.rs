//! A process for each slot.
//!
//! Closing a descriptor can wait: a TCP socket with `SO_LINGER` for what its peer does not take, a file for a FUSE server
//! that does not answer, where not even SIGKILL ends the process. So the process that serves all launchers takes no
//! descriptor of theirs, not even one of theirs that waits in a socket: a child has the socket on which a launcher is
//! heard, and the parent has no copy of that any more. The child ends by exit, in which a socket does not linger, and is
//! waited for until a deadline.
//!
//! It is a copy of this process (fork), and no program that is started: so no program need be startable.

use ferrovirt_sys::fork::Process;
use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// How long a killed child may take to end.
pub const GRACE: Duration = Duration::from_secs(2);

/// Waits until one of these is ready, or for this time.
pub(super) fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A child that serves one launcher.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    ended: Option<Instant>,
}

impl Worker {
    /// This process.
    pub fn of(process: Process) -> Self {
        Self { process, ended: None }
    }

    /// Has the kernel end it, and does not wait.
    pub fn end(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
        if let Err(error) = self.process.kill() {
            tracing::error!("ending a child: {error}");
        }
    }

    /// Whether it has gone. It is not asked again afterwards.
    pub fn is_gone(&mut self) -> bool {
        self.process.is_gone()
    }

    /// Whether it was ended and has not gone for too long: its slot serves nobody until it has.
    pub fn hangs(&mut self, now: Instant) -> bool {
        let late = self.ended.is_some_and(|ended| now.saturating_duration_since(ended) > GRACE);
        late && !self.is_gone()
    }
}

/// Readable when it has ended.
impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}
