//! The end of a container's first process.

use super::record::Exit;
use crate::clock;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tokio::io::unix::AsyncFd;

/// A container's first process.
#[derive(Debug)]
pub(super) struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Takes hold of a process. Its number must still be its own: not reaped, or known to the runtime as running.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self(crate::poll::watch(pidfd_open(pid, PidfdFlags::empty())?)?))
    }

    /// Ends it at once, and with it everything in its process namespace.
    pub(super) fn kill(&self) {
        // It may be gone already.
        let _gone = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }

    /// Waits for its end: the exit code, or `None` when an earlier agent started it and nobody can say.
    pub(super) async fn ended(&self) -> Option<i32> {
        if self.0.readable().await.is_err() {
            return None;
        }
        let status =
            waitid(WaitId::PidFd(self.0.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let status = status.ok()??;
        if let Some(code) = status.exit_status() {
            return Some(code);
        }
        status.terminating_signal().map(|signal| 128 + signal)
    }
}

/// An exit from its code.
pub(super) fn exit(code: Option<i32>, message: String) -> Exit {
    // 137 is what a kubelet says of a container whose end it did not see.
    Exit { code: code.unwrap_or(137), message, finished: clock::now() }
}
