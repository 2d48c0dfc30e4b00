//! The life of a launcher pod on its node, from binding to its last trace: a pure state machine. What the node finds, what
//! the launcher says, what people ask for and the time go in; what is to be done comes out.
//!
//! ```text
//!   Reading ──── there is no record ────► Admitting ─ it fits ─► Starting ─┐ failed: again after a pause
//!      │ there is one                         │ no              │  │  ▲    │
//!      ▼                                      │         started │  │  └────┘
//!   Looking ─ its container runs ─► Holding ◄─┼─────────────────┘  │ never, or deleted
//!      │                               │      │                    │
//!      │ it does not           Serving ◄ held │                    │
//!      │                               │ its process has ended     │
//!      └───────────────► Ended ◄───────┴──────┴────────────────────┘
//!                          │ the pod is deleted, or gone
//!                          ▼
//!                       Leaving ─ the pod is gone from the API ─► Over
//!
//!   While it is served, the connection to its launcher:
//!
//!   Closed ─ due ─► Checking ─ the pod is as accepted ─► Connecting ─► Open ─ waits for its order ─► Open, checking
//!     ▲                │ no, or nobody knows                │ no         │ lost, or nonsense              │ no
//!     └────────────────┴────────────────────────────────────┴────────────┴────────────────────────────────┘
//! ```
//!
//! A pod that asks for a place is served elsewhere: for its node it is an ordinary one. `Held` leads it to Running instead of
//! Serving, where nothing is said to its container but to end.
//!
//! The shell performs the actions in order. Some of them have an answer; it comes back as an event before anything else
//! does, so that no decision is made from a state that is being changed.

mod action;
pub(in crate::decide) mod conduct;
mod end;
mod event;
mod running;
mod service;
pub(in crate::decide) mod switches;
#[cfg(test)]
mod tests;

pub use action::{Action, Answer, Notice};
pub use conduct::Wrong;
pub use end::{Outcome, exit_code, may_lack_pages, outcome};
pub use event::{Change, Check, Container, Event, Hold, PodPhase, Record, Then};

use running::Running;
use service::Service;
use std::time::Duration;

/// Delays between tries to start a pod, to read its record and to look for its container: doubled from the first to the
/// last.
pub const FIRST_DELAY: Duration = Duration::from_secs(2);
const LAST_DELAY: Duration = Duration::from_secs(120);

/// The life of one pod on its node. Times are those of one steady clock, from any zero.
#[derive(Debug)]
pub struct Life {
    phase: PodPhase,
    deletion: Option<i64>,
    gone: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Reading(Retry),
    Looking(Retry),
    Admitting,
    Starting(Retry),
    Holding { retry_at: Option<Duration> },
    Serving(Box<Service>),
    Running(Running),
    Ended,
    Leaving { retry_at: Option<Duration> },
    Over,
}

/// When to try again, if by time at all, and the delay after that.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Option<Duration>,
    delay: Duration,
}

impl Retry {
    const NOW: Self = Self { at: None, delay: FIRST_DELAY };

    fn after(self, now: Duration) -> Self {
        let delay = self.delay.saturating_mul(2).min(LAST_DELAY);
        Self { at: Some(now.saturating_add(self.delay)), delay }
    }
}

/// The next state, and what is to be done now.
pub fn step(mut life: Life, event: Event, now: Duration) -> (Life, Vec<Action>) {
    let mut actions = Vec::new();
    life.take(event, now, &mut actions);
    life.steer(now, &mut actions);
    (life, actions)
}

impl Life {
    /// Of a pod that was just bound, or that is there when the agent starts. `deletion` as in [`Event::Pod`].
    pub fn new(phase: PodPhase, deletion: Option<i64>) -> Self {
        Self { phase, deletion, gone: false, stage: Stage::Reading(Retry::NOW) }
    }

