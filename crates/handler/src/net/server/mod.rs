//! The program's loop: it follows the slots, has a child for each, and passes on what children and `api` say. It takes no
//! descriptor and reads no byte of a launcher.

mod api;
mod slots;
mod streams;

use super::{
    child::Worker,
    namespace::Namespaces,
    talk::{self, Binding, Facts, FromChild, MOST, MOST_PORTS, QUEUES, ToApi, ToChild, Wanted},
};
use crate::plug::reader::{Held, Reader};
use api::Api;
use ferrovirt_sys::{
    seqpacket::{Connection, Listener},
    signal::SignalFd,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};
use streams::Streams;

/// Between two looks at deadlines, and at what `plug` knows where the kernel does not report changes.
const PERIOD: Duration = Duration::from_millis(100);
/// Between two looks at what `plug` knows where the kernel reports changes, too.
const SLOW: Duration = Duration::from_secs(2);
/// How long a network may take: the launcher's part, and the kernel's exchanges.
const PREPARE: Duration = Duration::from_secs(60);

/// What a slot's child is started with.
pub(super) struct Job {
    name: String,
    /// Nobody listens yet: what waits to be accepted must not be closed by this process.
    bound: OwnedFd,
    theirs: Connection,
    ours: Connection,
}

impl Job {
    /// The child's part.
    pub(super) fn into_child(self) -> (OwnedFd, Connection) {
        (self.bound, self.theirs)
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
    /// The launcher's link.
    link: Option<Linked>,
    /// What the launcher said last, for an `api` that comes later.
    said: Option<Vec<u8>>,
    next: Instant,
    pause: Duration,
}

/// A link that is heard.
#[derive(Clone, Copy)]
struct Linked {
    number: u64,
    user: u32,
    /// Of its network namespace.
    cookie: u64,
}

impl Slot {
    /// Whether this is the link that is heard now.
    fn has(&self, number: u64) -> bool {
        self.link.is_some_and(|link| link.number == number)
    }
}

/// What a ready descriptor belongs to.
#[derive(Clone)]
enum Source {
    Signals,
    /// What `plug` knows.
    Records,
    Entry,
    Api,
    Control(String),
    Process(String),
    StreamEntry,
    NewStream(u64),
    Stream(u64),
}

/// Everything that the program has.
pub(super) struct Server {
    reader: Reader,
    signals: SignalFd,
    entry: Listener,
    /// Who may be `api`, beside this program's own user.
    api_user: u32,
    api: Option<Api>,
    /// Number of the last link. An earlier run of this program, which `api` may not know to be over, had others.
    links: u64,
    problem: Option<String>,
    namespaces: Namespaces,
    slots: BTreeMap<String, Slot>,
    /// Of these directories a network was made, or begun: there is no second one. And what it is like, or why it was not
    /// made.
    entered: BTreeMap<String, Result<Facts, String>>,
    /// Children of slots that have gone.
    leaving: Vec<(String, Child)>,
    streams: Streams,
    stamp: Option<(i64, u64)>,
    changed: Instant,
    looked: Option<Instant>,
    /// Something has changed since.
    informed: bool,
    failed: bool,
    stop: bool,
}

impl Server {
    pub(super) fn new(
        reader: Reader,
        signals: SignalFd,
        entry: Listener,
        streams: Listener,
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
            links: anywhere(),
            problem,
            namespaces,
            slots: BTreeMap::new(),
            entered: BTreeMap::new(),
            leaving: Vec::new(),
            streams: Streams::new(streams),
            stamp: None,
            changed: Instant::now(),
            looked: None,
            informed: false,
            failed: false,
            stop: false,
        })
    }

    /// Waits for something and deals with it; false when the program is to end.
    pub(super) fn round(&mut self) -> io::Result<bool> {
        for source in self.wait()? {
            match source {
                Source::Signals => self.stop |= self.signals.read()?.is_some(),
                Source::Records => self.informed |= self.reader.hear(),
                Source::Entry => self.accept(),
                Source::Api => self.serve_api(),
                Source::Control(name) => drop(self.hear_child(&name)),
                Source::Process(name) => self.reap(&name),
                Source::StreamEntry => self.accept_stream(),
                Source::NewStream(id) => self.hear_stream(id),
                Source::Stream(id) => self.reap_stream(id),
            }
        }
        let now = Instant::now();
        self.look(now);
        self.deadlines(now);
        self.leave_api(now);
        self.leave_streams(now);
        Ok(!self.stop)
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        // What an api that does not read is to hear waits where it comes from, so that it takes no memory here.
        let takes = self.api.as_ref().is_none_or(Api::takes);
        let mut watched: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
            (Source::Entry, self.entry.as_fd(), PollFlags::IN),
        ];
        watched.extend(self.reader.news().map(|news| (Source::Records, news.as_fd(), PollFlags::IN)));
        watched.extend(self.api.iter().map(|api| (Source::Api, api.as_fd(), api.awaited())));
        for (name, slot) in &self.slots {
            if let Some(child) = &slot.child {
                if let Some(control) = child.control.as_ref().filter(|_| takes) {
                    watched.push((Source::Control(name.clone()), control.as_fd(), PollFlags::IN));
                }
                watched.push((Source::Process(name.clone()), child.worker.as_fd(), PollFlags::IN));
            }
        }
        watched.extend(self.streams.watched());
        let mut fds: Vec<_> =
            watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = Timespec::try_from(PERIOD).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = watched.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, ..), _)| source.clone()).collect())
    }

    fn prepare(&mut self, name: &str, link: u64, wanted: Wanted) -> Result<(), String> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        possible(&wanted)?;
        let slot = self.slots.get_mut(name).ok_or("there is no such slot")?;
        match self.entered.get(name) {
            None => {}
            Some(Ok(_)) => {
                return Err("the slot had its network already: a pod gets one in its life".to_owned());
            }
            Some(Err(why)) => {
                return Err(format!("{why}; a pod's network is begun once in its life: delete the pod"));
            }
        }
        let linked = slot.has(link);
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
                self.links += 1;
                let link = Linked { number: self.links, user, cookie };
                self.namespaces.reserve(name, cookie);
                if let Some(slot) = self.slots.get_mut(name) {
                    (slot.link, slot.said) = (Some(link), None);
                }
                self.say(&ToApi::Linked { slot, link: link.number, user }, &[]);
            }
            FromChild::Said => {
                // Before it may be linked nothing is passed on.
                let link = self.slots.get(name).and_then(|slot| slot.link);
                let Some(Linked { number: link, .. }) = link else { return };
                self.say(&ToApi::Said { slot, link }, &body);
                if let Some(slot) = self.slots.get_mut(name) {
                    slot.said = Some(body);
                }
            }
            FromChild::Enter { cookie } => {
                let refusal = self.enter(name, cookie).err().map(|refusal| refusal.to_string());
                self.tell(name, &ToChild::Entered { refusal }, &[]);
            }
            FromChild::Ready { facts } => self.made(name, Ok(facts)),
            FromChild::Refused { why } => self.made(name, Err(why)),
            FromChild::Ending { why } => {
                if let Some(child) = self.slots.get_mut(name).and_then(|slot| slot.child.as_mut()) {
                    child.why.get_or_insert(why);
                }
            }
        }
    }

    fn made(&mut self, name: &str, made: Result<Facts, String>) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        let link = slot.link.map_or(0, |link| link.number);
        if slot.child.as_mut().is_none_or(|child| child.prepare.take().is_none()) {
            return;
        }
        let slot = name.to_owned();
        match made {
            // Of a directory that nobody has entered there is no network.
            Ok(facts) => {
                let Some(entered) = self.entered.get_mut(name) else { return };
                *entered = Ok(facts.clone());
                self.say(&ToApi::Ready { slot, facts }, &[]);
            }
            Err(why) => {
                self.begun_in_vain(name, &why);
                self.say(&ToApi::Refused { slot, link, why }, &[]);
            }
        }
    }

    /// Keeps why a network that was begun is not there.
    fn begun_in_vain(&mut self, name: &str, why: &str) {
        if let Some(entered @ Err(_)) = self.entered.get_mut(name) {
            *entered = Err(why.to_owned());
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
        self.entered.insert(name.to_owned(), Err("the pod's network was begun and is not there".to_owned()));
        Ok(())
    }
}

/// A number that no other run begins near.
fn anywhere() -> u64 {
    RandomState::new().build_hasher().finish() >> 16
}

/// Refuses what no pod can have.
fn possible(wanted: &Wanted) -> Result<(), String> {
    if !wanted.addresses.iter().any(IpAddr::is_ipv4) {
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
