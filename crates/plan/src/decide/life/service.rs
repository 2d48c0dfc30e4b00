//! A pod whose container runs: the connection to its launcher, the order, requests, the guest's states and its end.

use super::{
    Action, Answer, Change, Check, Event, Hold, Notice, Retry,
    conduct::{self, Conduct, Wrong},
    switches::{Refused, Switches},
};
use ferrovirt_qemu::protocol::{self, State};
use std::time::Duration;

/// Delays between tries to connect to a launcher, each of which asks the API server: doubled from the first to the last.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The connection to the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Closed,
    /// The pod is compared with what was accepted, before anything is said to its launcher.
    Checking,
    Connecting,
    Open {
        /// The pod is compared once more, before the order of one that waits for it.
        checking: bool,
    },
}

#[derive(Debug)]
pub(super) struct Service {
    link: Link,
    /// When to connect again, and the delay after that.
    retry: (Duration, Duration),
    /// The launcher is not listened to until then: it talked nonsense.
    closed_until: Option<Duration>,
    conduct: Conduct,
    /// The launcher closed the last connection.
    left: bool,
    /// When the port of a pod that was taken over is to be admitted (again).
    port: Option<Retry>,
    /// The pod is what was started.
    served: bool,
    guest: State,
    /// The container was just started: with the first connection its order goes out, without a word of the launcher.
    fresh: bool,
    /// The order was sent, or a launcher was seen that has one.
    ordered: bool,
    /// Descriptors for the order are at hand.
    descriptors: bool,
    /// The launcher could not make its disks ready, and waits for its order again.
    not_ready: Option<Retry>,
    /// The guest was seen to run, and users were informed.
    ran: bool,
    /// Seconds that the order gives a shutdown.
    order_grace: u32,
    /// Requests that the launcher has not answered yet.
    switches: Switches,
    /// The grace with which the guest was asked to shut down.
    grace: Option<i64>,
    kill_at: Option<Duration>,
    evicted: bool,
}

impl Service {
    pub(super) fn new(hold: Hold, now: Duration) -> Self {
        Self {
            link: Link::Closed,
            retry: (now, FIRST_RETRY),
            closed_until: None,
            conduct: Conduct::default(),
            left: false,
            port: (!hold.fresh).then_some(Retry { at: Some(now), ..Retry::NOW }),
            served: true,
            guest: State::Waiting,
            fresh: hold.fresh,
            ordered: false,
            descriptors: hold.descriptors,
            not_ready: None,
            ran: hold.ran,
            order_grace: hold.grace_seconds,
            switches: Switches::default(),
            grace: None,
            kill_at: None,
            evicted: false,
        }
    }

    pub(super) fn kill_at(&self) -> Option<Duration> {
        self.kill_at
    }

    pub(super) fn wake(&self) -> Option<Duration> {
        let connect = (self.link == Link::Closed).then(|| self.due());
        let port = self.port.and_then(|retry| retry.at);
        connect.into_iter().chain(port).chain(self.kill_at).min()
    }

    /// When to connect again.
    fn due(&self) -> Duration {
        self.closed_until.map_or(self.retry.0, |until| until.max(self.retry.0))
    }

    fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    pub(super) fn take(&mut self, event: Event, deleted: bool, now: Duration, out: &mut Vec<Action>) {
        match event {
            Event::Tick if self.kill_at.is_some_and(|at| at <= now) => {
                self.kill_at = None;
                out.push(Action::Kill);
            }
            Event::Evict => {
                self.evicted = true;
                out.push(Action::Kill);
            }
            Event::Switch { ticket, pause } => self.switch(ticket, pause, out),
            Event::NotSwitched { ticket } => {
                self.switches.forget(ticket);
                out.push(Action::Answer { ticket, answer: Answer::NotRunning });
            }
            Event::Said(said) if self.is_open() => self.said(said, now, out),
            Event::Nonsense(what) => {
                self.left = false;
                self.close(now, out);
                self.wrong(what, now, out);
            }
            Event::Closed => {
                self.left |= self.is_open();
                self.close(now, out);
            }
            Event::PortAdmitted(admitted) => {
                self.port = self.port.filter(|_| !admitted).map(|retry| retry.after(now));
            }
            Event::Checked(check) => self.checked(check, deleted, now, out),
            Event::Connected(connected) => self.connected(connected, now, out),
            Event::Ordered(sent) if !sent => {
                self.ordered = false;
                self.close(now, out);
            }
            Event::Opened(opened) if opened && self.is_open() => self.order(out),
            Event::NotAsked => {
                self.grace = None;
                self.close(now, out);
            }
            // A launcher that waits and whose network cannot be opened waits until it is connected to again.
            _ => {}
        }
    }

