//! Signals as something to poll.

use rustix::process::Signal;
use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Signals that are blocked for this process's threads and read from a descriptor instead.
///
/// Make it before any other thread is started, so that every thread inherits the mask. Programs started through
/// [`crate::process::spawn`] get an empty mask.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks the signals and opens a close-on-exec, non-blocking descriptor for them.
    ///
    /// # Errors
    /// What pthread_sigmask(3) and signalfd(2) say.
    #[allow(unsafe_code)]
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is a valid place; sigemptyset initializes it before anything else reads it.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            set.assume_init()
        };
        // SAFETY: `set` is initialized and the old mask is not asked for.
        let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: -1 asks for a new descriptor; `set` is initialized.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal's number, `None` when there is none now. Several pending signals of one kind are one:
    /// after SIGCHLD reap until nothing is left.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn read(&self) -> io::Result<Option<i32>> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut info[..]) {
            // ssi_signo is the first field, 32 bits.
            Ok(n) if n == info.len() => Ok(info.first_chunk::<4>().map(|number| i32::from_ne_bytes(*number))),
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn a_signal_of_this_thread_arrives_as_data() {
        // A thread of its own: the mask is per thread, and the signal is sent to the process's thread that blocks it.
        std::thread::spawn(|| {
            let signals = SignalFd::new(&[Signal::USR2]).unwrap();
            assert_eq!(signals.read().unwrap(), None);
            raise_here(Signal::USR2);
            let mut wait = [PollFd::new(&signals, PollFlags::IN)];
            poll(&mut wait, None).unwrap();
            assert_eq!(signals.read().unwrap(), Some(Signal::USR2.as_raw()));
            assert_eq!(signals.read().unwrap(), None);
        })
        .join()
        .unwrap();
    }

    #[allow(unsafe_code)]
    fn raise_here(signal: Signal) {
        // SAFETY: raise(3) takes a number; the signal is blocked in this thread.
        unsafe { libc::raise(signal.as_raw()) };
    }
}
