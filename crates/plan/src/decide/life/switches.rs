//! Requests to stop or to run a guest's vCPUs. A launcher answers them by what it says next.

use super::Answer;
use std::collections::VecDeque;

/// Most requests that wait for the launcher's answer, which may never come.
pub(in crate::decide) const MOST_SWITCHES: usize = 64;

/// Those that wait.
#[derive(Debug, Default)]
pub(in crate::decide) struct Switches {
    /// Ticket, and whether the vCPUs are to stop.
    waiting: VecDeque<(u64, bool)>,
    /// Requests that nobody waits for any more and that the launcher may still refuse; at most [`MOST_SWITCHES`].
    late: usize,
}

/// Whose request a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::decide) enum Refused {
    /// This one's.
    Of(u64),
    /// One's who has had an answer, or has gone.
    Late,
    /// Nobody's.
    Nobodys,
}

impl Switches {
    /// One more; its answer, where it is not to be sent. `reached`: there are vCPUs, and a connection to their launcher.
    pub(in crate::decide) fn ask(&mut self, ticket: u64, pause: bool, reached: bool) -> Option<Answer> {
        if self.waiting.len() >= MOST_SWITCHES {
            Some(Answer::Silent)
        } else if reached {
            self.waiting.push_back((ticket, pause));
            None
        } else {
            Some(Answer::NotRunning)
        }
    }

    /// The vCPUs have stopped, or run again: whose requests those were. All that want the same have it; the launcher says so
    /// once, or refuses the later ones.
    pub(in crate::decide) fn done(&mut self, paused: bool) -> impl Iterator<Item = u64> + use<> {
        let all = std::mem::take(&mut self.waiting);
        let (done, rest): (VecDeque<_>, _) = all.into_iter().partition(|(_, pause)| *pause == paused);
        self.waiting = rest;
        self.late = (self.late + done.len()).saturating_sub(1).min(MOST_SWITCHES);
        done.into_iter().map(|(ticket, _)| ticket)
    }

    /// The launcher refuses something: the oldest request.
    pub(in crate::decide) fn refused(&mut self) -> Refused {
        if let Some((ticket, _)) = self.waiting.pop_front() {
            return Refused::Of(ticket);
        }
        if self.late == 0 {
            return Refused::Nobodys;
        }
        self.late -= 1;
        Refused::Late
    }

    /// It was not sent.
    pub(in crate::decide) fn forget(&mut self, ticket: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
    }

    /// It was sent, and nobody waits for its answer any more: it is not to have another's.
    pub(in crate::decide) fn leave(&mut self, ticket: u64) {
        let before = self.waiting.len();
        self.forget(ticket);
        self.late = (self.late + before - self.waiting.len()).min(MOST_SWITCHES);
    }

    /// Nobody will answer them.
    pub(in crate::decide) fn take(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(self).waiting.into_iter().map(|(ticket, _)| ticket)
    }
}