    /// Connects where it is time to. Asks the API server first.
    pub(super) fn connect(&mut self, now: Duration, out: &mut Vec<Action>) {
        if self.link != Link::Closed || now < self.due() {
            return;
        }
        let delay = self.retry.1;
        self.retry = (now.saturating_add(delay), delay.saturating_mul(2).min(LAST_RETRY));
        self.link = Link::Checking;
        out.push(Action::Check);
    }

    /// Has the port of a pod that was taken over admitted where it is time to: its guest reaches nobody without.
    pub(super) fn admit_port(&mut self, now: Duration, out: &mut Vec<Action>) {
        if let Some(retry) = &mut self.port
            && retry.at.is_some_and(|at| at <= now)
        {
            retry.at = None;
            out.push(Action::AdmitPort);
        }
    }

    fn close(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.link = Link::Closed;
        // Its end is about to be seen, or it is too busy.
        self.retry.0 = self.retry.0.max(now.saturating_add(FIRST_RETRY));
        out.push(Action::Disconnect);
    }

    fn checked(&mut self, check: Check, deleted: bool, now: Duration, out: &mut Vec<Action>) {
        let accepted = self.is_as_accepted(check, now, out);
        match self.link {
            Link::Checking if accepted => {
                self.link = Link::Connecting;
                out.push(Action::Connect);
            }
            Link::Checking => {
                self.link = Link::Closed;
                self.fresh = false;
            }
            Link::Open { checking: true } if accepted && !deleted => {
                self.link = Link::Open { checking: false };
                if self.descriptors {
                    self.order(out);
                } else {
                    out.push(Action::OpenNetwork);
                }
            }
            // It says again that it waits when it is connected to again.
            Link::Open { checking: true } => self.close(now, out),
            Link::Closed | Link::Connecting | Link::Open { checking: false } => {}
        }
    }

    /// Whether the pod may be served. One that is deleted before it has its order gets none.
    fn is_as_accepted(&mut self, check: Check, now: Duration, out: &mut Vec<Action>) -> bool {
        match check {
            Check::Same { deleting: true } if self.descriptors => {
                out.push(Action::Kill);
                false
            }
            Check::Same { .. } => {
                if !self.served {
                    self.served = true;
                    out.push(Action::Served(true));
                }
                true
            }
            Check::Differs(message) => {
                self.part(message, now, out);
                false
            }
            Check::Unknown(why) => {
                out.push(Action::Waits(why));
                false
            }
            Check::Interrupted => false,
        }
    }

    /// Ends the service to a pod that is another one than was started.
    fn part(&mut self, message: String, now: Duration, out: &mut Vec<Action>) {
        self.close(now, out);
        self.fresh = false;
        self.served = false;
        out.extend([Action::Served(false), Action::Trouble { message }]);
    }

    pub(super) fn compared(&mut self, change: Change, now: Duration, out: &mut Vec<Action>) {
        match change {
            Change::Differs(message) => self.part(message, now, out),
            Change::Same if !self.served => self.retry = (now, FIRST_RETRY),
            Change::Same | Change::Unknown => {}
        }
    }

    fn connected(&mut self, connected: bool, now: Duration, out: &mut Vec<Action>) {
        if self.link != Link::Connecting {
            return;
        }
        let fresh = std::mem::take(&mut self.fresh);
        if !connected {
            return self.close(now, out);
        }
        self.link = Link::Open { checking: false };
        // It lives, so that it was no end that closed the last one. Each time costs as much as nonsense does.
        if std::mem::take(&mut self.left) {
            self.wrong("it closes its connection and takes another one".to_owned(), now, out);
        }
        if fresh {
            self.order(out);
        }
    }

    fn order(&mut self, out: &mut Vec<Action>) {
        self.ordered = true;
        self.descriptors = false;
        out.push(Action::Order);
    }

    fn said(&mut self, said: protocol::Event, now: Duration, out: &mut Vec<Action>) {
        self.retry.1 = FIRST_RETRY;
        let state = match said {
            protocol::Event::Refused { message, .. } => {
                return match self.switches.refused() {
                    Refused::Of(ticket) => {
                        out.push(Action::Answer { ticket, answer: Answer::Refused(message) });
                    }
                    Refused::Late => {}
                    Refused::Nobodys => {
                        self.wrong(format!("it refuses what nobody asked for: {message}"), now, out)
                    }
                };
            }
            protocol::Event::Network => {
                return self.wrong("it sends what nobody asked for".to_owned(), now, out);
            }
            protocol::Event::NotReady { message } => return self.not_ready(message, now, out),
            protocol::Event::State { state, .. } => state,
        };
        if let Some(why) = conduct::out_of_order(&self.guest, &state) {
            return self.wrong(why.to_owned(), now, out);
        }
        match &state {
            State::Waiting if !self.ordered => {
                // There is an order: an earlier agent ended between container and order, or sending it failed.
                self.link = Link::Open { checking: true };
                out.push(Action::Check);
            }
            State::Starting => self.is_ready(out),
            State::Running | State::Paused if state != self.guest => self.runs(state == State::Paused, out),
            State::ShuttingDown if state != self.guest => out.push(Action::Tell(Notice::ShuttingDown)),
            _ => {}
        }
        self.guest = state;
    }

