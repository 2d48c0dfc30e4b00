//! The part's own directory on the node: the slots' directories, and what is kept of them.
//!
//! ```text
//!   slots/NAME/       a slot's directory, which the pod sees; NAME is random
//!   records/NAME      what is known of it (JSON)
//!   host              the cookie of the node's network namespace, and since which start (JSON)
//!   lock              held as long as the program runs
//!   sockets/          on which the kubelet is heard
//! ```
//!
//! This is also what the part with the network's capability reads: it learns slot, directory, pod and cookie from here,
//! and never gets a descriptor. Everything is reached from the opened directories by one name, and no link is followed.

use super::table::Record;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, fchmod, fdatasync, flock, fstat, fsync,
        mkdirat, openat, renameat, unlinkat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The node's network namespace, as the kubelet's connection shows it. Missing while no kubelet is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Its cookie (`SO_NETNS_COOKIE`).
    pub network_namespace: u64,
    /// Since which start of the node: after another one the same cookie is another namespace's.
    pub boot: String,
}

/// What no other start of this node has, as the kernel says it.
pub(super) fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Of the records: another one with each change of their fields.
const VERSION: u32 = 1;

/// A record as it is on the disk.
#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    record: &'a Record,
}

/// What is read first of a record.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Bytes of a file of ours.
pub(super) const FILE: u64 = 4096;
/// Bytes of a random name.
const RANDOM: usize = 16;
pub(super) const HOST: &str = "host";
/// What is being written.
const PART: &str = "part";

/// The directory of sockets: one of its own, so that who reads the rest need not see them.
pub const SOCKETS: &str = "sockets";

/// The opened directories.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    own: OwnedFd,
    slots: OwnedFd,
    records: OwnedFd,
    random: File,
    boot: String,
    _lock: OwnedFd,
}

impl Store {
    /// Opens it for this process alone. `path` is the node's own and absolute; it is there.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` while another process has it open, `PermissionDenied` for directories that are
    /// somebody else's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let own = private(CWD.as_fd(), path)?;
        for name in ["slots", "records", SOCKETS] {
            match mkdirat(&own, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = openat(&own, "lock", flags, Mode::RUSR | Mode::WUSR)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let slots = private(own.as_fd(), Path::new("slots"))?;
        let records = private(own.as_fd(), Path::new("records"))?;
        private(own.as_fd(), Path::new(SOCKETS))?;
        // Both now: later no other file may be opened.
        let (random, boot) = (File::open("/dev/urandom")?, boot()?);
        let store = Self { path: path.to_owned(), own, slots, records, random, boot, _lock: lock };
        store.set_host(None)?;
        Ok(store)
    }

    /// The directory itself.
    pub fn own(&self) -> &OwnedFd {
        &self.own
    }

    /// What was kept. What does not belong together is removed: a directory of which nothing is known, and what is known
    /// of one that is not there. What cannot be removed stays; since nothing is known of it, nobody gets it.
    ///
    /// # Errors
    /// What the kernel says when it cannot be known what is there, and a record of another version than `VERSION`: a
    /// directory that is removed by mistake is lost to its running machine.
    pub fn load(&self) -> io::Result<BTreeMap<String, Record>> {
        let mut kept = BTreeMap::new();
        for name in names(&self.records)? {
            let record = if is_ours(&name) {
                let record = self.read(&name);
                record.map_err(|error| io::Error::new(error.kind(), format!("the record {name}: {error}")))?
            } else {
                None
            };
            match record {
                Some(record) => drop(kept.insert(name, record)),
                None => remove_if_possible(&self.records, &name),
            }
        }
        for name in names(&self.slots)? {
            if !kept.contains_key(&name) {
                tracing::info!("removing the directory of a slot of which nothing is known: {name}");
                remove_if_possible(&self.slots, &name);
            }
        }
        Ok(kept)
    }

    /// What is known of a directory that is there.
    fn read(&self, name: &str) -> io::Result<Option<Record>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Some(file) = there(openat(&self.records, name, flags, Mode::empty()))? else { return Ok(None) };
        if there(self.opened(name))?.is_none() || FileType::from_raw_mode(fstat(&file)?.st_mode).is_dir() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::from(file).take(FILE).read_to_end(&mut bytes)?;
        match serde_json::from_slice::<Version>(&bytes) {
            Ok(Version { version: VERSION }) => Ok(serde_json::from_slice(&bytes).ok()),
            Ok(Version { version }) => Err(io::Error::other(format!(
                "it has version {version}, and this program knows {VERSION}: install the virt-handler that wrote it, or \
                 move all machines away from this node and empty {}",
                self.path.display()
            ))),
            Err(_) => Ok(None),
        }
    }

