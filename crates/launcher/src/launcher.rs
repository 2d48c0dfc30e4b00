//! The poll loop.

mod requests;
mod wait;

use crate::{
    agents::Agents,
    dhcp::Server,
    log,
    options::Options,
    qemu::{self, Heard, Qemu},
    serial::Serial,
    slot::{Network, Slot},
};
use ferrovirt_qemu::{
    guest::{Action, Guest},
    protocol::{Ending, Event, LISTEN_FD, State},
};
use ferrovirt_sys::{
    calls,
    confine::{self, Filter},
    process::inherited,
    seqpacket::Listener,
    signal::SignalFd,
};
use rustix::{event::PollFlags, process::Signal};
use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::{Duration, Instant},
};
use wait::Source;

/// Pieces of a stream that are moved before other work has its turn.
const AT_ONCE: usize = 16;

/// The launcher could not begin or go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(crate) struct Fatal {
    what: &'static str,
    error: io::Error,
}

struct Launcher {
    options: Options,
    clock: Instant,
    signals: SignalFd,
    agents: Agents,
    /// The one guest, once an order came.
    guest: Option<Guest>,
    qemu: Option<Qemu>,
    serial: Option<Serial>,
    dhcp: Vec<Server>,
    /// What the handler was sent copies of, until the order comes.
    network: Option<Network>,
    grace: Duration,
    /// Who asked for the command that is under way.
    asker: u64,
    /// What is sent to QEMU with one, and the name of the socket where that leads to.
    stream: Option<UnixStream>,
    vnc: String,
    ended: Option<Ending>,
}

/// Runs until the guest has ended; true when it shut itself down.
pub(crate) fn run(options: Options) -> Result<bool, Fatal> {
    let fatal = |what| move |error| Fatal { what, error };
    // What is made here is for this user only: sockets, the serial log, and files of QEMU, which inherits it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // QEMU has the same user and fewer rights. A guest that has taken it over must not write to this process's memory
    // through /proc, which it could where Yama does not hold it back.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| Fatal { what: "prctl(PR_SET_DUMPABLE)", error: error.into() })?;
    // The node's profile may be missing or wider; this filter comes with the program. Without a slot it connects to nobody.
    let (calls, families) = match options.slot {
        Some(_) => (calls::LAUNCHER_ON_SLOT, confine::NETWORK),
        None => (calls::LAUNCHER, confine::LOCAL_OR_INTERNET),
    };
    rustix::thread::set_no_new_privs(true)
        .map_err(io::Error::from)
        .and_then(|()| Filter::new(calls, Some(families))?.apply())
        .map_err(fatal("the filter of system calls"))?;
    let signals = SignalFd::new(&[Signal::TERM, Signal::INT, Signal::CHILD]).map_err(fatal("signals"))?;
    let agents = match &options.slot {
        Some(directory) => Agents::on_slot(Slot::new(directory)),
        None => {
            let what = "file descriptor 3 must be the listening SOCK_SEQPACKET socket of the node agent";
            let listener = inherited(LISTEN_FD).and_then(Listener::from_fd).map_err(fatal(what))?;
            Agents::new(listener).map_err(fatal("the listening socket"))?
        }
    };
    let mut launcher = Launcher {
        options,
        clock: Instant::now(),
        signals,
        agents,
        guest: None,
        qemu: None,
        serial: None,
        dhcp: Vec::new(),
        network: None,
        grace: Duration::ZERO,
        asker: 0,
        stream: None,
        vnc: String::new(),
        ended: None,
    };
    loop {
        if let Some(ending) = launcher.ended {
            return Ok(ending == Ending::Shutdown);
        }
        let state = launcher.state();
        launcher.agents.connect(&state);
        for (source, events) in launcher.wait().map_err(fatal("poll"))? {
            launcher.handle(source, events);
        }
        let now = launcher.now();
        if let Some(guest) = &mut launcher.guest
            && guest.deadline().is_some_and(|deadline| deadline <= now)
        {
            let actions = guest.tick(now);
            launcher.act(actions);
        }
    }
}

impl Launcher {
    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    fn state(&self) -> Event {
        let state = self.guest.as_ref().map_or(State::Waiting, |guest| guest.state().clone());
        Event::State { state, qemu_pid: self.qemu.as_ref().map(Qemu::pid) }
    }