    /// Nothing is left to do.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// When [`Event::Tick`] is to come at the latest.
    pub fn wake(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Reading(retry) | Stage::Looking(retry) | Stage::Starting(retry) => retry.at,
            Stage::Holding { retry_at } | Stage::Leaving { retry_at } => *retry_at,
            Stage::Serving(service) => service.wake(),
            Stage::Running(running) => running.wake(),
            Stage::Admitting | Stage::Ended | Stage::Over => None,
        }
    }

    /// When the guest is ended at the latest: no answer is waited for beyond that.
    pub fn kill_at(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Serving(service) => service.kill_at(),
            Stage::Running(running) => running.kill_at(),
            _ => None,
        }
    }

    fn is_leaving(&self) -> bool {
        self.gone || self.deletion.is_some()
    }

    fn take(&mut self, event: Event, now: Duration, out: &mut Vec<Action>) {
        match (&mut self.stage, event) {
            (_, Event::Pod { phase, deletion, change }) => {
                self.phase = phase;
                self.deletion = deletion;
                if let Stage::Serving(service) = &mut self.stage {
                    service.compared(change, now, out);
                }
            }
            (_, Event::Gone) => self.lost_from_api(out),
            (Stage::Serving(_) | Stage::Running(_), Event::Died { code }) => self.died(code, out),
            (Stage::Serving(service), event) => {
                service.take(event, self.deletion.is_some(), now, out);
            }
            (_, Event::Switch { ticket, .. }) => {
                out.push(Action::Answer { ticket, answer: Answer::NotRunning });
            }
            (Stage::Running(running), event) => running.take(&event, now, out),
            (_, Event::Tick) => self.tick(now, out),
            (Stage::Reading(_), Event::Bound) => out.push(Action::ReadRecord),
            (Stage::Reading(_), Event::Record(record)) => self.recorded(record, now, out),
            (Stage::Looking(retry), Event::Container(Container::Unknown)) => *retry = retry.after(now),
            (Stage::Looking(_), Event::Container(Container::Runs)) => {
                self.stage = Stage::Holding { retry_at: None };
                out.push(Action::Hold);
            }
            (Stage::Looking(_), Event::Container(Container::Ended)) => self.ended(out),
            (Stage::Admitting, Event::Admitted) => {
                self.stage = Stage::Starting(Retry::NOW);
                self.start(out);
            }
            (Stage::Admitting, Event::NotAdmitted { reason, message }) => {
                self.stage = Stage::Ended;
                out.push(Action::Reject { condition: "PodRejected", reason, message });
            }
            (Stage::Starting(_), event) => self.starting(event, now, out),
            (Stage::Holding { .. }, Event::Held(hold)) => {
                self.stage = Stage::Serving(Box::new(Service::new(hold, now)));
            }
            (Stage::Holding { .. }, Event::Runs { fresh }) => {
                self.stage = Stage::Running(Running::new(fresh, now));
            }
            (Stage::Holding { retry_at }, Event::NotHeld { short }) => {
                if short && !self.gone {
                    // Of a moment's lack of descriptors or memory no guest ends.
                    *retry_at = Some(now.saturating_add(FIRST_DELAY));
                } else {
                    self.ended(out);
                }
            }
            (Stage::Leaving { retry_at }, Event::Deleted(gone)) => {
                *retry_at = Some(now.saturating_add(FIRST_DELAY));
                if gone {
                    self.stage = Stage::Over;
                }
            }
            // What has no container holds nothing that could be evicted; and no answer comes late.
            _ => {}
        }
    }

    /// What follows from the state alone, whatever led to it.
    fn steer(&mut self, now: Duration, out: &mut Vec<Action>) {
        if matches!(self.stage, Stage::Starting(_)) && self.is_leaving() {
            self.stage = Stage::Ended;
        }
        let (leaving, deletion) = (self.is_leaving(), self.deletion);
        match &mut self.stage {
            Stage::Serving(service) => {
                service.connect(now, out);
                service.admit_port(now, out);
                match deletion {
                    _ if self.gone => out.push(Action::Kill),
                    Some(grace) => service.stop(grace, now, out),
                    None => {}
                }
            }
            Stage::Running(running) => {
                running.admit_port(now, out);
                match deletion {
                    _ if self.gone => out.push(Action::Kill),
                    Some(grace) => running.stop(grace, now, out),
                    None => {}
                }
            }
            Stage::Ended if leaving => {
                out.push(Action::Leave);
                if self.gone {
                    self.stage = Stage::Over;
                } else {
                    self.stage = Stage::Leaving { retry_at: None };
                    out.push(Action::DeletePod);
                }
            }
            _ => {}
        }
    }

    fn recorded(&mut self, record: Record, now: Duration, out: &mut Vec<Action>) {
        let Stage::Reading(retry) = &mut self.stage else { return };
        match record {
            Record::None => self.absent(out),
            Record::Ended => {
                self.stage = Stage::Ended;
                out.push(Action::ReportEnd);
            }
            Record::Started => {
                self.stage = Stage::Looking(Retry::NOW);
                out.push(Action::FindContainer);
            }
            // A moment's lack of memory must not end a guest.
            Record::Unreadable => *retry = retry.after(now),
        }
    }

    /// No earlier agent has started the pod, or nothing is known of it.
    fn absent(&mut self, out: &mut Vec<Action>) {
        self.stage = Stage::Ended;
        match self.phase {
            PodPhase::Final => {}
            PodPhase::Running => out.extend([Action::Sweep, Action::Lost]),
            PodPhase::Pending => {
                self.stage = Stage::Admitting;
                out.extend([Action::Sweep, Action::Admit]);
            }
        }
    }

    fn start(&self, out: &mut Vec<Action>) {
        if !self.is_leaving() {
            out.push(Action::Start);
        }
    }

    fn starting(&mut self, event: Event, now: Duration, out: &mut Vec<Action>) {
        let Stage::Starting(retry) = &mut self.stage else { return };
        match event {
            Event::Started => {
                self.stage = Stage::Holding { retry_at: None };
                out.push(Action::Hold);
            }
            Event::ShortOfDisk => {
                // A pod that is bound waits for space: its failure would end its machine for good.
                retry.at = Some(now.saturating_add(FIRST_DELAY));
                let message = SHORT_OF_DISK.to_owned();
                out.push(Action::Complain { reason: "NodeHasDiskPressure", message });
            }
            Event::NotStarted { reason, message, then: Then::Reject } => {
                self.stage = Stage::Ended;
                out.push(Action::Reject { condition: reason, reason: reason.to_owned(), message });
            }
            Event::NotStarted { reason, message, then } => {
                *retry = retry.after(now);
                if then == Then::Wait {
                    retry.at = None;
                }
                out.push(Action::Complain { reason, message });
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.wake().is_none_or(|at| at > now) {
            return;
        }
        match &mut self.stage {
            Stage::Reading(retry) => {
                retry.at = None;
                out.push(Action::ReadRecord);
            }
            Stage::Looking(retry) => {
                retry.at = None;
                out.push(Action::FindContainer);
            }
            Stage::Starting(retry) => {
                retry.at = None;
                self.start(out);
            }
            Stage::Holding { retry_at } => {
                *retry_at = None;
                out.push(Action::Hold);
            }
            Stage::Leaving { retry_at } => {
                *retry_at = None;
                out.push(Action::DeletePod);
            }
            Stage::Serving(_) | Stage::Running(_) | Stage::Admitting | Stage::Ended | Stage::Over => {}
        }
    }

    fn lost_from_api(&mut self, out: &mut Vec<Action>) {
        self.gone = true;
        match &mut self.stage {
            Stage::Reading(_) => self.absent(out),
            Stage::Looking(_) => self.stage = Stage::Ended,
            Stage::Holding { retry_at } => {
                *retry_at = None;
                out.push(Action::Hold);
            }
            Stage::Leaving { .. } => self.stage = Stage::Over,
            Stage::Admitting
            | Stage::Starting(_)
            | Stage::Serving(_)
            | Stage::Running(_)
            | Stage::Ended
            | Stage::Over => {}
        }
    }

    fn died(&mut self, code: Option<i32>, out: &mut Vec<Action>) {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Serving(service) => service.end(code, out),
            Stage::Running(running) => running.end(code, out),
            _ => {}
        }
    }

    /// The container has ended while nobody held its process.
    fn ended(&mut self, out: &mut Vec<Action>) {
        self.stage = Stage::Ended;
        out.push(Action::End { code: None, end: None, evicted: false });
    }
}

const SHORT_OF_DISK: &str = "the node is short of disk space and starts no machine: this one waits until space is free; \
                             remove machines or files from the node, or delete this machine to have it run elsewhere";
