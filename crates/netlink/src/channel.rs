//! The exchange with the kernel.
//!
//! A [`Channel`] may be a socket that another process has opened and keeps a copy of. That process can take answers
//! away, let the kernel answer requests of its own into the same socket, fill it, or change its options. So every call
//! has a deadline and waits for nothing but datagrams; an answer counts only if it comes from the kernel and the header
//! of the request inside it is the one that was sent, byte for byte; numbers are never used twice; and after a failure
//! that leaves an answer open the channel is over. Lists are read over a [`Socket`] of one's own alone: nobody vouches
//! for those of another.

use crate::{
    message::{ACK, DUMP, DUMP_INTERRUPTED, Header, MULTI, Message},
    read::{self, DONE, ERROR, FIRST_KIND, Part},
};
use ferrovirt_sys::netlink::{self, Protocol};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long one exchange may take. The kernel has one lock for all links of the machine, which others may hold for most
/// of a second.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the longest datagram: the kernel makes none of over 32 KiB for lists, and an error repeats a request.
const DATAGRAM: usize = 128 * 1024;
/// What a socket of one's own has place for: a batch of some thousand messages and as many answers.
const PLACE: usize = 4 * 1024 * 1024;
/// Most bytes of a list.
const MOST_LISTED: usize = 8 * 1024 * 1024;
/// How often a list that changes while it is read is asked for again.
const TRIES: u32 = 5;

/// An exchange that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("{source}{}", reason(.text))]
    Refused {
        /// Its error.
        source: io::Error,
        /// Its reason in words.
        text: Option<String>,
        /// Which request of a batch it was, from 0; `None` for the batch as a whole.
        request: Option<usize>,
    },
    /// A request is longer than netlink can say.
    #[error("a request is longer than netlink can express")]
    TooLong,
    /// No answer within [`TIMEOUT`].
    #[error("the kernel has not answered in time, or its answer was taken away")]
    Timeout,
    /// An answer that did not fit, or that makes no sense.
    #[error("an answer of the kernel is cut off or makes no sense")]
    Malformed,
    /// The list is too long, or changes faster than it can be read.
    #[error("what the kernel lists is too long or changes all the time")]
    List,
    /// A call before has left an answer open.
    #[error("the netlink channel has failed before")]
    Over,
    /// A system call failed.
    #[error("netlink: {0}")]
    Call(#[from] io::Error),
}

fn reason(text: &Option<String>) -> String {
    text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}

impl Error {
    /// The kernel's refusal, if it is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }

    fn refused(error: i32, text: Option<String>, request: Option<usize>) -> Self {
        Self::Refused { source: io::Error::from_raw_os_error(error), text, request }
    }
}

/// A netlink socket, no matter who opened it, for requests that are answered with success or an error.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    sequence: u32,
    timeout: Duration,
    over: bool,
    buffer: Vec<u8>,
}

