//! The guest's serial port: a log of bounded size, and one client at a time.

use crate::log;
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

/// The log grows to twice this many bytes, then its last half stays.
const LOG: u64 = 1024 * 1024;
/// Output that a client may lag behind.
const RING: usize = 64 * 1024;
/// Earlier output that a new client gets first.
const REPLAY: u64 = 16 * 1024;
/// Bytes that are read at once.
const PIECE: usize = 4096;

/// The port.
pub(crate) struct Serial {
    /// Our end of QEMU's character device; gone when QEMU closed it.
    guest: Option<UnixStream>,
    listener: UnixListener,
    client: Option<Client>,
    ring: VecDeque<u8>,
    /// Bytes that the guest has written in all; the ring ends here.
    written: u64,
    log: File,
    logged: u64,
    log_failed: bool,
}

struct Client {
    stream: UnixStream,
    /// Bytes of the guest's output that it got, or that were dropped because it was too slow.
    position: u64,
    /// Typed, but not taken by the guest yet. Nothing more is read until it is empty.
    input: Vec<u8>,
}

impl Serial {
    /// `run`: the directory of `serial.log` and `sockets/serial0.sock`.
    pub(crate) fn new(guest: OwnedFd, run: &Path) -> io::Result<Self> {
        let path = run.join("sockets/serial0.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let guest = UnixStream::from(guest);
        guest.set_nonblocking(true)?;
        let mut open = OpenOptions::new();
        let log = open.read(true).write(true).create(true).truncate(true).open(run.join("serial.log"))?;
        Ok(Self {
            guest: Some(guest),
            listener,
            client: None,
            ring: VecDeque::new(),
            written: 0,
            log,
            logged: 0,
            log_failed: false,
        })
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The guest's end, and whether there is something to write to it.
    pub(crate) fn guest(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let waiting = self.client.as_ref().is_some_and(|client| !client.input.is_empty());
        self.guest.as_ref().map(|guest| (guest.as_fd(), waiting))
    }

    /// The client, whether to read from it, and whether there is something to write to it.
    pub(crate) fn client(&self) -> Option<(BorrowedFd<'_>, bool, bool)> {
        self.client.as_ref().map(|client| {
            (
                client.stream.as_fd(),
                client.input.is_empty() && self.guest.is_some(),
                client.position < self.written,
            )
        })
    }

    /// Takes a new client in place of the one before.
    pub(crate) fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        self.take(stream);
    }

    /// The same with a client that is connected in another way.
    pub(crate) fn take(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_ok() {
            let position = self.written.saturating_sub(REPLAY).max(self.oldest());
            self.client = Some(Client { stream, position, input: Vec::new() });
            self.write_client();
        }
    }

    /// Moves what the guest wrote. False when nothing was there.
    pub(crate) fn read_guest(&mut self) -> bool {
        let Some(guest) = &mut self.guest else { return false };
        let mut piece = [0; PIECE];
        match guest.read(&mut piece) {
            Ok(0) => self.guest = None,
            Ok(length) => {
                let bytes = piece.get(..length).unwrap_or_default();
                self.keep(bytes);
                self.write_client();
                return true;
            }
            Err(error) if would_block(&error) => {}
            Err(_) => self.guest = None,
        }
        false
    }

    fn keep(&mut self, bytes: &[u8]) {
        let excess = (self.ring.len() + bytes.len()).saturating_sub(RING);
        self.ring.drain(..excess.min(self.ring.len()));
        self.ring.extend(bytes);
        self.written += bytes.len() as u64;
        if let Err(error) = self.write_log(bytes)
            && !self.log_failed
        {
            self.log_failed = true;
            log::line(&format!("serial.log is not written any more: {error}"));
        }
    }

    fn write_log(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.log_failed {
            return Ok(());
        }
        self.log.write_all_at(bytes, self.logged)?;
        self.logged += bytes.len() as u64;
        if self.logged >= 2 * LOG {
            let from = self.logged - LOG;
            let mut moved = 0;
            let mut piece = [0; PIECE];
            while moved < LOG {
                let length = self.log.read_at(&mut piece, from + moved)?;
                let Some(bytes @ [_, ..]) = piece.get(..length) else { break };
                self.log.write_all_at(bytes, moved)?;
                moved += length as u64;
            }
            self.log.set_len(moved)?;
            self.logged = moved;
        }
        Ok(())
    }

    /// Position of the oldest byte that is still kept.
    fn oldest(&self) -> u64 {
        self.written - self.ring.len() as u64
    }

    /// Sends the client what it has not got.
    pub(crate) fn write_client(&mut self) {
        let oldest = self.oldest();
        let Some(client) = &mut self.client else { return };
        client.position = client.position.max(oldest);
        while client.position < self.written {
            let skip = usize::try_from(client.position - oldest).unwrap_or(usize::MAX).min(self.ring.len());
            let (first, second) = self.ring.as_slices();
            let bytes = match first.get(skip..) {
                Some(bytes @ [_, ..]) => bytes,
                _ => second.get(skip.saturating_sub(first.len())..).unwrap_or_default(),
            };
            match send(&client.stream, bytes) {
                Ok(length) => client.position += length as u64,
                Err(error) if would_block(&error) => return,
                Err(_) => {
                    self.client = None;
                    return;
                }
            }
        }
    }

    /// Reads what the client typed.
    pub(crate) fn read_client(&mut self) {
        let Some(client) = &mut self.client else { return };
        if !client.input.is_empty() {
            // Not asked for: the client hung up, and the guest does not take what it typed.
            self.client = None;
            return;
        }
        let mut piece = [0; PIECE];
        match client.stream.read(&mut piece) {
            Ok(0) => self.client = None,
            Ok(length) => {
                client.input = piece.get(..length).unwrap_or_default().to_vec();
                self.write_guest();
            }
            Err(error) if would_block(&error) => {}
            Err(_) => self.client = None,
        }
    }

    /// Gives the guest what the client typed.
    pub(crate) fn write_guest(&mut self) {
        let (Some(guest), Some(client)) = (&mut self.guest, &mut self.client) else { return };
        match send(guest, &client.input) {
            Ok(length) => drop(client.input.drain(..length.min(client.input.len()))),
            Err(error) if would_block(&error) => {}
            Err(_) => self.guest = None,
        }
    }
}

fn send(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    stream.write(bytes)
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    struct Port {
        serial: Serial,
        guest: UnixStream,
        directory: tempfile::TempDir,
    }

    impl Port {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            std::fs::create_dir(directory.path().join("sockets")).unwrap();
            let (ours, guest) = UnixStream::pair().unwrap();
            Self { serial: Serial::new(ours.into(), directory.path()).unwrap(), guest, directory }
        }

        fn client(&mut self) -> UnixStream {
            let client = UnixStream::connect(self.directory.path().join("sockets/serial0.sock")).unwrap();
            client.set_nonblocking(true).unwrap();
            self.serial.accept();
            client
        }

        fn says(&mut self, bytes: &[u8]) {
            for piece in bytes.chunks(PIECE) {
                self.guest.write_all(piece).unwrap();
                while self.serial.read_guest() {}
            }
        }

        fn log(&self) -> Vec<u8> {
            std::fs::read(self.directory.path().join("serial.log")).unwrap()
        }
    }

