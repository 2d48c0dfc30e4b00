//! A process for each launcher.
//!
//! Closing a descriptor can wait: a TCP socket with `SO_LINGER` for what its peer does not take, a file for a FUSE server
//! that does not answer, where not even SIGKILL ends the process. So the process that serves all launchers takes no
//! descriptor of theirs. A child inherits the link, and the parent has no copy any more when the child begins; the child
//! ends by exit, in which a socket does not linger, and is waited for until a deadline.

use ferrovirt_sys::process::{Setup, spawn};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    io,
    os::fd::{OwnedFd, RawFd},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

/// The number of the link in the child.
pub const LINK: RawFd = 3;
/// How long a killed child may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// How a child's time went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has ended by itself.
    Exit(ExitStatus),
    /// It was not ready in time and has been ended.
    Killed,
    /// It was not ready in time and cannot be ended: its slot serves nobody until it has gone.
    Hung,
}

/// A child that serves one launcher.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    pidfd: OwnedFd,
}

impl Worker {
    /// Starts it with the launcher's link, of which this process has no copy afterwards.
    ///
    /// # Errors
    /// What the start of a process says.
    pub fn start(command: Command, link: OwnedFd) -> io::Result<Self> {
        let mut child = spawn(command, Setup { fds: vec![(link, LINK)], ..Setup::default() })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let opened = pid.ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match opened {
            Ok(pidfd) => Ok(Self { child, pidfd }),
            Err(error) => {
                child.kill()?;
                Err(error.into())
            }
        }
    }

    /// Waits for its end, ends it at the deadline, and does not wait for one that does not end then.
    ///
    /// # Errors
    /// What wait4(2) and kill(2) say.
    pub fn wait(&mut self, deadline: Instant) -> io::Result<End> {
        if let Some(status) = self.until(deadline)? {
            return Ok(End::Exit(status));
        }
        self.child.kill()?;
        Ok(if self.until(Instant::now() + GRACE)?.is_some() { End::Killed } else { End::Hung })
    }

    /// Whether one that hung has gone meanwhile.
    ///
    /// # Errors
    /// What wait4(2) says.
    pub fn is_gone(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    fn until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
