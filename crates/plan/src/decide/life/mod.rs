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
//! The shell performs the actions in order. Some of them have an answer; it comes back as an event before anything else
//! does, so that no decision is made from a state that is being changed.

mod conduct;
mod end;
mod service;
#[cfg(test)]
mod tests;

pub use conduct::Wrong;
pub use end::{Outcome, exit_code, may_lack_pages, outcome};

use ferrovirt_qemu::protocol::{self, Ending};
use service::Service;
use std::time::Duration;

/// Delays between tries to start a pod, to read its record and to look for its container: doubled from the first to the
/// last.
pub const FIRST_DELAY: Duration = Duration::from_secs(2);
const LAST_DELAY: Duration = Duration::from_secs(120);

/// What happened. Those of the second half answer an [`Action`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The machine of states was made: the first event of each life.
    Bound,
    /// The pod as the watch has it now.
    Pod {
        /// How far the API says that it got.
        phase: PodPhase,
        /// Its deletion was asked for, with so many seconds of grace.
        deletion: Option<i64>,
        /// Whether it is still what was accepted.
        change: Change,
    },
    /// The pod is gone from the API.
    Gone,
    /// The pod has to go, whatever its guest does.
    Evict,
    /// Somebody asks to stop or to run the vCPUs.
    Switch {
        /// Names the request in its [`Action::Answer`].
        ticket: u64,
        /// Stop, rather than run.
        pause: bool,
    },
    /// Time has passed.
    Tick,
    /// The launcher says something.
    Said(protocol::Event),
    /// The launcher sent what is no message.
    Nonsense(String),
    /// The connection to the launcher is lost.
    Closed,
    /// The container's first process has ended, and everything that it said was passed on.
    Died {
        /// Its exit code, where anybody knows it.
        code: Option<i32>,
    },

    /// Of [`Action::ReadRecord`].
    Record(Record),
    /// Of [`Action::FindContainer`].
    Container(Container),
    /// Of [`Action::Admit`]: there is room.
    Admitted,
    /// Of [`Action::Admit`]: there is none, or the pod is not for this node.
    NotAdmitted {
        /// A word in CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Of [`Action::Start`]: its container runs.
    Started,
    /// Of [`Action::Start`]: the node has too little disk space to start anything.
    ShortOfDisk,
    /// Of [`Action::Start`]: it could not be started, and nothing of it is on the node.
    NotStarted {
        /// A word in CamelCase.
        reason: &'static str,
        /// What to do about it.
        message: String,
        /// What becomes of it.
        then: Then,
    },
    /// Of [`Action::Hold`].
    Held(Hold),
    /// Of [`Action::Hold`].
    NotHeld {
        /// The node lacks memory or descriptors: another try can succeed.
        short: bool,
    },
    /// Of [`Action::AdmitPort`]: whether they know it.
    PortAdmitted(bool),
    /// Of [`Action::Check`].
    Checked(Check),
    /// Of [`Action::Connect`]: whether there is a connection.
    Connected(bool),
    /// Of [`Action::Order`]: whether the order was sent.
    Ordered(bool),
    /// Of [`Action::OpenNetwork`]: whether the descriptors are there.
    Opened(bool),
    /// Of [`Action::Switch`] that could not be sent.
    NotSwitched {
        /// Of the request.
        ticket: u64,
    },
    /// Of [`Action::Shutdown`] that could not be sent.
    NotAsked,
    /// Of [`Action::DeletePod`]: whether the pod is gone.
    Deleted(bool),
}

/// How far the API says that a pod got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// It has not run.
    #[default]
    Pending,
    /// A container of it was started.
    Running,
    /// It has ended.
    Final,
}

impl PodPhase {
    /// From `status.phase`.
    pub fn of(phase: Option<&str>) -> Self {
        match phase {
            Some("Running") => Self::Running,
            Some("Succeeded" | "Failed") => Self::Final,
            _ => Self::Pending,
        }
    }
}

/// Whether a pod of the watch is what was accepted. The watch may know less than the API server, but comes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// There is nothing to compare it with.
    #[default]
    Unknown,
    /// It is.
    Same,
    /// It is not; the sentence says which fields.
    Differs(String),
}

/// What an earlier agent has left of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Nothing.
    None,
    /// The pod ran, and its end is known.
    Ended,
    /// The pod was started.
    Started,
    /// There is something that cannot be read now.
    Unreadable,
}

/// What the container runtime says of a pod's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// It runs.
    Runs,
    /// It does not, or there is none.
    Ended,
    /// The runtime could not say.
    Unknown,
}

/// What becomes of a pod that could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Another try can succeed.
    Again,
    /// No try can succeed without a new pod.
    Wait,
    /// It has ended, as one that a kubelet does not admit.
    Reject,
}

/// A container whose first process is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// It was just started: its launcher has no order yet.
    pub fresh: bool,
    /// Descriptors for the order are at hand.
    pub descriptors: bool,
    /// Its guest was seen to run, and users were told.
    pub ran: bool,
    /// Seconds that its order gives a shutdown.
    pub grace_seconds: u32,
}

