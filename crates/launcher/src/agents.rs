//! Connections of the node agent: usually one, two while it is being replaced.

use crate::{
    log,
    slot::{Network, Slot},
};
use ferrovirt_qemu::{
    protocol::{Event, MAX_DESCRIPTORS, MAX_MESSAGE, Purpose, Request},
    seed::Files,
};
use ferrovirt_sys::seqpacket::{Connection, Listener};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

/// Most connections at a time.
const MOST: usize = 16;
/// Most descriptors that wait for an order.
const MOST_DESCRIPTORS: usize = 4000;

/// A descriptor and what it is.
pub(crate) type Passed = (Purpose, OwnedFd);

/// How connections come about.
enum Entry {
    /// Others connect.
    Listener(Listener),
    /// The launcher connects: there is one link, or none.
    Slot(Slot),
}

/// Entry and connections.
pub(crate) struct Agents {
    entry: Entry,
    connections: Vec<Agent>,
    next: u64,
}

struct Agent {
    id: u64,
    connection: Connection,
    /// Descriptors that came before an order. They go with the connection, so that an agent that starts again can
    /// send all of them again.
    passed: Vec<Passed>,
    /// Files that came before an order, likewise.
    files: Files,
}

impl Agents {
    pub(crate) fn new(listener: Listener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { entry: Entry::Listener(listener), connections: Vec::new(), next: 0 })
    }

    pub(crate) fn on_slot(slot: Slot) -> Self {
        Self { entry: Entry::Slot(slot), connections: Vec::new(), next: 0 }
    }

    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        match &self.entry {
            Entry::Listener(listener) => Some(listener.as_fd()),
            Entry::Slot(_) => None,
        }
    }

    /// Whether orders come through a slot.
    pub(crate) fn has_slot(&self) -> bool {
        matches!(self.entry, Entry::Slot(_))
    }

    /// When to [connect](Self::connect).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.entry {
            Entry::Slot(slot) if self.connections.is_empty() => Some(slot.next()),
            _ => None,
        }
    }

    /// Connects to the handler where there is a slot, no link, and time for a try; greets it with `state`.
    pub(crate) fn connect(&mut self, state: &Event) {
        if let Entry::Slot(slot) = &mut self.entry
            && self.connections.is_empty()
            && let Some(connection) = slot.connect()
        {
            self.add(connection, state);
        }
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.connections.iter().map(|agent| (agent.id, agent.connection.as_fd()))
    }

    /// Takes a new connection and greets it with `state`.
    pub(crate) fn accept(&mut self, state: &Event) {
        let Entry::Listener(listener) = &self.entry else { return };
        let connection = match listener.accept() {
            Ok(connection) => connection,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return log::line(&format!("accepting a connection: {error}")),
        };
        if self.connections.len() >= MOST {
            return log::line("too many connections: one was closed");
        }
        self.add(connection, state);
    }

    fn add(&mut self, connection: Connection, state: &Event) {
        if connection.set_nonblocking(true).is_ok() {
            self.next += 1;
            self.connections.push(Agent {
                id: self.next,
                connection,
                passed: Vec::new(),
                files: Files::default(),
            });
            self.send(self.next, state);
        }
    }

    /// The next request of a connection. Descriptors are kept; `waiting` says whether an order may still come. What
    /// cannot be read is answered here.
    pub(crate) fn receive(&mut self, id: u64, waiting: bool) -> Option<Request> {
        let agent = self.connections.iter_mut().find(|agent| agent.id == id)?;
        let message = match agent.connection.recv(MAX_MESSAGE) {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.close(id);
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.refuse(
                    id,
                    format!("a message has at most {MAX_MESSAGE} bytes and {MAX_DESCRIPTORS} descriptors"),
                );
                self.close(id);
                return None;
            }
            Err(error) => {
                log::line(&format!("a connection ended: {error}"));
                self.close(id);
                return None;
            }
        };
        match serde_json::from_slice::<Request>(&message.bytes) {
            Err(error) => {
                self.refuse(id, format!("this is no request that this launcher knows: {error}"));
                None
            }
            Ok(Request::Descriptors { purposes }) => {
                let problem = if purposes.len() != message.fds.len() {
                    format!("{} purposes for {} descriptors", purposes.len(), message.fds.len())
                } else if !waiting {
                    "a guest was already started".into()
                } else if agent.passed.len() + purposes.len() > MOST_DESCRIPTORS {
                    format!("more than {MOST_DESCRIPTORS} descriptors")
                } else {
                    agent.passed.extend(purposes.into_iter().zip(message.fds));
                    return None;
                };
                self.refuse(id, problem);
                None
            }
            Ok(Request::Piece { piece }) if waiting && message.fds.is_empty() => {
                if let Err(error) = agent.files.add(piece) {
                    self.refuse(id, error.to_string());
                }
                None
            }
            Ok(_) if !message.fds.is_empty() => {
                self.refuse(id, "descriptors come with a descriptors message only".into());
                None
            }
            Ok(request) => {
                if let Entry::Slot(slot) = &mut self.entry {
                    slot.works();
                }
                Some(request)
            }
        }
    }

    /// The descriptors and files that a connection has passed.
    pub(crate) fn take_passed(&mut self, id: u64) -> (Vec<Passed>, Files) {
        let agent = self.connections.iter_mut().find(|agent| agent.id == id);
        agent
            .map(|agent| (std::mem::take(&mut agent.passed), std::mem::take(&mut agent.files)))
            .unwrap_or_default()
    }

    /// Drops what waited for an order on every connection: there will be no other order.
    pub(crate) fn drop_passed(&mut self) {
        for agent in &mut self.connections {
            agent.passed = Vec::new();
            agent.files = Files::default();
        }
    }

    pub(crate) fn close(&mut self, id: u64) {
        self.connections.retain(|agent| agent.id != id);
        if let Entry::Slot(slot) = &mut self.entry {
            slot.ended();
        }
    }

    /// Sends copies of what a TAP is made with.
    pub(crate) fn send_network(&mut self, id: u64, network: &Network) {
        let Ok(bytes) = serde_json::to_vec(&Event::Network) else { return };
        let Some(agent) = self.connections.iter().find(|agent| agent.id == id) else { return };
        let descriptors: Vec<_> = network.descriptors().map(AsFd::as_fd).collect();
        if let Err(error) = agent.connection.send(&bytes, &descriptors) {
            // Others of this user may have too many on the way: ETOOMANYREFS. The handler can ask again.
            self.refuse(id, format!("sending the descriptors of the network: {error}"));
        }
    }

    pub(crate) fn refuse(&mut self, id: u64, message: String) {
        log::line(&format!("refused: {message}"));
        self.send(id, &Event::Refused { message, console: None });
    }

    /// Refuses the console for which somebody waits at this socket.
    pub(crate) fn refuse_console(&mut self, id: u64, socket: String, message: String) {
        log::line(&format!("refused: {message}"));
        self.send(id, &Event::Refused { message, console: Some(socket) });
    }

    /// Says that an order cannot be carried out now.
    pub(crate) fn not_ready(&mut self, id: u64, message: String) {
        log::line(&format!("not ready: {message}"));
        self.send(id, &Event::NotReady { message });
    }

    pub(crate) fn broadcast(&mut self, event: &Event) {
        let everyone: Vec<u64> = self.connections.iter().map(|agent| agent.id).collect();
        for id in everyone {
            self.send(id, event);
        }
    }

    /// Sends to one connection; one that does not take it is closed: it must not hold up the guest, and gets the
    /// state again when it connects again.
    fn send(&mut self, id: u64, event: &Event) {
        let Ok(bytes) = serde_json::to_vec(event) else { return };
        let Some(agent) = self.connections.iter().find(|agent| agent.id == id) else { return };
        if agent.connection.send(&bytes, &[]).is_err() {
            self.close(id);
        }
    }
}
