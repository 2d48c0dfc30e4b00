//! What becomes of a place on a node of a cluster, from the pod that holds it: a pure state machine. What the part `net` and
//! the launcher say, what the API server says of the pod, and the time go in; what is to be done comes out.
//!
//! ```text
//!   Idle ── a launcher has connected and said its first word ──► Checking ─ nobody knows ─► Paused ─ due, or changed ─► Checking
//!    ▲                                                           │  │  ▲
//!    │ the link ends, whatever the stage is                      │  │  └──────────────┬─────────────────────┐
//!    │                                                           │  │                 │ the network is made │ not ready
//!    │                     it waits, its network is not made ◄───┤  │                 │                     │
//!    │                                   │                       │  └─ it waits, and ─┼─► Ordered ──────────┘
//!    │                                   └──► Networking ────────┼────────────────────┘      │ it begins
//!    │                                                           │                           ▼
//!    │                                                           └─ it has its order ────► Serving
//!    │                                              is not as rendered │                     │ is not any more
//!    └──────────────────────────────── Parted ◄────────────────────────┴─────────────────────┘
//! ```
//!
//! The pod is compared with what the controller renders at the first word of each connection, before its network is asked
//! for, and before the order; and a pod that changes later is parted with. A launcher begins with one order in its life: one
//! that says that it waits after it has begun, or after its machine was reported as running, gets none.
//!
//! The shell performs the actions in order. [`Action::Check`] and [`Action::Order`] have an answer, which comes back as an
//! event before anything else does.

mod action;
mod asks;
mod event;
#[cfg(test)]
mod tests;

pub use super::life::{Answer, Notice, Wrong};
use super::life::{
    conduct::{self, Conduct},
    switches::Refused,
};
pub use crate::decide::accept::Step;
pub use action::{Action, NO_NETWORK, NOT_AS_RENDERED, NOT_READY};
pub use asks::Ask;
use asks::Asks;
pub use event::{Check, Event, Network};
use ferrovirt_qemu::protocol::{self, State};
use std::time::Duration;

/// Delays between two looks at the API server's pod, doubled from the first to the last.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);
/// The same between tries that cost others something: a network that was refused, disks that were not ready.
const FIRST_AGAIN: Duration = Duration::from_secs(2);
const LAST_AGAIN: Duration = Duration::from_secs(120);

const NOT_ORDERED: &str = "CreateContainerConfigError";

const ONLY_IPV6: &str = "the pod has IPv6 addresses alone, which a machine's network is not made for yet: give the cluster's \
                         pods IPv4 addresses, too";

/// Where a place is. Those with a connection have its number in [`Place::link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No launcher, or one that has said nothing yet.
    Idle,
    /// The pod is being compared.
    Checking,
    /// Until then; `hint`: or until the pod changes.
    Paused { at: Duration, hint: bool },
    /// The network is being made.
    Networking,
    /// The order is out, and its launcher has not begun.
    Ordered,
    /// The launcher has its order.
    Serving,
    /// Nothing is done for the pod until it changes, or connects again.
    Parted,
}

/// A place that a pod holds. Times are those of one steady clock, from any zero.
#[derive(Debug)]
pub struct Place {
    stage: Stage,
    link: Option<u64>,
    /// What the launcher said last on this connection.
    word: Option<State>,
    /// What it had said last when it was listened to.
    guest: State,
    network: bool,
    /// The launcher was seen to begin, or its machine was.
    begun: bool,
    /// Users were informed that the guest runs.
    informed: bool,
    /// What the launcher has refused while its network was being made.
    refusal: Option<String>,
    /// The last connection was closed by the launcher.
    left: bool,
    /// The launcher is not listened to until then.
    closed_until: Option<Duration>,
    /// The last look, the next one, and the delay after that.
    looked: Duration,
    look: (Duration, Duration),
    /// The delay after the next refusal of a network or of disks.
    again: Duration,
    troubled: bool,
    over: bool,
    conduct: Conduct,
    asks: Asks,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            stage: Stage::Idle,
            link: None,
            word: None,
            guest: State::Waiting,
            network: false,
            begun: false,
            informed: false,
            refusal: None,
            left: false,
            closed_until: None,
            looked: Duration::ZERO,
            look: (Duration::ZERO, FIRST),
            again: FIRST_AGAIN,
            troubled: false,
            over: false,
            conduct: Conduct::default(),
            asks: Asks::default(),
        }
    }
}

/// The next state, and what is to be done now.
pub fn step(mut place: Place, event: Event, now: Duration) -> (Place, Vec<Action>) {
    let mut actions = Vec::new();
    place.take(event, now, &mut actions);
    place.begin(now, &mut actions);
    (place, actions)
}

impl Place {
    /// When [`Event::Tick`] is to come at the latest.
    pub fn wake(&self) -> Option<Duration> {
        let word = self.link.and(self.word.as_ref());
        match self.stage {
            Stage::Paused { at, .. } => Some(at),
            Stage::Idle if word.is_some() => Some(self.due()),
            _ => None,
        }
    }

