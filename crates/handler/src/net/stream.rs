//! What the child of a console does: it waits for the slot's launcher, and carries bytes between it and `api` until one of
//! them ends. It ends by exit, as the child of a link does: closing what a launcher has sent can wait for ever.

use super::{
    child::wait,
    talk::{self, MOST_OF_STREAM, Opened},
};
use ferrovirt_sys::{
    netns,
    seqpacket::{self, Connection},
};
use rustix::event::{PollFd, PollFlags};
use std::{
    io::{self, ErrorKind, Read, Write},
    mem,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

/// How long the launcher may take to connect.
const AWAITED: Duration = Duration::from_secs(10);

/// What the child is started with.
pub(super) struct Job {
    /// The socket's name.
    pub(super) socket: String,
    /// Where the launcher is to connect, when this process listens.
    pub(super) bound: OwnedFd,
    pub(super) api: Connection,
    /// Of the slot's link: only the same launcher is served.
    pub(super) user: u32,
    pub(super) cookie: u64,
}

/// Carries one console and returns when it has ended: then this process has to end, before anything is closed.
pub(super) fn run(job: Job) -> ! {
    let Job { socket, bound, api, user, cookie } = job;
    let listener = UnixListener::from(bound);
    let outcome = rustix::net::listen(&listener, 1)
        .map_err(io::Error::from)
        .and_then(|()| serve(socket, &listener, &api, user, cookie));
    let code = i32::from(outcome.is_err());
    match outcome {
        Ok(stream) => mem::forget(stream),
        Err(error) => tracing::debug!("a console has ended: {error}"),
    }
    mem::forget((listener, api));
    std::process::exit(code)
}

fn serve(
    socket: String,
    listener: &UnixListener,
    api: &Connection,
    user: u32,
    cookie: u64,
) -> io::Result<Option<UnixStream>> {
    talk::send(api, &Opened::Listening { socket }, &[])?;
    let until = Instant::now() + AWAITED;
    let stream = loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(api, PollFlags::empty())];
        wait(&mut ready, Some(until))?;
        let [of_listener, of_api] = ready.map(|fd| !fd.revents().is_empty());
        if of_api || until <= Instant::now() {
            return Ok(None);
        }
        if of_listener {
            break listener.accept()?.0;
        }
    };
    // The socket is open to anyone who sees the slot, which is one container of one pod: but only while that is the same one.
    if seqpacket::peer_user(stream.as_fd())? != user || netns::cookie(stream.as_fd())? != cookie {
        mem::forget(stream);
        return Err(io::Error::other("somebody else than the launcher has connected"));
    }
    seqpacket::take_descriptors(stream.as_fd(), false)?;
    stream.set_nonblocking(true)?;
    talk::send(api, &Opened::Connected, &[])?;
    let ended = Pump { stream: &stream, api, to_api: Vec::new(), to_launcher: Vec::new() }.run();
    if let Err(error) = ended {
        mem::forget(stream);
        return Err(error);
    }
    Ok(Some(stream))
}

/// At most one message is on the way in each direction.
struct Pump<'a> {
    stream: &'a UnixStream,
    api: &'a Connection,
    to_api: Vec<u8>,
    to_launcher: Vec<u8>,
}

impl Pump<'_> {
    /// Until one of both ends. What the launcher said last is still passed on.
    fn run(&mut self) -> io::Result<()> {
        let mut gone = false;
        loop {
            if gone && self.to_api.is_empty() && !self.read()? {
                return Ok(());
            }
            let flags = |incoming: &[u8], outgoing: &[u8]| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, incoming.is_empty());
                flags.set(PollFlags::OUT, !outgoing.is_empty());
                flags
            };
            let mut ready = vec![PollFd::new(self.api, flags(&self.to_launcher, &self.to_api))];
            if !gone {
                ready.push(PollFd::new(self.stream, flags(&self.to_api, &self.to_launcher)));
            }
            wait(&mut ready, None)?;
            let mut ready = ready.iter().map(|fd| fd.revents());
            let (of_api, of_stream) = (ready.next(), ready.next());
            let [of_api, of_stream] = [of_api, of_stream].map(|flags| flags.unwrap_or(PollFlags::empty()));
            let over = |flags: PollFlags| {
                flags.intersects(PollFlags::HUP | PollFlags::ERR) && !flags.contains(PollFlags::IN)
            };
            if over(of_api) {
                return Ok(());
            }
            gone |= over(of_stream);
            if of_stream.contains(PollFlags::OUT) && !gone {
                self.write()?;
            }
            if of_api.contains(PollFlags::OUT) {
                self.send()?;
            }
            if of_stream.contains(PollFlags::IN) && !self.read()? {
                return Ok(());
            }
            if of_api.contains(PollFlags::IN) && !self.receive()? {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; MOST_OF_STREAM];
        match (&mut self.stream).read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(length) => {
                bytes.truncate(length);
                self.to_api = bytes;
                self.send().map(|()| true)
            }
            Err(error) if later(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        match self.api.send(&self.to_api, &[]) {
            Ok(()) => self.to_api.clear(),
            Err(error) if later(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<bool> {
        match self.api.recv(MOST_OF_STREAM) {
            Ok(None) => Ok(false),
            Ok(Some(message)) => {
                // A kernel that does not keep them away.
                mem::forget(message.fds);
                self.to_launcher = message.bytes;
                self.write().map(|()| true)
            }
            Err(error) if later(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        match (&mut self.stream).write(&self.to_launcher) {
            Ok(length) => drop(self.to_launcher.drain(..length.min(self.to_launcher.len()))),
            Err(error) if later(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
