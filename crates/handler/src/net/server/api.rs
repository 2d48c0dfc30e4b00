//! The connection of `api`: what is sent to it, at its own speed, and what it asks for.

use super::{
    super::talk::{self, FromApi, MOST, ToApi, ToChild},
    Held, Server,
};
use ferrovirt_sys::seqpacket::{self, Connection};
use rustix::event::PollFlags;
use std::{
    collections::VecDeque,
    io, mem,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// Messages that may wait until nothing more is taken from launchers, and nothing that is asked for.
const MOST_WAITING: usize = 64;
/// How long an `api` may read nothing. It is sent everything when it comes again.
const SILENT: Duration = Duration::from_secs(10);

/// `api`, as it is connected.
pub(super) struct Api {
    connection: Connection,
    /// What did not fit its socket.
    waiting: VecDeque<Vec<u8>>,
    /// Since when it has read nothing of that.
    since: Instant,
}

impl Api {
    fn new(connection: Connection) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        // What it sends beside bytes would be closed here, which may never end.
        seqpacket::take_descriptors(connection.as_fd(), false)?;
        Ok(Self { connection, waiting: VecDeque::new(), since: Instant::now() })
    }

    /// Whether there is room for more.
    pub(super) fn takes(&self) -> bool {
        self.waiting.len() < MOST_WAITING
    }

    /// What is to be waited for.
    pub(super) fn awaited(&self) -> PollFlags {
        match self.waiting.len() {
            0 => PollFlags::IN,
            1..MOST_WAITING => PollFlags::IN | PollFlags::OUT,
            // Most of what it asks for has an answer.
            _ => PollFlags::OUT,
        }
    }

    /// As much as its socket takes.
    fn flush(&mut self) -> io::Result<()> {
        while let Some(packet) = self.waiting.front() {
            match self.connection.send(packet, &[]) {
                Ok(()) => self.since = Instant::now(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    fn say(&mut self, head: &ToApi, body: &[u8]) -> io::Result<()> {
        let packet = talk::packet(head, body)?;
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        self.waiting.push_back(packet);
        self.flush()
    }

    /// The next message, if there is one.
    fn hear(&self) -> io::Result<Option<(FromApi, Vec<u8>)>> {
        let message = match self.connection.recv(MOST) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?,
        };
        if !message.fds.is_empty() {
            // A kernel that does not keep them away.
            mem::forget(message.fds);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sent descriptors"));
        }
        let (head, body) = talk::read::<FromApi>(&message.bytes)?;
        Ok(Some((head, body.to_owned())))
    }
}

impl AsFd for Api {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Server {
    /// The newest `api` is the one that is heard: one that was started again must not wait until its last connection is
    /// noticed to be dead.
    pub(super) fn accept(&mut self) {
        let Ok(connection) = self.entry.accept() else { return };
        if !self.is_api(&connection) {
            return;
        }
        let Ok(api) = Api::new(connection) else { return };
        self.api = Some(api);
        self.say(&ToApi::Node { problem: self.problem.clone() }, &[]);
        for name in self.slots.keys().cloned().collect::<Vec<_>>() {
            self.introduce(&name);
        }
    }

    /// Whether it is `api` that has connected.
    pub(super) fn is_api(&self, connection: &Connection) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let peer = seqpacket::peer_user(connection.as_fd());
        let is_api = peer.is_ok_and(|peer| peer == own || peer == self.api_user);
        if !is_api {
            tracing::warn!("somebody else than api has connected, and is not heard");
        }
        is_api
    }

    /// Says all that there is to say of a slot.
    pub(super) fn introduce(&mut self, name: &str) {
        let Some(slot) = self.slots.get(name) else { return };
        let Held { holder, number } = slot.held.clone();
        let (link, said) = (slot.link, slot.said.clone());
        let hangs = slot.child.as_ref().is_some_and(|child| child.hung);
        let slot = || name.to_owned();
        self.say(&ToApi::Slot { slot: slot(), holder, number }, &[]);
        if let Some(Ok(facts)) = self.entered.get(name) {
            self.say(&ToApi::Ready { slot: slot(), facts: facts.clone() }, &[]);
        }
        if hangs {
            self.say(&ToApi::Hung { slot: slot() }, &[]);
        }
        let Some(link) = link else { return };
        self.say(&ToApi::Linked { slot: slot(), link: link.number, user: link.user }, &[]);
        if let Some(said) = said {
            self.say(&ToApi::Said { slot: slot(), link: link.number }, &said);
        }
    }

    /// To `api`, if there is one.
    pub(super) fn say(&mut self, head: &ToApi, body: &[u8]) {
        let said = self.api.as_mut().map(|api| api.say(head, body));
        self.look_at_api(said);
    }

    fn look_at_api<T>(&mut self, result: Option<io::Result<T>>) -> Option<T> {
        match result? {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!("the connection of api has ended: {error}");
                self.api = None;
                None
            }
        }
    }

    /// Gives up an `api` that reads nothing.
    pub(super) fn leave_api(&mut self, now: Instant) {
        let late = |api: &Api| !api.waiting.is_empty() && now.duration_since(api.since) > SILENT;
        if self.api.as_ref().is_some_and(late) {
            self.look_at_api::<()>(Some(Err(io::Error::other("it reads nothing"))));
        }
    }

    /// It reads again, or asks for something.
    pub(super) fn serve_api(&mut self) {
        let flushed = self.api.as_mut().map(Api::flush);
        self.look_at_api(flushed);
        let heard = self.api.as_ref().filter(|api| api.takes()).map(Api::hear);
        match self.look_at_api(heard).flatten() {
            None => {}
            Some((FromApi::Prepare { slot, link, wanted }, _)) => {
                if let Err(why) = self.prepare(&slot, link, wanted) {
                    self.say(&ToApi::Refused { slot, link, why }, &[]);
                }
            }
            Some((FromApi::Relay { slot, link }, body)) if self.is_heard(&slot, link) => {
                self.tell(&slot, &ToChild::Relay, &body);
            }
            Some((FromApi::End { slot, link }, _)) if self.is_heard(&slot, link) => {
                self.end(&slot, "api has ended it");
            }
            Some((FromApi::Relay { .. } | FromApi::End { .. }, _)) => {}
        }
    }

    fn is_heard(&self, slot: &str, link: u64) -> bool {
        self.slots.get(slot).is_some_and(|slot| slot.has(link))
    }
}