/// Whether a pod is, in the API server and not in a cache, still what was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Same {
        /// Its deletion was asked for.
        deleting: bool,
    },
    /// It is not; the sentence says which fields.
    Differs(String),
    /// Nobody knows now.
    Unknown(String),
    /// Something was due before an answer came.
    Interrupted,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read what an earlier agent has left: [`Event::Record`].
    ReadRecord,
    /// Ask the container runtime for the pod's container: [`Event::Container`]. What the pod asks for is the pod's again.
    FindContainer,
    /// Remove what an earlier agent left that was interrupted before the guest could start.
    Sweep,
    /// Give the pod what it asks for of the node: [`Event::Admitted`] or [`Event::NotAdmitted`].
    Admit,
    /// Start the pod: [`Event::Started`], [`Event::ShortOfDisk`] or [`Event::NotStarted`].
    Start,
    /// See to it that bridge and rules know the port of a pod that was taken over: [`Event::PortAdmitted`].
    AdmitPort,
    /// Take hold of the container's process and report that it runs: [`Event::Held`] or [`Event::NotHeld`].
    Hold,
    /// Compare the pod in the API server with what was accepted: [`Event::Checked`].
    Check,
    /// Connect to the launcher: [`Event::Connected`].
    Connect,
    /// Drop the connection, if there is one.
    Disconnect,
    /// Send descriptors and order: [`Event::Ordered`].
    Order,
    /// Open the guest's network again for an order that was not sent: [`Event::Opened`].
    OpenNetwork,
    /// Ask the guest to shut down: [`Event::NotAsked`] where that fails.
    Shutdown {
        /// Seconds; the order's own where there are none.
        grace_seconds: Option<u32>,
    },
    /// Ask the launcher to stop or run the vCPUs: [`Event::NotSwitched`] where that fails.
    Switch {
        /// Of the request.
        ticket: u64,
        /// Stop, rather than run.
        pause: bool,
    },
    /// End the container's first process, and with it everything in the container.
    Kill,
    /// Answer a request.
    Answer {
        /// Of the request.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
    /// The pod is what was started, or is not any more: consoles ask for it.
    Served(bool),
    /// Report on pod and machine what keeps the pod from running.
    Complain {
        /// A word in CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// Report that the pod runs, and is not served any more because it is another one than was started.
    Trouble {
        /// A sentence.
        message: String,
    },
    /// Report that the pod has ended without having run, and give back what it had of the node.
    Reject {
        /// Reason of the machine's condition.
        condition: &'static str,
        /// Reason of the pod's end.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Report that the pod ran, and what was kept of it is lost.
    Lost,
    /// Report the end that the record has.
    ReportEnd,
    /// Report that the guest has vCPUs.
    Runs {
        /// They are stopped by request.
        paused: bool,
    },
    /// Keep in the record that the guest was seen to run.
    RecordRan,
    /// An event on the machine.
    Tell(Notice),
    /// A line in the log: the pod is not connected to its launcher, for this reason.
    Waits(String),
    /// Count, and now and then log, what the launcher did that makes no sense.
    Misbehaves {
        /// What it did.
        what: String,
        /// What follows.
        wrong: Wrong,
    },
    /// Report the machine's and the pod's end and take down what the pod had on the node.
    End {
        /// Exit code of the container's process, where anybody knows it.
        code: Option<i32>,
        /// What the launcher said last.
        end: Option<(Ending, String)>,
        /// It had to go.
        evicted: bool,
    },
    /// Remove the last traces of the pod from the node.
    Leave,
    /// Remove the pod from the API: [`Event::Deleted`].
    DeletePod,
}

/// Answer to a request to stop or run the vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// There is no running guest.
    NotRunning,
    /// The launcher answers none of many requests.
    Silent,
    /// The launcher refused, with this reason.
    Refused(String),
}

/// An event on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// QEMU has the guest.
    Created,
    /// The guest runs.
    Started,
    /// The guest runs again.
    Resumed,
    /// The guest was asked to shut down.
    ShuttingDown,
    /// The launcher sent so much nonsense that nobody listens to it for a while: also an event on the pod.
    Misbehaves,
}

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
    /// Of a pod that was just bound, or that is there when the agent starts.
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
            Stage::Admitting | Stage::Ended | Stage::Over => None,
        }
    }

    /// When the guest is ended at the latest: no answer is waited for beyond that.
    pub fn kill_at(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Serving(service) => service.kill_at(),
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
            (Stage::Serving(_), Event::Died { code }) => self.died(code, out),
            (Stage::Serving(service), event) => {
                service.take(event, self.deletion.is_some(), now, out);
            }
            (_, Event::Switch { ticket, .. }) => {
                out.push(Action::Answer { ticket, answer: Answer::NotRunning });
            }
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
            Stage::Serving(_) | Stage::Admitting | Stage::Ended | Stage::Over => {}
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
            Stage::Admitting | Stage::Starting(_) | Stage::Serving(_) | Stage::Ended | Stage::Over => {}
        }
    }

    fn died(&mut self, code: Option<i32>, out: &mut Vec<Action>) {
        if let Stage::Serving(service) = std::mem::replace(&mut self.stage, Stage::Ended) {
            service.end(code, out);
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
