//! The program's loop: it follows the slots, has a child for each, and passes on what children and `api` say. It takes no
//! descriptor and reads no byte of a launcher.

mod slots;

use super::{
    child::Worker,
    namespace::Namespaces,
    talk::{self, Binding, FromApi, FromChild, MOST, MOST_PORTS, QUEUES, ToApi, ToChild, Wanted},
};
use crate::plug::reader::{Held, Reader};
use ferrovirt_sys::{
    seqpacket::{self, Connection, Listener},
    signal::SignalFd,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// Between two looks at what `plug` knows.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a network may take: the launcher's part, and the kernel's exchanges.
const PREPARE: Duration = Duration::from_secs(60);

/// What a slot's child is started with.
pub(super) struct Job {
    name: String,
    listener: Listener,
    theirs: Connection,
    ours: Connection,
}

impl Job {
    /// The child's part.
    pub(super) fn into_child(self) -> (Listener, Connection) {
        (self.listener, self.theirs)
    }
}

struct Child {
    worker: Worker,
    /// Until it has said everything.
    control: Option<Connection>,
    since: Instant,
    /// Until when the network has to be made.
    prepare: Option<Instant>,
    why: Option<String>,
    hung: bool,
}

struct Slot {
    held: Held,
    child: Option<Child>,
    user: Option<u32>,
    /// What the launcher said last, for an `api` that comes later.
    said: Option<Vec<u8>>,
    next: Instant,
    pause: Duration,
}

/// What a ready descriptor belongs to.
#[derive(Clone)]
enum Source {
    Signals,
    Entry,
    Api,
    Control(String),
    Process(String),
}

/// Everything that the program has.
pub(super) struct Server {
    reader: Reader,
    signals: SignalFd,
    entry: Listener,
    /// Who may be `api`, beside this program's own user.
    api_user: u32,
    api: Option<Connection>,
    problem: Option<String>,
    namespaces: Namespaces,
    slots: BTreeMap<String, Slot>,
    /// Of these directories a network was made, or begun: there is no second one.
    entered: BTreeSet<String>,
    /// Children of slots that have gone.
    leaving: Vec<Child>,
    stamp: Option<(i64, u64)>,
    changed: Instant,
    failed: bool,
    stop: bool,
}

impl Server {
    pub(super) fn new(
        reader: Reader,
        signals: SignalFd,
        entry: Listener,
        api_user: u32,
        problem: Option<String>,
    ) -> Result<Self, super::Refusal> {
        let namespaces = Namespaces::new(None, entry.as_fd())?;
        Ok(Self {
            reader,
            signals,
            entry,
            api_user,
            api: None,
            problem,
            namespaces,
            slots: BTreeMap::new(),
            entered: BTreeSet::new(),
            leaving: Vec::new(),
            stamp: None,
            changed: Instant::now(),
            failed: false,
            stop: false,
        })
    }

    /// Waits for something and deals with it; false when the program is to end.
    pub(super) fn round(&mut self) -> io::Result<bool> {
        for source in self.wait()? {
            match source {
                Source::Signals => self.stop |= self.signals.read()?.is_some(),
                Source::Entry => self.accept(),
                Source::Api => self.hear_api(),
                Source::Control(name) => drop(self.hear_child(&name)),
                Source::Process(name) => self.reap(&name),
            }
        }
        let now = Instant::now();
        self.look(now);
        self.deadlines(now);
        Ok(!self.stop)
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut watched: Vec<(Source, BorrowedFd<'_>)> =
            vec![(Source::Signals, self.signals.as_fd()), (Source::Entry, self.entry.as_fd())];
        watched.extend(self.api.iter().map(|api| (Source::Api, api.as_fd())));
        for (name, slot) in &self.slots {
            if let Some(child) = &slot.child {
                let control = child.control.iter();
                watched.extend(control.map(|control| (Source::Control(name.clone()), control.as_fd())));
                watched.push((Source::Process(name.clone()), child.worker.as_fd()));
            }
        }
        let mut fds: Vec<_> =
            watched.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let timeout = Timespec::try_from(PERIOD).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = watched.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, _), _)| source.clone()).collect())
    }

    /// The newest `api` is the one that is heard: one that was started again must not wait until its last connection is
    /// noticed to be dead.
    fn accept(&mut self) {
        let Ok(connection) = self.entry.accept() else { return };
        let own = rustix::process::geteuid().as_raw();
        let peer = seqpacket::peer_user(connection.as_fd());
        if !peer.is_ok_and(|peer| peer == own || peer == self.api_user) {
            tracing::warn!("somebody else than api has connected, and is not heard");
            return;
        }
        // What it sends beside bytes would be closed here, which may never end.
        let ready = connection
            .set_nonblocking(true)
            .and_then(|()| seqpacket::take_descriptors(connection.as_fd(), false));
        if ready.is_err() {
            return;
        }
        self.api = Some(connection);
        self.say(&ToApi::Node { problem: self.problem.clone() }, &[]);
        let known: Vec<_> = self
            .slots
            .iter()
            .map(|(name, slot)| (name.clone(), slot.held.clone(), slot.user, slot.said.clone()))
            .collect();
        for (slot, Held { holder, number }, user, said) in known {
            self.say(&ToApi::Slot { slot: slot.clone(), holder, number }, &[]);
            if let Some(user) = user {
                self.say(&ToApi::Linked { slot: slot.clone(), user }, &[]);
            }
            if let Some(said) = said {
                self.say(&ToApi::Said { slot }, &said);
            }
        }
    }

    /// To `api`, if there is one. One that does not read is no longer heard: it is told everything when it comes again.
    fn say(&mut self, head: &ToApi, body: &[u8]) {
        if let Some(api) = &self.api
            && let Err(error) = talk::send(api, head, body)
        {
            tracing::warn!("the connection of api has ended: {error}");
            self.api = None;
        }
    }

    fn hear_api(&mut self) {
        let Some(api) = &self.api else { return };
        let message = match api.recv(MOST) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            other => other,
        };
        let read = message.and_then(|message| {
            let message = message.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            if !message.fds.is_empty() {
                // A kernel that does not keep them away.
                std::mem::forget(message.fds);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it sent descriptors"));
            }
            let (head, body) = talk::read::<FromApi>(&message.bytes)?;
            Ok((head, body.to_owned()))
        });
        match read {
            Err(error) => {
                tracing::warn!("the connection of api has ended: {error}");
                self.api = None;
            }
            Ok((FromApi::Prepare { slot, wanted }, _)) => {
                if let Err(why) = self.prepare(&slot, wanted) {
                    self.say(&ToApi::Refused { slot, why }, &[]);
                }
            }
            Ok((FromApi::Relay { slot }, body)) => self.tell(&slot, &ToChild::Relay, &body),
            Ok((FromApi::End { slot }, _)) => self.end(&slot, "api has ended it"),
        }
    }

    fn prepare(&mut self, name: &str, wanted: Wanted) -> Result<(), String> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        possible(&wanted)?;
        let slot = self.slots.get_mut(name).ok_or("there is no such slot")?;
        if self.entered.contains(name) {
            return Err("the slot had its network already: a pod gets one in its life".to_owned());
        }
        let linked = slot.user.is_some();
        let child = slot.child.as_mut().filter(|_| linked).ok_or("its launcher is not connected")?;
        if child.prepare.is_some() {
            return Err("its network is being made".to_owned());
        }
        child.prepare = Some(Instant::now() + PREPARE);
        self.tell(name, &ToChild::Prepare { wanted }, &[]);
        Ok(())
    }

    /// To a child. One that does not read is ended: its launcher does not either.
    fn tell(&mut self, name: &str, head: &ToChild, body: &[u8]) {
        let child = self.slots.get(name).and_then(|slot| slot.child.as_ref());
        let Some(control) = child.and_then(|child| child.control.as_ref()) else { return };
        if talk::send(control, head, body).is_err() {
            self.end(name, "it does not take what is said to it");
        }
    }

    /// Ends the link.
    fn end(&mut self, name: &str, why: &str) {
        if let Some(child) = self.slots.get_mut(name).and_then(|slot| slot.child.as_mut()) {
            child.why.get_or_insert_with(|| why.to_owned());
            child.worker.end(Instant::now());
        }
    }

    /// One message of a child; false when there is none.
    fn hear_child(&mut self, name: &str) -> bool {
        let Some(child) = self.slots.get_mut(name).and_then(|slot| slot.child.as_mut()) else { return false };
        let Some(control) = &child.control else { return false };
        let message = match control.recv(MOST) {
            Ok(Some(message)) => message,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            _ => {
                child.control = None;
                return false;
            }
        };
        match talk::read::<FromChild>(&message.bytes) {
            Ok((head, body)) => self.child_said(name, head, body.to_owned()),
            Err(_) => self.end(name, "it makes no sense"),
        }
        true
    }

    fn child_said(&mut self, name: &str, head: FromChild, body: Vec<u8>) {
        let slot = name.to_owned();
        match head {
            FromChild::Linked { user, cookie } => {
                if let Err(refusal) = self.allowed(name, cookie) {
                    tracing::warn!("slot {name}: {refusal}");
                    return self.end(name, &refusal.to_string());
                }
                if let Some(slot) = self.slots.get_mut(name) {
                    (slot.user, slot.said) = (Some(user), None);
                }
                self.say(&ToApi::Linked { slot, user }, &[]);
            }
            FromChild::Said => {
                // Before it may be linked nothing is passed on.
                if self.slots.get(name).is_none_or(|slot| slot.user.is_none()) {
                    return;
                }
                self.say(&ToApi::Said { slot }, &body);
                if let Some(slot) = self.slots.get_mut(name) {
                    slot.said = Some(body);
                }
            }
            FromChild::Enter { cookie } => {
                let refusal = self.enter(name, cookie).err().map(|refusal| refusal.to_string());
                self.tell(name, &ToChild::Entered { refusal }, &[]);
            }
            FromChild::Ready { facts } => self.made(name, &ToApi::Ready { slot, facts }),
            FromChild::Refused { why } => self.made(name, &ToApi::Refused { slot, why }),
            FromChild::Ending { why } => {
                if let Some(child) = self.slots.get_mut(name).and_then(|slot| slot.child.as_mut()) {
                    child.why.get_or_insert(why);
                }
            }
        }
    }

    fn made(&mut self, name: &str, answer: &ToApi) {
        let child = self.slots.get_mut(name).and_then(|slot| slot.child.as_mut());
        if child.is_some_and(|child| child.prepare.take().is_some()) {
            self.say(answer, &[]);
        }
    }

    fn allowed(&mut self, name: &str, cookie: u64) -> Result<(), super::Refusal> {
        let host =
            self.reader.host().inspect_err(|error| tracing::error!("reading the node's namespace: {error}"));
        self.namespaces.set_host(host.ok().flatten());
        self.namespaces.link(name, cookie)
    }

    fn enter(&mut self, name: &str, cookie: u64) -> Result<(), super::Refusal> {
        self.allowed(name, cookie)?;
        self.namespaces.enter(name, cookie)?;
        self.entered.insert(name.to_owned());
        Ok(())
    }
}

/// Refuses what no pod can have.
fn possible(wanted: &Wanted) -> Result<(), String> {
    if wanted.addresses.is_empty() {
        return Err("the pod has no IPv4 address yet".to_owned());
    }
    if !QUEUES.contains(&wanted.queues) {
        return Err(format!("an interface has {} to {} queues", QUEUES.start(), QUEUES.end()));
    }
    match &wanted.binding {
        Binding::Masquerade { ports } if ports.len() > MOST_PORTS => {
            Err(format!("an interface has at most {MOST_PORTS} ports"))
        }
        _ => Ok(()),
    }
}
