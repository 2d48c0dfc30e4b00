//! Consoles: `api` opens a connection for each, and a child carries its bytes.

use super::{
    super::{
        child::Worker,
        stream::Job,
        talk::{self, NotOpened, Open, Opened},
    },
    Server, Source,
};
use ferrovirt_sys::{
    fork::Process,
    seqpacket::{self, Connection, Listener},
};
use rustix::{event::PollFlags, net::SocketType};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

/// Connections of which nothing is known yet, and how long that may last.
const MOST_NEW: usize = 16;
const NEW: Duration = Duration::from_secs(5);
/// Consoles at the same time: of a slot, and in all beside the first one of each. Of a serial port the latest counts alone.
const MOST_OF_A_SLOT: usize = 4;
const MOST: usize = 64;
/// Bytes of the first message.
const FIRST: usize = 1024;

/// A console.
struct Stream {
    slot: String,
    link: u64,
    path: PathBuf,
    worker: Worker,
    hung: bool,
}

/// Where consoles are asked for, and those that there are.
pub(super) struct Streams {
    entry: Listener,
    new: BTreeMap<u64, (Connection, Instant)>,
    jobs: VecDeque<(Job, Prepared)>,
    running: BTreeMap<u64, Stream>,
    count: u64,
}

/// A console whose child is not started yet.
pub(in super::super) struct Prepared {
    slot: String,
    link: u64,
    path: PathBuf,
}

impl Streams {
    pub(super) fn new(entry: Listener) -> Self {
        let (new, jobs, running) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        Self { entry, new, jobs, running, count: 0 }
    }

    pub(super) fn watched(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let entry = (Source::StreamEntry, self.entry.as_fd(), PollFlags::IN);
        let new = self.new.iter().map(|(id, (new, _))| (Source::NewStream(*id), new.as_fd(), PollFlags::IN));
        let running = self.running.iter();
        let running = running.map(|(id, stream)| (Source::Stream(*id), stream.worker.as_fd(), PollFlags::IN));
        std::iter::once(entry).chain(new).chain(running)
    }
}

impl Server {
    pub(super) fn accept_stream(&mut self) {
        let Ok(connection) = self.streams.entry.accept() else { return };
        if !self.is_api(&connection) || self.streams.new.len() >= MOST_NEW {
            return;
        }
        let ready = connection
            .set_nonblocking(true)
            .and_then(|()| seqpacket::take_descriptors(connection.as_fd(), false));
        if ready.is_ok() {
            self.streams.count += 1;
            self.streams.new.insert(self.streams.count, (connection, Instant::now()));
        }
    }

    /// What a new connection is for.
    pub(super) fn hear_stream(&mut self, id: u64) {
        let Some((connection, _)) = self.streams.new.get(&id) else { return };
        let message = match connection.recv(FIRST) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            other => other.ok().flatten(),
        };
        let Some((connection, _)) = self.streams.new.remove(&id) else { return };
        let Some(message) = message else { return };
        // A kernel that does not keep them away.
        std::mem::forget(message.fds);
        let Ok((Open { slot, link }, _)) = talk::read::<Open>(&message.bytes) else { return };
        if let Err((connection, kind, why)) = self.prepare_stream(id, slot, link, connection) {
            // One that does not read it learns it by the end.
            drop(talk::send(&connection, &Opened::Refused { kind, why: why.to_owned() }, &[]));
        }
    }

    fn prepare_stream(
        &mut self,
        id: u64,
        slot: String,
        link: u64,
        api: Connection,
    ) -> Result<(), (Connection, NotOpened, &'static str)> {
        let heard = self.slots.get(&slot).filter(|slot| slot.has(link)).and_then(|slot| slot.link);
        let Some(heard) = heard else {
            return Err((api, NotOpened::Away, "its launcher is not connected"));
        };
        let of_slot = |stream: &&Stream| stream.slot == slot;
        let waiting = self.streams.jobs.iter().filter(|(_, waiting)| waiting.slot == slot).count();
        let there = self.streams.running.values().filter(of_slot).count() + waiting;
        let all = self.streams.running.len() + self.streams.jobs.len();
        // Everybody has one, whatever others have opened.
        if there >= MOST_OF_A_SLOT || all >= MOST && there > 0 {
            let why = "too many consoles of this machine are open: close others";
            return Err((api, NotOpened::Full, why));
        }
        let socket = format!("console-{id}");
        let path = self.reader.slot(&slot).join(&socket);
        let bind = || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let bound = seqpacket::bind(&path, SocketType::STREAM)?;
            seqpacket::take_descriptors(bound.as_fd(), false)?;
            Ok(bound)
        };
        match bind() {
            Ok(bound) => {
                let job = Job { socket, bound, api, user: heard.user, cookie: heard.cookie };
                self.streams.jobs.push_back((job, Prepared { slot, link, path }));
                Ok(())
            }
            Err(error) => {
                tracing::error!("listening on {}: {error}", path.display());
                Err((api, NotOpened::Failed, "nobody can listen for the launcher"))
            }
        }
    }

    /// The next child to be started.
    pub(in super::super) fn due_stream(&mut self) -> Option<(Job, Prepared)> {
        self.streams.jobs.pop_front()
    }

    /// It has been started, or could not be.
    pub(in super::super) fn stream_started(&mut self, stream: Prepared, process: Option<Process>) {
        let Prepared { slot, link, path } = stream;
        let Some(process) = process else { return remove(&path) };
        self.streams.count += 1;
        let stream = Stream { slot, link, path, worker: Worker::of(process), hung: false };
        self.streams.running.insert(self.streams.count, stream);
    }

    pub(super) fn reap_stream(&mut self, id: u64) {
        if self.streams.running.get_mut(&id).is_some_and(|stream| stream.worker.is_gone())
            && let Some(stream) = self.streams.running.remove(&id)
        {
            remove(&stream.path);
        }
    }

    /// Consoles end with their links.
    pub(super) fn leave_streams(&mut self, now: Instant) {
        self.streams.new.retain(|_, (_, since)| now.duration_since(*since) < NEW);
        for stream in self.streams.running.values_mut() {
            if !self.slots.get(&stream.slot).is_some_and(|slot| slot.has(stream.link)) {
                stream.worker.end(now);
            }
            if stream.worker.hangs(now) && !std::mem::replace(&mut stream.hung, true) {
                tracing::error!("what carries a console of the slot {} cannot be ended", stream.slot);
            }
        }
    }

    pub(super) fn end_streams(&mut self, now: Instant) -> bool {
        for stream in self.streams.running.values_mut() {
            stream.worker.end(now);
        }
        for id in self.streams.running.keys().copied().collect::<Vec<_>>() {
            self.reap_stream(id);
        }
        self.streams.running.is_empty()
    }
}

fn remove(path: &std::path::Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("removing {}: {error}", path.display());
        }
        _ => {}
    }
}
