//! The life of one guest as a pure state machine: QEMU's messages, requests and the time go in, commands to QEMU,
//! a kill and new states come out.

use crate::{
    order::Order,
    protocol::{Ending, State},
    qmp::{Command, Event, Message, Reason},
};
use std::time::Duration;

/// How often the power button is pressed again during a graceful shutdown: a guest that is still starting, or shows
/// a boot menu, does not see the first.
const PRESS_AGAIN: Duration = Duration::from_secs(3);
/// How long QEMU may take to end after it was asked to, or said that it would.
const LAST: Duration = Duration::from_secs(5);

/// What the launcher has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a line to QEMU.
    Send(Vec<u8>),
    /// Send a line with the stream that was asked for.
    SendStream(Vec<u8>),
    /// End QEMU's process with SIGKILL.
    Kill,
    /// The guest is in a new state: tell everyone.
    State(State),
    /// A line for the log.
    Log(String),
    /// A request that was accepted turned out not to be possible: tell the one who asked.
    Refused(String),
    /// The same of [`Guest::serve_vnc`].
    NoVnc(String),
}

/// How QEMU's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// One guest, from the start of QEMU's process to its end. Times are those of one steady clock, from any zero.
#[derive(Debug)]
pub struct Guest {
    state: State,
    acpi: bool,
    graphics: bool,
    start_paused: bool,
    /// QEMU has greeted, accepted our capabilities.
    ready: bool,
    next_id: u64,
    /// Commands under way that somebody asked for.
    asked: Vec<(u64, Command)>,
    /// Why QEMU is going to end, once that is known.
    ending: Option<(Ending, String)>,
    /// What is to be done at which time.
    alarms: Vec<(Duration, Alarm)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    Press,
    Quit,
    Kill,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// QEMU is not there yet.
    #[error("the guest is still starting: try again when it runs")]
    Starting,
    /// Too late.
    #[error("the guest is shutting down")]
    ShuttingDown,
    /// The state that was asked for holds already.
    #[error("the guest is already {0}")]
    Already(&'static str),
    /// It has none.
    #[error("the guest has no graphics device")]
    NoGraphics,
}

impl Guest {
    /// A guest whose QEMU process was just started, with `-S`.
    pub fn new(order: &Order) -> Self {
        Self {
            state: State::Starting,
            acpi: order.acpi,
            graphics: order.graphics,
            start_paused: order.start_paused,
            ready: false,
            next_id: 1,
            asked: Vec::new(),
            ending: None,
            alarms: Vec::new(),
        }
    }

    /// Where the guest is now.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When [`Guest::tick`] wants to be called.
    pub fn deadline(&self) -> Option<Duration> {
        self.alarms.iter().map(|(at, _)| *at).min()
    }

    /// Takes a message of QEMU.
    pub fn message(&mut self, message: Message, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match message {
            Message::Greeting => actions.push(self.send(Command::Capabilities)),
            Message::Return { id: Some(id) } if id == 1 && !self.ready => {
                self.ready = true;
                if self.start_paused {
                    self.enter(State::Paused, &mut actions);
                } else {
                    actions.push(self.send(Command::Continue));
                }
            }
            Message::Return { id: Some(id) } => self.asked.retain(|(asked, _)| *asked != id),
            Message::Return { id: None } | Message::Other => {}
            Message::Error { id, description } => self.refused(id, &description, now, &mut actions),
            Message::Event(event) => self.event(event, now, &mut actions),
        }
        actions
    }

    fn refused(&mut self, id: Option<u64>, description: &str, now: Duration, actions: &mut Vec<Action>) {
        let asked = self.asked.iter().position(|(asked, _)| Some(*asked) == id);
        if let Some(at) = asked {
            let (_, command) = self.asked.remove(at);
            let why = format!("QEMU refused {}: {description}", command.name());
            actions.push(match command {
                Command::ServeVnc => Action::NoVnc(why),
                _ => Action::Refused(why),
            });
        } else if self.state == State::Starting {
            self.fail(format!("QEMU refused to start the guest: {description}"), now, actions);
        } else {
            actions.push(Action::Log(format!("QEMU refused a command: {description}")));
        }
    }

