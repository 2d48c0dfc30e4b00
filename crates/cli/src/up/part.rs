//! A process that the supervisor starts, and starts again when it ends.

use anyhow::Result;
use ferrovirt_sys::signal::SignalFd;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use std::{
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

/// How long a process may take to end after SIGTERM.
const END: Duration = Duration::from_secs(5);
/// Pause before a process that ended is started again, doubled each time up to the longest one.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that ran as long as this was well: its next pause is the shortest one.
const WELL: Duration = Duration::from_secs(10);

/// Waits for any of these, at the latest until the timeout is over.
pub(super) fn poll_for(all: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<()> {
    let timeout = timeout.map(Timespec::try_from).transpose()?;
    match poll(all, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A process that is started again when it ends.
pub(super) struct Part {
    name: &'static str,
    child: Option<Child>,
    /// It was started at least once.
    known: bool,
    since: Instant,
    /// When it is to be started.
    pub(super) again: Option<Instant>,
    pause: Duration,
}

impl Part {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, child: None, known: false, since: Instant::now(), again: None, pause: PAUSE }
    }

    pub(super) fn started(&mut self, child: Child) {
        self.child = Some(child);
        self.known = true;
        self.since = Instant::now();
        self.again = None;
    }

    /// How it ended, if it did since the last call; then its next start is planned.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() else {
            return Ok(None);
        };
        self.child = None;
        if self.since.elapsed() >= WELL {
            self.pause = PAUSE;
        }
        self.plan();
        Ok(Some(status))
    }

    fn plan(&mut self) {
        self.again = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// What a start gave. One that fails is tried again like one that ends: processes, memory or a program that is being
    /// replaced are missing for a moment.
    ///
    /// # Errors
    /// When it never started at all: that does not mend itself.
    pub(super) fn again_unless<T>(&mut self, started: Result<T>) -> Result<Option<T>> {
        match started {
            Err(error) if self.known => {
                self.later(&error);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Plans another try after a start that failed.
    pub(super) fn later(&mut self, error: &anyhow::Error) {
        self.plan();
        let pause = self.pause_left();
        tracing::warn!("the {} cannot be started: {error:#}; trying again in {pause} ms", self.name);
    }

    /// Milliseconds until it is started again.
    fn pause_left(&self) -> u128 {
        let pause = self.again.map(|again| again.saturating_duration_since(Instant::now()));
        pause.unwrap_or_default().as_millis()
    }

    /// Tells people about an end after which it is started again.
    pub(super) fn tell(&self, status: ExitStatus) {
        let pause = self.pause_left();
        tracing::warn!("the {} ended ({status}); starting it again in {pause} ms", self.name);
    }

    pub(super) fn due(&self) -> bool {
        self.again.is_some_and(|again| again <= Instant::now())
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It may be gone already; a child that was not waited for keeps its number.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Asks it to end, and ends it when it does not.
    pub(super) fn end(&mut self, signals: &SignalFd) -> Result<()> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + END;
        while let Some(child) = &mut self.child {
            if child.try_wait()?.is_some() {
                self.child = None;
            } else if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                self.child = None;
            } else {
                let left = deadline.saturating_duration_since(Instant::now());
                poll_for(&mut [PollFd::new(signals, PollFlags::IN)], Some(left))?;
                while signals.read()?.is_some() {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::process::Command;

    #[test]
    fn a_start_that_fails_later_is_tried_again_after_ever_longer_pauses() {
        let mut part = Part::new("part");
        let fail = || -> Result<()> { bail!("no memory") };
        assert!(part.again_unless(fail()).is_err(), "the first one says at once what is wrong");
        part.started(Command::new("/bin/true").spawn().unwrap());
        part.end(&SignalFd::new(&[Signal::CHILD]).unwrap()).unwrap();
        let mut planned = Vec::new();
        for _ in 0..3 {
            assert!(matches!(part.again_unless(fail()), Ok(None)));
            planned.push((part.again.is_some(), part.pause));
        }
        assert_eq!(planned, [(true, PAUSE * 2), (true, PAUSE * 4), (true, PAUSE * 8)]);
        part.started(Command::new("/bin/true").spawn().unwrap());
        assert!(part.again.is_none(), "it runs");
        part.end(&SignalFd::new(&[Signal::CHILD]).unwrap()).unwrap();
    }
}
