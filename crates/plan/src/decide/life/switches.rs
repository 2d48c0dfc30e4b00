//! Requests to stop or to run a guest's vCPUs. A launcher answers them by what it says next.

use super::Answer;
use std::collections::VecDeque;

/// Most requests that wait for the launcher's answer, which may never come.
pub(in crate::decide) const MOST_SWITCHES: usize = 64;

/// Those that wait: ticket, and whether the vCPUs are to stop.
#[derive(Debug, Default)]
pub(in crate::decide) struct Switches(VecDeque<(u64, bool)>);

impl Switches {
    /// One more; its answer, where it is not to be sent. `reached`: there are vCPUs, and a connection to their launcher.
    pub(in crate::decide) fn ask(&mut self, ticket: u64, pause: bool, reached: bool) -> Option<Answer> {
        if self.0.len() >= MOST_SWITCHES {
            Some(Answer::Silent)
        } else if reached {
            self.0.push_back((ticket, pause));
            None
        } else {
            Some(Answer::NotRunning)
        }
    }

    /// The vCPUs have stopped, or run again: whose request that was.
    pub(in crate::decide) fn done(&mut self, paused: bool) -> Option<u64> {
        let at = self.0.iter().position(|(_, pause)| *pause == paused)?;
        self.0.remove(at).map(|(ticket, _)| ticket)
    }

    /// The launcher refuses something: the oldest request.
    pub(in crate::decide) fn refused(&mut self) -> Option<u64> {
        self.0.pop_front().map(|(ticket, _)| ticket)
    }

    /// It was not sent.
    pub(in crate::decide) fn forget(&mut self, ticket: u64) {
        self.0.retain(|(waiting, _)| *waiting != ticket);
    }

    /// Nobody will answer them.
    pub(in crate::decide) fn take(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(ticket, _)| ticket)
    }
}
