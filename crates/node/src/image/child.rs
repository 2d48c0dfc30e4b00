//! The agent's side of an unpacking process: it opens what the process asks for, and believes nothing that it says.

use ferrovirt_sys::{
    process::{Setup, spawn},
    seqpacket::Connection,
};
use ferrovirt_unpack::{COMMAND, Failure, MAX_MESSAGE, SOCKET, Said, Start, USER, is_hex};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, ResolveFlags, openat2},
    process::Signal,
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long one image may take in all, and in which each message of the process has to come.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Most files that a process may ask for: documents and layers.
const MAX_OPENED: usize = 600;

/// An opened layout.
pub(super) struct Place {
    /// The directory, or the archive.
    pub(super) fd: OwnedFd,
    pub(super) archive: bool,
}

/// A process that has found the manifest of an image and waits to unpack it.
pub(super) struct Unpacker {
    process: std::process::Child,
    connection: Connection,
    place: Place,
    end: Instant,
    opened: usize,
}

impl Unpacker {
    /// Starts one for the layout at `place`, which may write into `target` only; the manifest's digest comes with it.
    pub(super) fn start(
        program: &Path,
        place: Place,
        target: BorrowedFd<'_>,
        start: &Start,
    ) -> Result<(Self, String), Failure> {
        let (ours, theirs) = Connection::pair()?;
        let mut command = Command::new(program);
        // Without a name or an environment that says anything about the node.
        command.arg(COMMAND).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let setup = Setup {
            fds: vec![(theirs.into_fd(), SOCKET)],
            parent_death: Some(Signal::KILL),
            user: Some(USER),
            ..Setup::default()
        };
        let process = spawn(command, setup)
            .map_err(|error| Failure::Node(format!("starting the process that reads images: {error}")))?;
        let end = Instant::now() + LIMIT;
        let mut own = Self { process, connection: ours, place, end, opened: 0 };
        let bytes = serde_json::to_vec(start).map_err(io::Error::from)?;
        let archive = own.place.archive.then(|| own.place.fd.as_fd());
        let fds: Vec<BorrowedFd<'_>> = archive.into_iter().chain([target]).collect();
        own.connection.send(&bytes, &fds)?;
        match own.hear()? {
            Said::Found(digest) if is_hex(&digest) => Ok((own, digest)),
            _ => Err(own.nonsense()),
        }
    }

    /// Lets it unpack, and waits for that.
    pub(super) fn unpack(mut self) -> Result<(), Failure> {
        self.connection.send(b"go", &[])?;
        match self.hear()? {
            Said::Done => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    /// What the process says next that is no question; questions are answered.
    fn hear(&mut self) -> Result<Said, Failure> {
        loop {
            let left = self.end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            if poll(&mut [PollFd::new(&self.connection, PollFlags::IN)], Some(&left))
                .map_err(io::Error::from)?
                == 0
            {
                return Err(Failure::Limit(format!(
                    "it is not unpacked after {} minutes",
                    LIMIT.as_secs() / 60
                )));
            }
            let Some(message) = self.connection.recv(MAX_MESSAGE)? else { return Err(self.died()) };
            match serde_json::from_slice(&message.bytes) {
                Ok(Said::Open(name)) => self.answer(&name)?,
                Ok(Said::Failed(failure)) => return Err(failure),
                Ok(said) => return Ok(said),
                Err(_) => return Err(self.nonsense()),
            }
        }
    }

    fn answer(&mut self, name: &str) -> Result<(), Failure> {
        self.opened += 1;
        let known = name == "index.json" || name.strip_prefix("blobs/sha256/").is_some_and(is_hex);
        if self.place.archive || !known || self.opened > MAX_OPENED {
            return Err(self.nonsense());
        }
        let file = match regular(&self.place.fd, name) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::Node(format!("{name}: {error}"))),
        };
        let fds: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
        Ok(self.connection.send(b"file", &fds)?)
    }

    fn nonsense(&mut self) -> Failure {
        Failure::Broken("the process that reads it was led astray".to_owned())
    }

    fn died(&mut self) -> Failure {
        match self.process.wait() {
            Ok(status) => Failure::Limit(format!(
                "the process that reads it ended ({status}): it takes too much memory or processor time"
            )),
            Err(error) => Failure::Node(error.to_string()),
        }
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        // It has said what it had to say, or never will.
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Opens a regular file below a directory, through no link.
pub(super) fn regular(directory: impl AsFd, name: &str) -> io::Result<File> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = openat2(directory, name, flags, Mode::empty(), resolve)?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode).is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(File::from(fd))
}