    fn due(&self) -> Duration {
        self.closed_until.map_or(self.look.0, |until| until.max(self.look.0))
    }

    fn take(&mut self, event: Event, now: Duration, out: &mut Vec<Action>) {
        match event {
            Event::Linked(link) => self.linked(link, now, out),
            Event::Ended { link, left } if self.link == Some(link) => {
                self.left = left;
                self.unlink(out);
            }
            Event::Lost => {
                self.left = false;
                self.unlink(out);
            }
            Event::Ask { ticket, ask } => self.ask(ticket, ask, out),
            Event::Left { ticket } => self.asks.leave(ticket),
            Event::Said(link, said) if self.link == Some(link) => self.said(said, now, out),
            Event::Nonsense(link, what) if self.link == Some(link) => self.wrong(what, now, out),
            Event::Made => {
                self.network = true;
                if self.stage == Stage::Networking {
                    self.check(now, out);
                }
            }
            Event::NotMade(why) if self.stage == Stage::Networking => {
                let why = match self.refusal.take() {
                    Some(launcher) => format!("{why}; the launcher says: {launcher}"),
                    None => why,
                };
                self.refused(NO_NETWORK, why, now, out);
            }
            Event::Pod(change) => self.changed(change, now, out),
            Event::Tick if matches!(self.stage, Stage::Paused { at, .. } if at <= now) => {
                self.check(now, out)
            }
            Event::Checked(check) if self.stage == Stage::Checking => self.checked(check, now, out),
            Event::NotOrdered(why) if self.stage == Stage::Ordered => {
                self.refused(NOT_ORDERED, why, now, out);
            }
            // Of a connection that is over, or of a question that nobody waits for.
            _ => {}
        }
    }

    /// Looks at the pod once its launcher has said something and may be listened to.
    fn begin(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.stage == Stage::Idle && self.link.is_some() && self.word.is_some() && self.due() <= now {
            self.check(now, out);
        }
    }

    fn linked(&mut self, link: u64, now: Duration, out: &mut Vec<Action>) {
        self.unlink(out);
        self.link = Some(link);
        // It lives, so that it was no end that closed the last one.
        if std::mem::take(&mut self.left) {
            self.wrong("it closes its connection and makes another one".to_owned(), now, out);
        }
    }

    fn unlink(&mut self, out: &mut Vec<Action>) {
        out.extend(self.asks.take().map(|ticket| Action::Answer { ticket, answer: Answer::NotRunning }));
        self.link = None;
        self.word = None;
        self.stage = Stage::Idle;
    }

    /// Only what is about to be done for a launcher without an order is refused to a pod that is being deleted.
    fn check(&mut self, now: Duration, out: &mut Vec<Action>) {
        let delay = self.look.1;
        self.looked = now;
        self.look = (now.saturating_add(delay), delay.saturating_mul(2).min(LAST));
        self.stage = Stage::Checking;
        let waits = matches!(self.word, None | Some(State::Waiting));
        out.push(Action::Check(if waits { Step::Start } else { Step::Serve }));
    }

    fn checked(&mut self, check: Check, now: Duration, out: &mut Vec<Action>) {
        let (network, ran) = match check {
            Check::Same { network, ran } => {
                self.informed |= ran;
                (network, ran)
            }
            Check::Differs(message) => return self.part(NOT_AS_RENDERED, message, out),
            Check::Unfit(reason, message) => return self.part(reason, message, out),
            Check::Unknown(why) => {
                out.push(Action::Waits(why));
                return self.stage = Stage::Paused { at: self.look.0, hint: true };
            }
        };
        let Some(link) = self.link else { return self.stage = Stage::Idle };
        match self.word.clone() {
            None | Some(State::Waiting) if self.begun || ran => {
                self.begun = true;
                self.stage = Stage::Parted;
                self.wrong("it says that it has no order after it had one".to_owned(), now, out);
            }
            None | Some(State::Waiting) => self.go_on(link, network, now, out),
            Some(state) => {
                self.stage = Stage::Serving;
                self.state(state, now, out);
            }
        }
    }

    /// The next step for a launcher that waits for its order.
    fn go_on(&mut self, link: u64, network: Network, now: Duration, out: &mut Vec<Action>) {
        match network {
            Network::None => self.order(link, out),
            _ if self.network => self.order(link, out),
            Network::Ready => {
                self.stage = Stage::Networking;
                self.refusal = None;
                out.push(Action::Prepare(link));
            }
            Network::NoAddress => {
                out.push(Action::Waits("the kubelet has not reported the pod's address".to_owned()));
                self.stage = Stage::Paused { at: self.look.0, hint: true };
            }
            Network::OnlyIpv6 => self.refused(NO_NETWORK, ONLY_IPV6.to_owned(), now, out),
        }
    }

    fn order(&mut self, link: u64, out: &mut Vec<Action>) {
        self.stage = Stage::Ordered;
        out.push(Action::Order(link));
    }

    /// Something may be possible later.
    fn refused(&mut self, reason: &'static str, message: String, now: Duration, out: &mut Vec<Action>) {
        self.trouble(reason, message, out);
        self.stage = Stage::Paused { at: now.saturating_add(self.again), hint: false };
        self.again = self.again.saturating_mul(2).min(LAST_AGAIN);
    }

