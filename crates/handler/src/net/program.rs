//! `virt-handler net`: the program.
//!
//! One thread, and a copy of it for each slot. It opens and binds what it needs, then gives away every right that it does
//! not use any more, and only then hears a launcher or `api`.

use super::{probe, server::Server, stream, worker};
use crate::plug::reader::Reader;
use anyhow::Context as _;
use clap::Parser;
use ferrovirt_sys::{
    calls, confine,
    fork::{self, OneThread},
    landlock, rights,
    seqpacket::{self, Listener},
    signal::SignalFd,
};
use rustix::{
    fs::Mode,
    process::{Signal, umask},
};
use std::{
    ffi::OsString,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// The word after the program's name that starts it.
pub const COMMAND: &str = "net";
/// What it keeps.
const KEPT: [&str; 1] = ["NET_ADMIN"];
/// Sockets: everybody may connect who sees a slot, which is one container; to that for `api`, its user and group.
const OF_SLOTS: u32 = 0o111;
const OF_API: u32 = 0o117;
/// The name of the socket beside that for `api` on which it opens consoles.
pub const STREAMS: &str = "streams.sock";
/// Between two tries to find what `plug` makes.
const AGAIN: Duration = Duration::from_millis(200);

/// Makes the networks of machines through what their launchers send
#[derive(Debug, Parser)]
#[command(name = "virt-handler net", version)]
struct Options {
    /// The directory of `virt-handler plug`
    #[arg(long, default_value = "/var/lib/ferrovirt/plug")]
    directory: PathBuf,
    /// Where the part that speaks with the API server is heard. The socket gets the group of its directory where that has
    /// the set-group-ID bit
    #[arg(long)]
    api_socket: PathBuf,
    /// The user of that part
    #[arg(long, default_value_t = 0)]
    api_user: u32,
}

/// Runs until it is asked to end, with the arguments after [`COMMAND`].
///
/// # Errors
/// What keeps it from running, in words for an administrator.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let options = Options::parse_from(std::iter::once(OsString::from("virt-handler net")).chain(arguments));
    for path in [&options.directory, &options.api_socket] {
        anyhow::ensure!(path.is_absolute(), "{} is no absolute path", path.display());
    }
    let one = OneThread::check().context("counting the own threads")?;
    let signals = SignalFd::new(&[Signal::TERM, Signal::INT]).context("signals")?;
    let opened = open(&options.directory, &signals);
    let opened = opened.with_context(|| format!("opening {}", options.directory.display()))?;
    let Some(reader) = opened else { return Ok(()) };
    let socket = &options.api_socket;
    umask(Mode::from_raw_mode(OF_API));
    let entry = listen(socket).with_context(|| format!("listening on {}", socket.display()))?;
    let streams = socket.with_file_name(STREAMS);
    let streams = listen(&streams).with_context(|| format!("listening on {}", streams.display()))?;
    umask(Mode::from_raw_mode(OF_SLOTS));
    keep_one().context("giving up rights")?;
    // The child of the trial gives up the last one: a call that nobody makes later.
    let problem = probe::problem(&one).context("trying what the kernel can do")?;
    confine(&reader).context("giving up rights")?;
    if let Some(problem) = &problem {
        tracing::error!("{problem}");
    }
    let server = Server::new(reader, signals, entry, streams, options.api_user, problem)?;
    serve(server, &one)
}

fn serve(mut server: Server, one: &OneThread) -> anyhow::Result<()> {
    let own = rustix::process::getpid();
    while server.round().context("waiting for launchers")? {
        while let Some(job) = server.due() {
            match fork::fork(one) {
                Ok(Some(child)) => server.started(job, child),
                Ok(None) => {
                    let (listener, control) = job.into_child();
                    // What belongs to other slots and to api.
                    drop(server);
                    fork::die_with(own)?;
                    worker::run(listener, control);
                }
                Err(error) => {
                    tracing::error!("starting a process for a slot: {error}");
                    server.not_started(&job);
                }
            }
        }
        while let Some((job, prepared)) = server.due_stream() {
            match fork::fork(one) {
                Ok(Some(child)) => server.stream_started(prepared, Some(child)),
                Ok(None) => {
                    drop(server);
                    fork::die_with(own)?;
                    stream::run(job);
                }
                Err(error) => {
                    tracing::error!("starting a process for a console: {error}");
                    server.stream_started(prepared, None);
                }
            }
        }
    }
    server.finish();
    Ok(())
}

/// Waits until `plug` has made its directory; `None` when it is asked to end meanwhile.
fn open(directory: &Path, signals: &SignalFd) -> io::Result<Option<Reader>> {
    let mut waits = false;
    loop {
        match Reader::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory.is_dir() => {}
            other => return other.map(Some),
        }
        if !std::mem::replace(&mut waits, true) {
            tracing::info!(
                "waiting for virt-handler plug, which makes {}",
                directory.join("records").display()
            );
        }
        if signals.read()?.is_some() {
            return Ok(None);
        }
        std::thread::sleep(AGAIN);
    }
}

fn listen(path: &Path) -> io::Result<Listener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = Listener::bind(path)?;
    listener.set_nonblocking(true)?;
    // Before they are asked for, what comes in would be closed here.
    seqpacket::take_descriptors(listener.as_fd(), false)?;
    Ok(listener)
}

/// No capability but one and no way to another.
fn keep_one() -> io::Result<()> {
    rights::hide_memory()?;
    let kept = rights::set(KEPT).ok_or_else(|| io::Error::other("this kernel has no CAP_NET_ADMIN"))?;
    rights::give_up_all_but(kept)
}

/// No file but those below `plug`'s directory, which are read, and sockets in the slots' directories: those on which the
/// kubelet is heard lie beside them. No system call but those of the privilege
/// table, which start no program.
fn confine(reader: &Reader) -> io::Result<()> {
    if !landlock::read_beneath_with_sockets(reader.own(), reader.slots())? {
        tracing::warn!("this kernel has no Landlock that is new enough: paths are not restricted");
    }
    let rules = confine::Rules {
        families: Some(confine::LOCAL_OR_NETLINK),
        ioctls: Some(confine::IOCTLS_OF_NET),
        copies: true,
    };
    confine::Filter::with(calls::NET, &rules)?.apply()
}