    fn opened(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        openat(&self.slots, name, DIRECTORY, Mode::empty())
    }

    /// A name that nobody can guess.
    ///
    /// # Errors
    /// When there is nothing random.
    pub fn name(&self) -> io::Result<String> {
        let mut bytes = [0_u8; RANDOM];
        (&self.random).read_exact(&mut bytes)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Makes a slot's directory, which every user may pass, and keeps what is known of it. Both are on the disk
    /// afterwards, since the kubelet will not ask again for the pod after a loss of power.
    ///
    /// # Errors
    /// What the kernel says; then nothing is left that could be removed.
    pub fn make(&self, name: &str, record: &Record) -> io::Result<PathBuf> {
        let mode = Mode::RWXU | Mode::XGRP | Mode::XOTH;
        let directory = || {
            mkdirat(&self.slots, name, mode)?;
            fchmod(self.opened(name)?, mode)?;
            fsync(&self.slots)
        };
        let made = self.write(name, record).and_then(|()| Ok(directory()?));
        if let Err(error) = made {
            if let Err(second) = self.remove(name) {
                tracing::warn!("removing what was made of {name}: {second}");
            }
            return Err(error);
        }
        Ok(self.path.join("slots").join(name))
    }

    /// Keeps what is known of a directory.
    ///
    /// # Errors
    /// What the kernel says; then what was kept before stays.
    pub fn write(&self, name: &str, record: &Record) -> io::Result<()> {
        replace(&self.records, name, &serde_json::to_vec(&Written { version: VERSION, record })?)
    }

    /// Keeps the cookie of the node's network namespace, or forgets it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_host(&self, cookie: Option<u64>) -> io::Result<()> {
        match cookie {
            Some(network_namespace) => {
                let host = Host { network_namespace, boot: self.boot.clone() };
                replace(&self.own, HOST, &serde_json::to_vec(&host)?)
            }
            None => remove(&self.own, HOST),
        }
    }

    /// Removes a slot's directory and what is known of it.
    ///
    /// # Errors
    /// What the kernel says; what is left has no record or is removed by another call.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        remove(&self.records, name)?;
        remove(&self.slots, name)
    }
}

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Opens a directory of ours and closes it to others.
fn private(parent: std::os::fd::BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let opened = openat(parent, path, DIRECTORY, Mode::empty())?;
    if fstat(&opened)?.st_uid != rustix::process::geteuid().as_raw() {
        let text = format!("{} is somebody else's", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    fchmod(&opened, Mode::RWXU)?;
    Ok(opened)
}

/// What a record says, if it is of this version.
pub(super) fn record(bytes: &[u8]) -> Option<Record> {
    let Version { version } = serde_json::from_slice(bytes).ok()?;
    (version == VERSION).then(|| serde_json::from_slice(bytes).ok())?
}

/// Only these errors say that there is no such file or directory. All others pass, like a lack of memory, or say nothing.
pub(super) fn there<T>(opened: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_ours(name: &str) -> bool {
    name.len() == RANDOM * 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        // Nobody else writes here.
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// The old bytes or the new ones, and the new ones are on the disk.
fn replace(directory: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(openat(directory, PART, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes)?;
    fdatasync(&file)?;
    renameat(directory, PART, directory, name)?;
    Ok(fsync(directory)?)
}

/// Removes a file, or a directory with the files in it. Missing is fine; a directory in that one is an error.
fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let directory = openat(parent, name, DIRECTORY, Mode::empty())?;
    for inside in names(&directory)? {
        match unlinkat(&directory, inside.as_str(), AtFlags::empty()) {
            Err(Errno::ISDIR) => unlinkat(&directory, inside.as_str(), AtFlags::REMOVEDIR)?,
            other => other?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn remove_if_possible(parent: &OwnedFd, name: &str) {
    if let Err(error) = remove(parent, name) {
        tracing::error!("{name} stays, of which nothing is known: {error}");
    }
}

#[cfg(test)]
mod tests;
