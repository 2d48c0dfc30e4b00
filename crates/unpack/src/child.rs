//! The process that reads images. It gives up every right before it reads the first foreign byte.

use crate::{
    Failure, MAX_MESSAGE, SOCKET, Said, Start,
    layout::{Files, Layout},
    tree::Tree,
};
use ferrovirt_sys::{confine, landlock, process, rights, seqpacket::Connection};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{fs::File, io, os::fd::OwnedFd, process::ExitCode};

/// Address space of the child, in bytes: its program, some buffers, and the documents of an image.
const MEMORY: u64 = 256 << 20;
/// Processor time, in seconds: gzip takes some three for 1 GiB.
const PROCESSOR: u64 = 600;
const DESCRIPTORS: u64 = 512;

/// The whole life of the process.
pub fn run() -> ExitCode {
    let Ok(connection) = process::inherited(SOCKET).map(Connection::from_fd) else {
        eprintln!("this command is the node agent's own: it needs a socket as descriptor {SOCKET}");
        return ExitCode::FAILURE;
    };
    let said = match work(&connection) {
        Ok(()) => Said::Done,
        Err(failure) => Said::Failed(failure),
    };
    match say(&connection, &said) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work(connection: &Connection) -> Result<(), Failure> {
    // The agent's own message, and the last step that needs any right.
    let (start, mut fds) = start(connection)?;
    confine_self(&start, fds.last()).map_err(|error| Failure::Node(format!("giving up rights: {error}")))?;
    let target = fds.pop().ok_or_else(|| Failure::Node("no directory to unpack into".to_owned()))?;
    let mut open = |name: &str| ask(connection, name);
    let files = match (start.archive, fds.pop()) {
        (true, Some(archive)) => Files::archive(File::from(archive))?,
        _ => Files::Directory(&mut open),
    };
    let mut layout = Layout(files);
    let manifest = layout.manifest(&start.tag, start.digest.as_deref())?;
    say(connection, &Said::Found(manifest.digest.clone()))?;
    if connection.recv(MAX_MESSAGE)?.is_none() {
        return Ok(());
    }
    layout.unpack(&manifest, &Tree::new(target), start.limits)
}

/// The first message: what to do, with the archive, where there is one, and the target as the last descriptor.
fn start(connection: &Connection) -> Result<(Start, Vec<OwnedFd>), Failure> {
    let message = connection.recv(MAX_MESSAGE)?.ok_or_else(|| Failure::Node("no order".to_owned()))?;
    let start = serde_json::from_slice(&message.bytes).map_err(io::Error::from)?;
    Ok((start, message.fds))
}

fn ask(connection: &Connection, name: &str) -> Result<Option<File>, Failure> {
    say(connection, &Said::Open(name.to_owned()))?;
    let answer = connection.recv(MAX_MESSAGE)?.ok_or_else(|| Failure::Node("no answer".to_owned()))?;
    Ok(answer.fds.into_iter().next().map(File::from))
}

fn say(connection: &Connection, said: &Said) -> io::Result<()> {
    let bytes = serde_json::to_vec(said)?;
    connection.send(&bytes, &[])
}

/// No other user, no new privilege, no network, no program, no process, no other directory; little memory and time.
fn confine_self(start: &Start, target: Option<&OwnedFd>) -> io::Result<()> {
    if !rights::has_none()? {
        return Err(io::Error::other("this process still has rights"));
    }
    rights::hide_memory()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for (resource, most) in [
        (Resource::As, MEMORY),
        (Resource::Cpu, PROCESSOR),
        (Resource::Fsize, start.limits.bytes),
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Nproc, 0),
        (Resource::Memlock, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    // Where the kernel has it; the user, who owns nothing, and the filter hold without.
    if let Some(target) = target {
        landlock::only_beneath(target)?;
    }
    confine::allow_only(confine::FILES)
}