    fn event(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Resume if matches!(self.state, State::Starting | State::Paused) => {
                self.enter(State::Running, actions);
            }
            Event::Stop if self.state == State::Running => self.enter(State::Paused, actions),
            Event::Shutdown(reason) => {
                let (ending, message) = match reason {
                    Reason::GuestShutdown => (Ending::Shutdown, "the guest shut down".into()),
                    Reason::GuestPanic => (Ending::Panicked, "the guest panicked".into()),
                    Reason::HostQuit => (Ending::Destroyed, "the guest was ended".into()),
                    Reason::HostSignal => (Ending::Failed, "QEMU was ended by a signal".into()),
                    Reason::Other(reason) => (Ending::Failed, format!("QEMU ended: {reason}")),
                };
                self.ending.get_or_insert((ending, message));
                self.alarms = vec![(now + LAST, Alarm::Kill)];
                self.enter(State::ShuttingDown, actions);
            }
            Event::GuestPanicked => {
                self.ending = Some((Ending::Panicked, "the guest panicked".into()));
                actions.push(Action::Log("the guest reported a panic".into()));
            }
            Event::BlockError(reason) => {
                actions.push(Action::Log(format!("the guest is stopped: a disk request failed: {reason}")));
            }
            Event::Reset => actions.push(Action::Log("the guest was reset".into())),
            Event::Resume | Event::Stop | Event::Powerdown | Event::Other(_) => {}
        }
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// [`Refusal`] when the guest does not run.
    pub fn pause(&mut self) -> Result<Vec<Action>, Refusal> {
        match self.state {
            State::Running => Ok(vec![self.ask(Command::Stop)]),
            State::Paused => Err(Refusal::Already("paused")),
            State::Waiting | State::Starting => Err(Refusal::Starting),
            State::ShuttingDown | State::Ended { .. } => Err(Refusal::ShuttingDown),
        }
    }

    /// Runs the vCPUs again.
    ///
    /// # Errors
    /// [`Refusal`] when the guest is not paused.
    pub fn unpause(&mut self) -> Result<Vec<Action>, Refusal> {
        match self.state {
            State::Paused => Ok(vec![self.ask(Command::Continue)]),
            State::Running => Err(Refusal::Already("running")),
            State::Waiting | State::Starting => Err(Refusal::Starting),
            State::ShuttingDown | State::Ended { .. } => Err(Refusal::ShuttingDown),
        }
    }

    /// Has QEMU serve VNC on a stream.
    ///
    /// # Errors
    /// [`Refusal`] when there is no graphics device, or not now.
    pub fn serve_vnc(&mut self) -> Result<Vec<Action>, Refusal> {
        match self.state {
            _ if !self.graphics => Err(Refusal::NoGraphics),
            State::Running | State::Paused => {
                // Without the stream the second one is refused.
                let id = self.next_id;
                self.next_id += 1;
                Ok(vec![Action::SendStream(Command::TakeStream.line(id)), self.ask(Command::ServeVnc)])
            }
            State::Waiting | State::Starting => Err(Refusal::Starting),
            State::ShuttingDown | State::Ended { .. } => Err(Refusal::ShuttingDown),
        }
    }

