//! QEMU's process: started once, talked to over one socket, listened to until its last word.

use crate::log;
use ferrovirt_qemu::{
    guest::Exit,
    qmp::{self, Lines, Message},
};
use ferrovirt_sys::{
    calls,
    confine::{self, Filter},
    process::{Setup, spawn},
    seqpacket,
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};
use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Command, Stdio},
};

/// Bytes of standard error that are kept as last words.
const LAST_WORDS: usize = 4096;
/// Longest line of QMP: the answers to our commands and all events are far under it.
const LONGEST: usize = 256 * 1024;
/// Unsent bytes after which QEMU counts as deaf.
const UNSENT: usize = 16 * 1024;

/// Two connected stream sockets: ours, and the one for QEMU.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// What came over QMP.
pub(crate) enum Heard {
    /// Nothing now.
    Nothing,
    /// Messages; there may be more.
    Messages(Vec<Message>),
    /// QEMU has closed its side.
    Closed,
    /// What is no message: QEMU cannot be talked to any more.
    Nonsense(String),
}

/// A running QEMU, or one that has ended and was not reaped yet.
pub(crate) struct Qemu {
    pid: Pid,
    /// The number may be another process's by now.
    reaped: bool,
    /// Gone when QEMU closed it.
    qmp: Option<UnixStream>,
    lines: Lines,
    unsent: Vec<u8>,
    stderr: Option<std::fs::File>,
    line: Vec<u8>,
    last_words: VecDeque<u8>,
}

impl Qemu {
    /// Starts QEMU with descriptors under the numbers that its arguments name. QEMU dies with the launcher.
    pub(crate) fn start(
        program: &Path,
        arguments: Vec<OsString>,
        qmp: OwnedFd,
        fds: Vec<(OwnedFd, i32)>,
        overlays: &Path,
    ) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("TMPDIR", overlays)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        // Less than the launcher may: no child, no signal to another process, no socket of a network.
        let filter = Some(Filter::new(calls::QEMU, Some(confine::LOCAL))?);
        let setup = Setup { fds, parent_death: Some(Signal::KILL), filter, ..Setup::default() };
        let child = spawn(command, setup)?;
        let qmp = UnixStream::from(qmp);
        qmp.set_nonblocking(true)?;
        Ok(Self {
            pid: Pid::from_child(&child),
            reaped: false,
            qmp: Some(qmp),
            lines: Lines::new(LONGEST),
            unsent: Vec::new(),
            stderr: Some(reader.into()),
            line: Vec::new(),
            last_words: VecDeque::new(),
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// The QMP socket, and whether there is something to write to it.
    pub(crate) fn qmp(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.qmp.as_ref().map(|qmp| (qmp.as_fd(), !self.unsent.is_empty()))
    }

    pub(crate) fn stderr(&self) -> Option<BorrowedFd<'_>> {
        self.stderr.as_ref().map(AsFd::as_fd)
    }

    /// Sends a command line now or as soon as QEMU takes it.
    pub(crate) fn send(&mut self, line: &[u8]) -> Result<(), String> {
        self.unsent.extend_from_slice(line);
        self.flush();
        if self.unsent.len() > UNSENT { Err("QEMU does not read its commands".into()) } else { Ok(()) }
    }

    /// Sends a command line with a descriptor, now or not at all.
    pub(crate) fn send_with(&mut self, line: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), String> {
        match &self.qmp {
            Some(qmp) if self.unsent.is_empty() => {
                let sent = seqpacket::send_with_fds(qmp.as_fd(), line, &[descriptor]);
                let sent = sent.map_err(|error| format!("QEMU takes no stream now: {error}"))?;
                self.unsent.extend_from_slice(line.get(sent..).unwrap_or_default());
                Ok(())
            }
            _ => Err("QEMU does not read its commands".into()),
        }
    }

    /// Sends what could not be sent before.
    pub(crate) fn flush(&mut self) {
        let Some(qmp) = &mut self.qmp else { return self.unsent.clear() };
        if let Ok(length) = qmp.write(&self.unsent) {
            self.unsent.drain(..length.min(self.unsent.len()));
        }
        // A broken socket shows when it is read.
    }

    /// What QEMU has said since.
    pub(crate) fn hear(&mut self) -> Heard {
        let Some(qmp) = &mut self.qmp else { return Heard::Nothing };
        let mut piece = [0; 4096];
        match qmp.read(&mut piece) {
            Ok(length @ 1..) => self.lines.push(piece.get(..length).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Heard::Nothing;
            }
            Ok(_) | Err(_) => {
                self.qmp = None;
                return Heard::Closed;
            }
        }
        let mut messages = Vec::new();
        let nonsense = loop {
            match self.lines.next_line() {
                Ok(None) => return Heard::Messages(messages),
                Ok(Some(line)) => match qmp::parse(&line) {
                    Ok(message) => messages.push(message),
                    Err(error) => break error.to_string(),
                },
                Err(error) => break error.to_string(),
            }
        };
        self.qmp = None;
        Heard::Nonsense(format!("QEMU cannot be understood: {nonsense}"))
    }

    /// Copies what QEMU wrote to standard error to the log. False when nothing was there.
    pub(crate) fn copy_stderr(&mut self) -> bool {
        let Some(stderr) = &mut self.stderr else { return false };
        let mut piece = [0; 4096];
        let bytes = match stderr.read(&mut piece) {
            Ok(length @ 1..) => piece.get(..length).unwrap_or_default(),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return false;
            }
            Ok(_) | Err(_) => {
                self.stderr = None;
                return false;
            }
        };
        let excess = (self.last_words.len() + bytes.len()).saturating_sub(LAST_WORDS);
        self.last_words.drain(..excess.min(self.last_words.len()));
        self.last_words.extend(bytes);
        for byte in bytes {
            if *byte == b'\n' || self.line.len() >= LAST_WORDS {
                log::line(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
        true
    }

    /// The end of what QEMU wrote to standard error.
    pub(crate) fn last_words(&mut self) -> String {
        if !self.line.is_empty() {
            log::line(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
        String::from_utf8_lossy(self.last_words.make_contiguous()).into_owned()
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        if !self.reaped
            && let Err(error) = kill_process(self.pid, Signal::KILL)
        {
            log::line(&format!("QEMU could not be killed: {error}"));
        }
    }
}

/// Reaps every process that has ended, ours and orphans that became ours; QEMU's exit when it is among them.
pub(crate) fn reap(mut qemu: Option<&mut Qemu>) -> Option<Exit> {
    let mut exit = None;
    loop {
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let Some(qemu) = qemu.as_mut().filter(|qemu| qemu.pid == pid && !qemu.reaped) else {
                    continue;
                };
                qemu.reaped = true;
                let signal = status.terminating_signal().unwrap_or_default();
                exit = Some(status.exit_status().map_or(Exit::Signal(signal), Exit::Code));
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return exit,
        }
    }
}
