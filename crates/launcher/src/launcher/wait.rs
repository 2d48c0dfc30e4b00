//! What the loop waits for.

use super::Launcher;
use ferrovirt_qemu::guest::Guest;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Instant,
};

/// What a ready descriptor belongs to.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Signals,
    Listener,
    Agent(u64),
    Qmp,
    Stderr,
    SerialListener,
    SerialGuest,
    SerialClient,
    Dhcp(usize),
}

impl Launcher {
    /// Waits for the next things to do.
    pub(super) fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut watched = Watched { sources: Vec::new(), fds: Vec::new() };
        watched.add(Source::Signals, self.signals.as_fd(), true, false);
        if let Some(listener) = self.agents.listener() {
            watched.add(Source::Listener, listener, true, false);
        }
        for (id, fd) in self.agents.connections() {
            watched.add(Source::Agent(id), fd, true, false);
        }
        if let Some(qemu) = &self.qemu {
            if let Some((fd, write)) = qemu.qmp() {
                watched.add(Source::Qmp, fd, true, write);
            }
            if let Some(fd) = qemu.stderr() {
                watched.add(Source::Stderr, fd, true, false);
            }
        }
        if let Some(serial) = &self.serial {
            watched.add(Source::SerialListener, serial.listener(), true, false);
            if let Some((fd, write)) = serial.guest() {
                watched.add(Source::SerialGuest, fd, true, write);
            }
            if let Some((fd, read, write)) = serial.client() {
                watched.add(Source::SerialClient, fd, read, write);
            }
        }
        for (index, server) in self.dhcp.iter().enumerate() {
            watched.add(Source::Dhcp(index), server.socket(), true, false);
        }
        let guest = self.guest.as_ref().and_then(Guest::deadline);
        let guest = guest.map(|deadline| deadline.saturating_sub(self.now()));
        let link = self.agents.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = guest.into_iter().chain(link).min().map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut watched.fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = watched.sources.iter().zip(&watched.fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, fd)| (*source, fd.revents())).collect())
    }
}

/// Descriptors to wait for, and what each belongs to.
struct Watched<'a> {
    sources: Vec<Source>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> Watched<'a> {
    fn add(&mut self, source: Source, fd: BorrowedFd<'a>, read: bool, write: bool) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, read);
        flags.set(PollFlags::OUT, write);
        self.sources.push(source);
        self.fds.push(PollFd::from_borrowed_fd(fd, flags));
    }
}