    /// Ends the guest: by the power button and, when that has not worked within `grace`, by ending QEMU. Without
    /// ACPI there is no button, and a QEMU that does not answer yet can only be killed. May be asked again with
    /// another grace; only an earlier end is taken over.
    pub fn shutdown(&mut self, grace: Duration, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        let under_way = self.alarms.iter().any(|(_, alarm)| *alarm == Alarm::Kill);
        if under_way || matches!(self.state, State::Ended { .. }) {
            return actions;
        }
        if !self.ready {
            self.destroy("the guest was ended before it had started", &mut actions, now);
            actions.push(Action::Kill);
            return actions;
        }
        if grace.is_zero() || !self.acpi {
            let why = if grace.is_zero() {
                "the guest was ended without a grace period"
            } else {
                "the guest was ended: it has no ACPI to be asked by"
            };
            self.destroy(why, &mut actions, now);
            actions.push(self.send(Command::Quit));
            return actions;
        }
        let quit = now.saturating_add(grace);
        if let Some((at, _)) = self.alarms.iter_mut().find(|(_, alarm)| *alarm == Alarm::Quit) {
            *at = quit.min(*at);
            return actions;
        }
        if self.state == State::Paused {
            // A stopped guest cannot see the button.
            actions.push(self.send(Command::Continue));
        }
        actions.push(self.send(Command::Powerdown));
        self.alarms = vec![(quit, Alarm::Quit), (now + PRESS_AGAIN, Alarm::Press)];
        self.enter(State::ShuttingDown, &mut actions);
        actions
    }

    /// Does what has become due.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut due: Vec<Alarm> = Vec::new();
        self.alarms.retain(|(at, alarm)| {
            let is_due = *at <= now;
            if is_due {
                due.push(*alarm);
            }
            !is_due
        });
        let mut actions = Vec::new();
        if due.contains(&Alarm::Kill) {
            actions.push(Action::Kill);
        } else if due.contains(&Alarm::Quit) {
            self.destroy(
                "the guest did not shut down within its grace period and was ended",
                &mut actions,
                now,
            );
            actions.push(self.send(Command::Quit));
        } else if due.contains(&Alarm::Press) {
            actions.push(self.send(Command::Powerdown));
            self.alarms.push((now + PRESS_AGAIN, Alarm::Press));
        }
        actions
    }

    /// QEMU cannot be talked to any more.
    pub fn broken(&mut self, why: &str, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        self.fail(why.into(), now, &mut actions);
        actions
    }

    /// QEMU closed its side, which it does when it ends: its process has a few seconds left.
    pub fn closed(&mut self, now: Duration) {
        self.alarms = vec![(now + LAST, Alarm::Kill)];
    }

    /// QEMU's process is gone. `last_words`: the end of what it wrote to standard error.
    pub fn gone(&mut self, exit: Exit, last_words: &str) -> State {
        let words = last_words.trim();
        let (ending, message) = match self.ending.take() {
            Some((Ending::Failed, why)) if !words.is_empty() => (Ending::Failed, format!("{why}: {words}")),
            Some(known) => known,
            None => {
                let how = match exit {
                    Exit::Code(code) => format!("QEMU ended with exit code {code}"),
                    Exit::Signal(signal) => format!("QEMU was ended by signal {signal}"),
                };
                let message = if words.is_empty() { how } else { format!("{how}: {words}") };
                (Ending::Failed, message)
            }
        };
        self.alarms.clear();
        self.state = State::Ended { ending, message };
        self.state.clone()
    }

    fn destroy(&mut self, why: &str, actions: &mut Vec<Action>, now: Duration) {
        self.ending.get_or_insert((Ending::Destroyed, why.into()));
        self.alarms = vec![(now + LAST, Alarm::Kill)];
        self.enter(State::ShuttingDown, actions);
    }

    fn fail(&mut self, why: String, now: Duration, actions: &mut Vec<Action>) {
        self.ending.get_or_insert((Ending::Failed, why));
        // Asked for again should the first one not be obeyed.
        self.alarms = vec![(now + LAST, Alarm::Kill)];
        actions.push(Action::Kill);
    }

    fn enter(&mut self, state: State, actions: &mut Vec<Action>) {
        if self.state != state {
            self.state = state.clone();
            actions.push(Action::State(state));
        }
    }

    fn send(&mut self, command: Command) -> Action {
        let id = self.next_id;
        self.next_id += 1;
        Action::Send(command.line(id))
    }

    fn ask(&mut self, command: Command) -> Action {
        self.asked.push((self.next_id, command));
        self.send(command)
    }
}
