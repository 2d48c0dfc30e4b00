//! Copies of this process, for work that must not hold it up.

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getppid, kill_process, pidfd_open, pidfd_send_signal,
        set_parent_process_death_signal, waitpid,
    },
};
use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// That this process has one thread. Anyone who has this starts no other.
#[derive(Debug)]
pub struct OneThread(PhantomData<*const ()>);

impl OneThread {
    /// Looks.
    ///
    /// # Errors
    /// When there are others, and what the kernel says.
    pub fn check() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(PhantomData)),
            others => Err(io::Error::other(format!("this process has {others} threads"))),
        }
    }
}

/// Makes a copy of this process: `None` in the copy. It has copies of all descriptors, close-on-exec or not.
///
/// # Errors
/// What fork(2) and pidfd_open(2) say; then there is no copy.
#[allow(unsafe_code)]
pub fn fork(_one: &OneThread) -> io::Result<Option<Process>> {
    // SAFETY: there is no other thread, so that the copy finds no lock taken and no data half written.
    let made = unsafe { libc::fork() };
    match made {
        0 => Ok(None),
        number if number > 0 => {
            let pid = Pid::from_raw(number).ok_or(Errno::SRCH)?;
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => Ok(Some(Process { pid, pidfd, gone: false })),
                Err(error) => {
                    kill_process(pid, Signal::KILL)?;
                    waitpid(Some(pid), WaitOptions::empty())?;
                    Err(error.into())
                }
            }
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has this process end with its parent, which is this one.
///
/// # Errors
/// When the parent has ended already.
pub fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid() {
        Some(now) if now == parent => Ok(()),
        _ => Err(Errno::SRCH.into()),
    }
}

/// A child of this process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    gone: bool,
}

impl Process {
    /// Has the kernel end it. Fine when it has ended.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) says.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended. Then nothing is left of it.
    pub fn is_gone(&mut self) -> bool {
        self.gone = self.gone
            || matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(Some(_)) | Err(Errno::CHILD));
        self.gone
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What wait4(2) says.
    pub fn wait(&mut self) -> io::Result<()> {
        while !self.gone {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(_) | Err(Errno::CHILD) => self.gone = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Readable when it has ended.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_other_threads_makes_no_copies() {
        // Those of the tests.
        let thread = std::thread::spawn(|| OneThread::check().map(drop));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(OneThread::check().is_err()));
        });
        assert!(thread.join().unwrap().is_err());
    }
}