    /// Ends the service to a pod.
    fn part(&mut self, reason: &'static str, message: String, out: &mut Vec<Action>) {
        self.trouble(reason, message, out);
        self.stage = Stage::Parted;
        out.extend(self.link.map(Action::End));
    }

    fn trouble(&mut self, reason: &'static str, message: String, out: &mut Vec<Action>) {
        self.troubled = true;
        out.push(Action::Trouble { reason, message });
    }

    fn well(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.troubled) {
            out.push(Action::Well);
        }
    }

    fn changed(&mut self, change: Option<String>, now: Duration, out: &mut Vec<Action>) {
        match (change, self.stage) {
            (Some(message), Stage::Networking | Stage::Ordered | Stage::Serving | Stage::Paused { .. }) => {
                self.part(NOT_AS_RENDERED, message, out);
            }
            // What was waited for may be there. Anyone who changes the pod all the time is not followed.
            (None, Stage::Paused { at, hint: true }) => {
                let at = at.min(self.looked.saturating_add(FIRST));
                self.stage = Stage::Paused { at, hint: true };
                if at <= now {
                    self.check(now, out);
                }
            }
            _ => {}
        }
    }

    fn said(&mut self, said: protocol::Event, now: Duration, out: &mut Vec<Action>) {
        let what = match said {
            protocol::Event::State { state, .. } => return self.heard(state, now, out),
            // What it said last to a part that has gone. Every link begins with a state, and nobody else asks for one.
            _ if self.word.is_none() => return out.extend(self.link.map(Action::End)),
            protocol::Event::Refused { message, console } => return self.refuses(message, console, now, out),
            protocol::Event::NotReady { message } if self.stage == Stage::Ordered => {
                return self.refused(NOT_READY, message, now, out);
            }
            protocol::Event::NotReady { message } => {
                format!("it is not ready for what nobody asked for: {message}")
            }
            protocol::Event::Network => "it sends what nobody asked for".to_owned(),
        };
        self.wrong(what, now, out);
    }

    fn refuses(&mut self, message: String, console: Option<String>, now: Duration, out: &mut Vec<Action>) {
        match self.asks.refused(console.as_deref()) {
            Refused::Of(ticket) => {
                let answer = Answer::Refused(message);
                return out.push(Action::Answer { ticket, answer });
            }
            Refused::Late => return,
            Refused::Nobodys => {}
        }
        match self.stage {
            Stage::Ordered => self.refused(NOT_ORDERED, message, now, out),
            // That the network is not made says the part `net`.
            Stage::Networking => self.refusal = Some(message),
            _ => self.wrong(format!("it refuses what nobody asked for: {message}"), now, out),
        }
    }

    fn heard(&mut self, state: State, now: Duration, out: &mut Vec<Action>) {
        self.word = Some(state.clone());
        match self.stage {
            Stage::Serving => self.state(state, now, out),
            Stage::Ordered if state != State::Waiting => {
                self.stage = Stage::Serving;
                self.state(state, now, out);
            }
            // It is looked at when the pod is known to be what it should be.
            _ => {}
        }
    }

    /// A state of a launcher that is served.
    fn state(&mut self, state: State, now: Duration, out: &mut Vec<Action>) {
        if let Some(why) = conduct::out_of_order(&self.guest, &state) {
            return self.wrong(why.to_owned(), now, out);
        }
        (self.begun, self.look.1) = (true, FIRST);
        self.well(out);
        let before = std::mem::replace(&mut self.guest, state.clone());
        match state {
            State::Running | State::Paused if state != before => {
                let paused = state == State::Paused;
                out.push(Action::Runs { paused });
                if !std::mem::replace(&mut self.informed, true) {
                    out.extend([Action::Tell(Notice::Created), Action::Tell(Notice::Started)]);
                } else if before == State::Paused {
                    out.push(Action::Tell(Notice::Resumed));
                }
                let done = self.asks.done(paused);
                out.extend(done.map(|ticket| Action::Answer { ticket, answer: Answer::Done }));
            }
            State::ShuttingDown if before != State::ShuttingDown => {
                out.push(Action::Tell(Notice::ShuttingDown));
            }
            State::Ended { ending, message } if !std::mem::replace(&mut self.over, true) => {
                out.push(Action::Over { ending, message });
            }
            _ => {}
        }
    }

    /// A message of the launcher makes no sense. After too many of them it is not listened to for a while.
    fn wrong(&mut self, what: String, now: Duration, out: &mut Vec<Action>) {
        let wrong = self.conduct.wrong(now);
        out.push(Action::Misbehaves { what, wrong });
        if let Wrong::Close { pause, .. } = wrong {
            self.closed_until = Some(now.saturating_add(pause));
            out.push(Action::Tell(Notice::Misbehaves));
        }
        if matches!(wrong, Wrong::Close { .. }) || self.stage == Stage::Parted {
            self.stage = Stage::Parted;
            out.extend(self.link.map(Action::End));
        }
    }
}