impl Channel {
    /// Takes over a socket that was checked to be one of netlink. One channel for all the life of a socket: numbers of
    /// requests begin again with it.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0, timeout: TIMEOUT, over: false, buffer: Vec::new() }
    }

    /// Opens a socket of one's own in the calling thread's network namespace, with room for large batches.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let socket = netlink::open(protocol)?;
        netlink::prepare(socket.as_fd(), PLACE)?;
        Ok(Self::new(socket))
    }

    /// Another time than [`TIMEOUT`].
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Has one request carried out.
    ///
    /// # Errors
    /// See [`Error`]; after anything but a refusal the channel is over.
    pub fn order(&mut self, message: &Message) -> Result<(), Error> {
        self.orders(&[], std::slice::from_ref(message), &[])
    }

    /// Has a batch carried out: what `before` and `after` the requests is sent with them and not answered, unless it
    /// fails. Every request between is asked to be answered, so that an answer that is taken away is missed.
    ///
    /// # Errors
    /// As [`Self::order`]. Which request was refused first is said.
    pub fn orders(
        &mut self,
        before: &[Message],
        requests: &[Message],
        after: &[Message],
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let mut sent = Vec::new();
        self.usable()?;
        let acknowledged = before.iter().map(|message| (message, 0));
        let acknowledged = acknowledged.chain(requests.iter().map(|message| (message, ACK)));
        for (message, flags) in acknowledged.chain(after.iter().map(|message| (message, 0))) {
            let sequence = self.number();
            sent.push(message.write(flags, sequence, &mut bytes).ok_or(Error::TooLong)?);
        }
        let mut open: Vec<bool> = sent.iter().map(|header| header.flags & ACK != 0).collect();
        let result = self.carry_out(&bytes, &sent, &mut open, before.len());
        self.over = !matches!(result, Ok(()) | Err(Error::Refused { .. }));
        result
    }

    fn usable(&self) -> Result<(), Error> {
        if self.over { Err(Error::Over) } else { Ok(()) }
    }

    fn number(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn carry_out(
        &mut self,
        bytes: &[u8],
        sent: &[Header],
        open: &mut [bool],
        before: usize,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        send(self.socket.as_fd(), bytes, deadline)?;
        let first = sent.first().map_or(0, |header| header.sequence);
        let mut refused = None;
        loop {
            // Netlink carries a request out before sendto(2) returns: after a refusal there is nothing to wait for.
            let wait = if refused.is_some() { Instant::now() } else { deadline };
            let datagram = match receive(self.socket.as_fd(), &mut self.buffer, wait) {
                Err(Error::Timeout) if refused.is_some() => break,
                other => other?,
            };
            for part in read::parts(datagram) {
                let part = part.map_err(|_| Error::Malformed)?;
                if part.header.kind != ERROR {
                    continue;
                }
                let answer = read::answer(&part).map_err(|_| Error::Malformed)?;
                let place =
                    usize::try_from(answer.request.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if sent.get(place) != Some(&answer.request) {
                    // Somebody else's, or of a request that nobody made.
                    continue;
                }
                if answer.error != 0 && refused.is_none() {
                    let request = place.checked_sub(before);
                    refused = Some(Error::refused(answer.error, answer.text, request));
                }
                if let Some(open) = open.get_mut(place) {
                    *open = false;
                }
            }
            if refused.is_none() && open.iter().all(|open| !open) {
                return Ok(());
            }
            // Anyone who has a copy can have the kernel answer it all the time.
            if Instant::now() >= deadline {
                return Err(refused.unwrap_or(Error::Timeout));
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Whether what was listed was the same all the time.
    pub(crate) fn question(
        &mut self,
        message: &Message,
        flags: u16,
        take: impl FnMut(&Part<'_>),
    ) -> Result<bool, Error> {
        self.usable()?;
        let mut bytes = Vec::new();
        let number = self.number();
        let header = message.write(flags, number, &mut bytes).ok_or(Error::TooLong)?;
        let result = self.read_all(&bytes, &header, take);
        self.over = !matches!(result, Ok(_) | Err(Error::Refused { .. }));
        result
    }

    fn read_all(
        &mut self,
        bytes: &[u8],
        sent: &Header,
        mut take: impl FnMut(&Part<'_>),
    ) -> Result<bool, Error> {
        let deadline = Instant::now() + self.timeout;
        let Self { socket, buffer, .. } = self;
        send(socket.as_fd(), bytes, deadline)?;
        let (mut whole, mut listed) = (true, 0);
        loop {
            let datagram = receive(socket.as_fd(), buffer, deadline)?;
            listed += datagram.len();
            if listed > MOST_LISTED {
                return Err(Error::List);
            }
            for part in read::parts(datagram) {
                let part = part.map_err(|_| Error::Malformed)?;
                if part.header.sequence != sent.sequence {
                    continue;
                }
                if part.header.flags & MULTI != 0 && part.header.flags & DUMP_INTERRUPTED != 0 {
                    whole = false;
                }
                match part.header.kind {
                    ERROR => {
                        let answer = read::answer(&part).map_err(|_| Error::Malformed)?;
                        match answer.error {
                            _ if answer.request != *sent => return Err(Error::Malformed),
                            0 => return Ok(whole),
                            error => return Err(Error::refused(error, answer.text, None)),
                        }
                    }
                    DONE => {
                        // It may carry an error of the list.
                        let error = read::u32_at(part.payload, 0).unwrap_or_default().cast_signed();
                        return match error.checked_neg() {
                            Some(error) if error > 0 => Err(Error::refused(error, None, None)),
                            _ => Ok(whole),
                        };
                    }
                    kind if kind >= FIRST_KIND => take(&part),
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A netlink socket of one's own, which also lists what there is.
#[derive(Debug)]
pub struct Socket(Channel);

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        Ok(Self(Channel::open(protocol)?))
    }

    /// Orders are given as on any channel.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.0
    }

    /// Has one request carried out.
    ///
    /// # Errors
    /// As [`Channel::order`].
    pub fn order(&mut self, message: &Message) -> Result<(), Error> {
        self.0.order(message)
    }

    /// Asks for one thing, and hands its parts to `take`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ask(&mut self, message: &Message, take: impl FnMut(&Part<'_>)) -> Result<(), Error> {
        self.0.question(message, ACK, take).map(|_| ())
    }

    /// Asks for a list until it was read without a change meanwhile, and hands `read` of each part of the last one over.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list<T>(
        &mut self,
        message: &Message,
        read: impl Fn(&Part<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..TRIES {
            let mut all = Vec::new();
            if self.0.question(message, DUMP, |part| all.extend(read(part)))? {
                return Ok(all);
            }
        }
        Err(Error::List)
    }
}

/// Sends, when the socket has place for it.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], deadline: Instant) -> Result<(), Error> {
    loop {
        match netlink::send_to_kernel(socket, bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::OUT, deadline)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return Ok(other?),
        }
    }
}

/// The next datagram of the kernel; what comes from others is passed over.
fn receive<'a>(
    socket: BorrowedFd<'_>,
    buffer: &'a mut Vec<u8>,
    deadline: Instant,
) -> Result<&'a [u8], Error> {
    buffer.resize(DATAGRAM, 0);
    loop {
        match netlink::receive(socket, buffer) {
            Ok(received) if !received.from_kernel => {
                // A flood of those does not go on for ever.
                if Instant::now() >= deadline {
                    return Err(Error::Timeout);
                }
            }
            Ok(received) if received.truncated => return Err(Error::Malformed),
            Ok(received) => return buffer.get(..received.length).ok_or(Error::Malformed),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::IN, deadline)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait(socket: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> Result<(), Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Error::Timeout);
    }
    let timeout = Timespec::try_from(left).map_err(|_| Error::Timeout)?;
    match poll(&mut [PollFd::new(&socket, what)], Some(&timeout)) {
        Ok(0) => Err(Error::Timeout),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}
