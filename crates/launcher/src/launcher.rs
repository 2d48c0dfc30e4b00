//! The poll loop.

use crate::{
    agents::Agents,
    dhcp::Server,
    files, log,
    options::Options,
    qemu::{self, Heard, Qemu},
    serial::Serial,
    slot::{self, Network, Slot},
    start::{self, Started},
};
use ferrovirt_qemu::{
    guest::{Action, Guest},
    order::{Accelerator, Order},
    protocol::{Console, Ending, Event, LISTEN_FD, Request, State},
};
use ferrovirt_sys::{
    calls,
    confine::{self, Filter},
    kvm::{self, Kvm},
    process::inherited,
    seqpacket::Listener,
    signal::SignalFd,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::Signal,
};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// Pieces of a stream that are moved before other work has its turn.
const AT_ONCE: usize = 16;

/// How long a virtual processor may take to run a few instructions: nobody waits for this launcher but its own guest.
const KVM: Duration = Duration::from_secs(2);

/// The launcher could not begin or go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(crate) struct Fatal {
    what: &'static str,
    error: io::Error,
}

/// What a ready descriptor belongs to.
#[derive(Clone, Copy)]
enum Source {
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

    /// Waits for the next things to do.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
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

    fn request(&mut self, id: u64) {
        let waiting = self.guest.is_none();
        let Some(request) = self.agents.receive(id, waiting) else { return };
        let asked = match (request, &mut self.guest) {
            (Request::Descriptors { .. }, _) => return,
            (Request::Piece { .. }, _) => {
                return self.agents.refuse(id, "a guest was already started".into());
            }
            (Request::Start { .. }, Some(_)) => {
                return self
                    .agents
                    .refuse(id, "a guest was already started: a launcher runs one in its life".into());
            }
            (Request::Start { order }, None) => return self.start(id, *order),
            (Request::Network { queues }, None) if self.agents.has_slot() => return self.open(id, queues),
            (Request::Network { .. }, None) => {
                return self
                    .agents
                    .refuse(id, "this launcher has no slot: its queues are passed to it".into());
            }
            (Request::Network { .. }, Some(_)) => {
                return self.agents.refuse(id, "a guest was already started".into());
            }
            (Request::Shutdown { grace_seconds }, _) => {
                return self.shutdown(grace_seconds.map(|seconds| Duration::from_secs(seconds.into())));
            }
            (Request::Console { socket, .. }, _) if !self.agents.has_slot() => {
                let why = "this launcher has no slot: its consoles are sockets".into();
                return self.agents.refuse_console(id, socket, why);
            }
            (Request::Console { socket, .. }, None) => {
                return self.agents.refuse_console(id, socket, "no guest was started yet".into());
            }
            (_, None) => return self.agents.refuse(id, "no guest was started yet".into()),
            (Request::Console { socket, console }, Some(_)) => return self.console(id, socket, console),
            (Request::Pause, Some(guest)) => guest.pause(),
            (Request::Unpause, Some(guest)) => guest.unpause(),
        };
        match asked {
            Ok(actions) => {
                self.asker = id;
                self.act(actions);
            }
            Err(refusal) => self.agents.refuse(id, refusal.to_string()),
        }
    }

    /// Gives a console of the guest to anyone who waits in the slot.
    fn console(&mut self, id: u64, socket: String, console: Console) {
        let connected = match &self.options.slot {
            Some(directory) => slot::connect_console(directory, &socket),
            None => return,
        };
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                let why = format!("connecting the console {socket}: {error}");
                return self.agents.refuse_console(id, socket, why);
            }
        };
        match (console, &mut self.serial, &mut self.guest) {
            (Console::Serial, Some(serial), _) => serial.take(stream),
            (Console::Vnc, _, Some(guest)) => match guest.serve_vnc() {
                Ok(actions) => {
                    (self.asker, self.vnc) = (id, socket);
                    self.stream = Some(stream);
                    self.act(actions);
                    self.stream = None;
                }
                Err(refusal) => self.agents.refuse_console(id, socket, refusal.to_string()),
            },
            _ => self.agents.refuse_console(id, socket, "the guest has no serial console".into()),
        }
    }

    /// Opens what a TAP is made with and sends copies of it.
    fn open(&mut self, id: u64, queues: u32) {
        // A TAP of an earlier try ends with the last of its queues.
        self.network = None;
        match Network::open(queues) {
            Ok(network) => self.agents.send_network(id, self.network.insert(network)),
            Err(error) => self.agents.refuse(id, format!("opening the pod's network: {error}")),
        }
    }

    fn start(&mut self, id: u64, mut order: Order) {
        let (passed, files) = self.agents.take_passed(id);
        if let Err(error) = ferrovirt_qemu::check(&order) {
            return self.end(Ending::Failed, error.to_string());
        }
        let images = match files::prepare(&mut order, &files) {
            Ok(opened) => opened,
            Err(error) => return self.agents.not_ready(id, error.to_string()),
        };
        drop(files);
        // Elsewhere the node agent has tried it. On a cluster nobody has who may open it.
        if order.accelerator == Accelerator::Kvm
            && self.agents.has_slot()
            && let Some(problem) = kvm_problem(kvm::probe(KVM))
        {
            return self.end(Ending::Failed, problem);
        }
        self.agents.drop_passed();
        self.grace = Duration::from_secs(order.grace_seconds.into());
        self.guest = Some(Guest::new(&order));
        log::line(&format!("starting {}", order.name));
        let opened = self.network.take().map(Network::into_queues);
        match start::start(order, passed, images, opened, &self.options) {
            Ok(Started { qemu, serial, dhcp }) => {
                self.qemu = Some(qemu);
                self.serial = serial;
                self.dhcp = dhcp;
                let state = self.state();
                self.agents.broadcast(&state);
            }
            Err(error) => self.end(Ending::Failed, error.to_string()),
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

/// Why no guest runs on KVM here, for a person.
fn kvm_problem(found: io::Result<Kvm>) -> Option<String> {
    let what = match found {
        Ok(Kvm::Usable) => return None,
        Ok(Kvm::Absent) => {
            "/dev/kvm is not there or may not be opened by this pod's user: let everybody open it on the node (udev's mode \
             0666), or"
        }
        Ok(Kvm::Broken) => "KVM does not run instructions on this node:",
        Ok(Kvm::Hangs) => "KVM hangs on this node:",
        Err(error) => return Some(format!("KVM cannot be tried: {error}")),
    };
    Some(format!(
        "{what} keep machines away from it, or set spec.configuration.developerConfiguration.useEmulation of the KubeVirt \
         object"
    ))
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