    fn handle(&mut self, source: Source, events: PollFlags) {
        // A hang-up or error shows in the read that follows.
        let readable = events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let writable = events.contains(PollFlags::OUT);
        match source {
            Source::Signals => self.signal(),
            Source::Listener => {
                let state = self.state();
                self.agents.accept(&state);
            }
            Source::Agent(id) => self.request(id),
            Source::Qmp => {
                if writable && let Some(qemu) = &mut self.qemu {
                    qemu.flush();
                }
                if readable {
                    self.hear();
                }
            }
            Source::Stderr => {
                if let Some(qemu) = &mut self.qemu {
                    (0..AT_ONCE).any(|_| !qemu.copy_stderr());
                }
            }
            Source::SerialListener => self.with_serial(Serial::accept),
            Source::SerialGuest => self.with_serial(|serial| {
                if writable {
                    serial.write_guest();
                }
                if readable {
                    (0..AT_ONCE).any(|_| !serial.read_guest());
                }
            }),
            Source::SerialClient => self.with_serial(|serial| {
                if writable {
                    serial.write_client();
                }
                if readable {
                    serial.read_client();
                }
            }),
            Source::Dhcp(index) => {
                if self.dhcp.get(index).is_some_and(|server| !server.serve()) {
                    // The indexes of this round stay valid: a descriptor that is looked at twice has nothing to read.
                    self.dhcp.remove(index);
                }
            }
        }
    }

    fn with_serial(&mut self, work: impl FnOnce(&mut Serial)) {
        if let Some(serial) = &mut self.serial {
            work(serial);
        }
    }

    fn signal(&mut self) {
        while let Ok(Some(number)) = self.signals.read() {
            if number == Signal::CHILD.as_raw() {
                if let Some(exit) = qemu::reap(self.qemu.as_mut()) {
                    self.gone(exit);
                }
            } else {
                self.shutdown(None);
            }
        }
    }

    /// `grace`: the order's own when absent.
    fn shutdown(&mut self, grace: Option<Duration>) {
        let now = self.now();
        match &mut self.guest {
            Some(guest) => {
                let actions = guest.shutdown(grace.unwrap_or(self.grace), now);
                self.act(actions);
            }
            None => self.end(Ending::Destroyed, "ended before an order came".into()),
        }
    }

    /// Takes what QEMU says; false when there was nothing.
    fn hear(&mut self) -> bool {
        let now = self.now();
        let (Some(qemu), Some(guest)) = (&mut self.qemu, &mut self.guest) else { return false };
        let (more, actions) = match qemu.hear() {
            Heard::Nothing => (false, Vec::new()),
            Heard::Messages(messages) => {
                (true, messages.into_iter().flat_map(|said| guest.message(said, now)).collect())
            }
            Heard::Closed => {
                guest.closed(now);
                (false, Vec::new())
            }
            Heard::Nonsense(why) => (false, guest.broken(&why, now)),
        };
        self.act(actions);
        more
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(line) => {
                    let now = self.now();
                    let sent = self.qemu.as_mut().map_or(Ok(()), |qemu| qemu.send(&line));
                    if let (Err(why), Some(guest)) = (sent, &mut self.guest) {
                        let actions = guest.broken(&why, now);
                        self.act(actions);
                    }
                }
                Action::SendStream(line) => {
                    let (Some(qemu), Some(stream)) = (&mut self.qemu, &self.stream) else { return };
                    if let Err(why) = qemu.send_with(&line, stream.as_fd()) {
                        // What follows is about the stream that QEMU has not got.
                        return self.agents.refuse_console(self.asker, self.vnc.clone(), why);
                    }
                }
                Action::Kill => {
                    if let Some(qemu) = &self.qemu {
                        qemu.kill();
                    }
                }
                Action::State(state) => {
                    log::line(&format!("the guest is {}", word(&state)));
                    let event = Event::State { state, qemu_pid: self.qemu.as_ref().map(Qemu::pid) };
                    self.agents.broadcast(&event);
                }
                Action::Log(text) => log::line(&text),
                Action::Refused(text) => self.agents.refuse(self.asker, text),
                Action::NoVnc(text) => self.agents.refuse_console(self.asker, self.vnc.clone(), text),
            }
        }
    }

    /// QEMU's process has ended: what it said last is still to be read.
    fn gone(&mut self, exit: ferrovirt_qemu::guest::Exit) {
        while self.hear() {}
        self.with_serial(|serial| while serial.read_guest() {});
        let last_words = match &mut self.qemu {
            Some(qemu) => {
                while qemu.copy_stderr() {}
                qemu.last_words()
            }
            None => String::new(),
        };
        self.qemu = None;
        if let Some(guest) = &mut self.guest
            && let State::Ended { ending, message } = guest.gone(exit, &last_words)
        {
            self.end(ending, message);
        }
    }

    /// Tells everyone, and anyone who looks later, how it ended.
    fn end(&mut self, ending: Ending, message: String) {
        log::line(&format!("ended ({ending:?}): {message}"));
        let event = Event::State { state: State::Ended { ending, message }, qemu_pid: None };
        self.agents.broadcast(&event);
        if let Ok(bytes) = serde_json::to_vec(&event)
            && let Err(error) = std::fs::write(self.options.run.join("ended.json"), bytes)
        {
            log::line(&format!("ended.json: {error}"));
        }
        self.ended = Some(ending);
    }
}

fn word(state: &State) -> &'static str {
    match state {
        State::Waiting => "waited for",
        State::Starting => "starting",
        State::Running => "running",
        State::Paused => "paused",
        State::ShuttingDown => "shutting down",
        State::Ended { .. } => "ended",
    }
}