    fn heard(client: &mut UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        // Ends with the error of an empty non-blocking socket, or with its end.
        let _ = client.read_to_end(&mut all);
        all
    }

    fn noise(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n / 251 % 251) as u8 ^ (n % 251) as u8).collect()
    }

    #[test]
    fn a_new_client_gets_recent_output_and_takes_the_place_of_the_one_before() {
        let mut port = Port::new();
        let output = noise(40_000);
        port.says(&output);
        let mut first = port.client();
        assert_eq!(heard(&mut first), output[output.len() - 16 * 1024..]);
        let mut second = port.client();
        port.says(b"more");
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        assert!(heard(&mut second).ends_with(b"more"));
    }

    #[test]
    fn a_slow_client_loses_the_oldest_output_and_holds_up_nobody() {
        let mut port = Port::new();
        let mut client = port.client();
        let output = noise(2_000_000);
        port.says(&output);
        let mut got = heard(&mut client);
        assert!(got.len() < output.len());
        assert_eq!(got, output[..got.len()]);
        loop {
            port.serial.write_client();
            let more = heard(&mut client);
            if more.is_empty() {
                break;
            }
            got = more;
        }
        assert!(output.ends_with(&got));
    }

    #[test]
    fn what_is_typed_waits_for_the_guest() {
        let mut port = Port::new();
        let mut client = port.client();
        port.guest.set_nonblocking(true).unwrap();
        let typed = noise(1_000_000);
        let mut sent = 0;
        let mut received = Vec::new();
        while received.len() < typed.len() {
            if let Ok(length) = client.write(&typed[sent..]) {
                sent += length;
            }
            match port.serial.client() {
                Some((_, true, _)) => port.serial.read_client(),
                _ => port.serial.write_guest(),
            }
            if port.serial.guest().unwrap().1 || sent == typed.len() {
                received.extend(heard(&mut port.guest));
            }
        }
        assert_eq!(received, typed);
    }

    #[test]
    fn the_log_keeps_the_last_of_the_output_in_a_bounded_file() {
        let mut port = Port::new();
        let output = noise(5 * 1024 * 1024 + 12_345);
        for piece in output.chunks(100_000) {
            port.says(piece);
            assert!(port.log().len() as u64 <= 2 * LOG + PIECE as u64);
        }
        let log = port.log();
        assert!(log.len() as u64 >= LOG);
        assert!(output.ends_with(&log));
    }

    #[test]
    fn a_guest_that_closed_its_port_leaves_the_client_what_was_said() {
        let mut port = Port::new();
        port.says(b"bye");
        drop(std::mem::replace(&mut port.guest, UnixStream::pair().unwrap().0));
        assert!(!port.serial.read_guest());
        assert!(port.serial.guest().is_none());
        let mut client = port.client();
        assert_eq!(heard(&mut client), b"bye");
    }
}