    fn runs(&mut self, paused: bool, out: &mut Vec<Action>) {
        self.is_ready(out);
        out.push(Action::Runs { paused });
        if !self.ran {
            self.ran = true;
            out.extend([Action::RecordRan, Action::Tell(Notice::Created), Action::Tell(Notice::Started)]);
        } else if self.guest == State::Paused && !paused {
            out.push(Action::Tell(Notice::Resumed));
        }
        let done = self.switches.done(paused);
        out.extend(done.map(|ticket| Action::Answer { ticket, answer: Answer::Done }));
    }

    /// A disk is not ready: users are informed, and the order goes out again after a pause, with everything that goes with it.
    fn not_ready(&mut self, message: String, now: Duration, out: &mut Vec<Action>) {
        if !self.ordered || self.guest != State::Waiting {
            return self.wrong(format!("it is not ready for what nobody asked for: {message}"), now, out);
        }
        self.ordered = false;
        let retry = self.not_ready.unwrap_or(Retry::NOW).after(now);
        self.closed_until = retry.at;
        self.not_ready = Some(retry);
        self.close(now, out);
        out.push(Action::NotReady { message });
    }

    /// The launcher has its order and could begin.
    fn is_ready(&mut self, out: &mut Vec<Action>) {
        self.ordered = true;
        if self.not_ready.take().is_some() {
            out.push(Action::Served(true));
        }
    }

    /// A message of the launcher makes no sense: it is counted and, now and then, logged. After too many of them the
    /// launcher is not listened to for a while, and users are informed.
    fn wrong(&mut self, what: String, now: Duration, out: &mut Vec<Action>) {
        let wrong = self.conduct.wrong(now);
        out.push(Action::Misbehaves { what, wrong });
        if let Wrong::Close { pause, .. } = wrong {
            self.close(now, out);
            self.closed_until = Some(now.saturating_add(pause));
            self.answer_all(out);
            out.push(Action::Tell(Notice::Misbehaves));
        }
    }

    fn answer_all(&mut self, out: &mut Vec<Action>) {
        let waiting = self.switches.take();
        out.extend(waiting.map(|ticket| Action::Answer { ticket, answer: Answer::NotRunning }));
    }

    fn switch(&mut self, ticket: u64, pause: bool, out: &mut Vec<Action>) {
        let reached = matches!(self.guest, State::Running | State::Paused) && self.is_open();
        out.push(match self.switches.ask(ticket, pause, reached) {
            None => Action::Switch { ticket, pause },
            Some(answer) => Action::Answer { ticket, answer },
        });
    }

    /// Asks the guest to shut down within the pod's grace period; shorter ones that come later count.
    pub(super) fn stop(&mut self, grace: i64, now: Duration, out: &mut Vec<Action>) {
        let grace = grace.max(0);
        if self.grace.is_some_and(|known| known <= grace) {
            return;
        }
        self.grace = Some(grace);
        // Without a guest there is nothing to wait for.
        if grace == 0 || self.not_ready.is_some() {
            return out.push(Action::Kill);
        }
        // A launcher that cannot be reached is asked again and again: that must not put off its end.
        // Longer than a century is never, and must not be more than a clock can say.
        let limit = u32::try_from(grace).unwrap_or(u32::MAX);
        let at = now.saturating_add(Duration::from_secs(limit.into()));
        self.kill_at = Some(self.kill_at.map_or(at, |known| known.min(at)));
        if !self.is_open() {
            self.grace = None;
            return;
        }
        // The launcher needs a moment of the pod's grace to end QEMU and to report.
        let grace_seconds = (limit < self.order_grace).then(|| limit.saturating_sub(1));
        out.push(Action::Shutdown { grace_seconds });
    }

    pub(super) fn end(mut self, code: Option<i32>, out: &mut Vec<Action>) {
        self.answer_all(out);
        let end = match self.guest {
            State::Ended { ending, message } => Some((ending, message)),
            _ => None,
        };
        out.push(Action::End { code, end, evicted: self.evicted });
    }
}
