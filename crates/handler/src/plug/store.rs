//! The part's own directory on the node: the slots' directories, and what is kept of them.
//!
//! ```text
//!   slots/NAME/       a slot's directory, which the pod sees; NAME is random
//!   records/NAME      what is known of it (JSON)
//!   host              the cookie of the node's network namespace (JSON)
//!   lock              held as long as the program runs
//! ```
//!
//! This is also what the part with the network's capability reads: it learns slot, directory, pod and cookie from here,
//! and never gets a descriptor. Everything is reached from the opened directories by one name, and no link is followed.

use super::table::Record;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, fchmod, fdatasync, flock, fstat, fsync, mkdirat,
        openat, renameat, unlinkat,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Its cookie (`SO_NETNS_COOKIE`).
    pub network_namespace: u64,
}

/// Bytes of a file of ours.
const FILE: u64 = 4096;
/// Bytes of a random name.
const RANDOM: usize = 16;
const HOST: &str = "host";
/// What is being written.
const PART: &str = "part";

/// The opened directories.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    own: OwnedFd,
    slots: OwnedFd,
    records: OwnedFd,
    random: File,
    _lock: OwnedFd,
}

impl Store {
    /// Opens it and waits until no other process has it open. `path` is the node's own and absolute; it is there.
    ///
    /// # Errors
    /// What the kernel says; `PermissionDenied` for directories that are somebody else's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let own = private(CWD.as_fd(), path)?;
        for name in ["slots", "records"] {
            match mkdirat(&own, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = openat(&own, "lock", flags, Mode::RUSR | Mode::WUSR)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                tracing::info!("waiting for the end of another process that has {}", path.display());
                flock(&lock, FlockOperation::LockExclusive)?;
            }
            other => other?,
        }
        let slots = private(own.as_fd(), Path::new("slots"))?;
        let records = private(own.as_fd(), Path::new("records"))?;
        let random = File::open("/dev/urandom")?;
        let store = Self { path: path.to_owned(), own, slots, records, random, _lock: lock };
        store.set_host(None)?;
        Ok(store)
    }

    /// The directory itself.
    pub fn own(&self) -> &OwnedFd {
        &self.own
    }

    /// What was kept. What does not belong together is removed: a directory of which nothing is known, and what is known
    /// of one that is not there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load(&self) -> io::Result<BTreeMap<String, Record>> {
        let mut kept = BTreeMap::new();
        for name in names(&self.records)? {
            let directory = is_ours(&name) && self.opened(&name).is_ok();
            match self.read(&name).filter(|_| directory) {
                Some(record) => drop(kept.insert(name, record)),
                None => remove(&self.records, &name)?,
            }
        }
        for name in names(&self.slots)? {
            if !kept.contains_key(&name) {
                tracing::info!("removing the directory of a slot of which nothing is known: {name}");
                remove(&self.slots, &name)?;
            }
        }
        Ok(kept)
    }

    fn read(&self, name: &str) -> Option<Record> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(openat(&self.records, name, flags, Mode::empty()).ok()?);
        let mut bytes = Vec::new();
        file.take(FILE).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
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
        replace(&self.records, name, &serde_json::to_vec(record)?)
    }

    /// Keeps the cookie of the node's network namespace, or forgets it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_host(&self, cookie: Option<u64>) -> io::Result<()> {
        match cookie {
            Some(network_namespace) => {
                replace(&self.own, HOST, &serde_json::to_vec(&Host { network_namespace })?)
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

const DIRECTORY: OFlags =
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

fn is_ours(name: &str) -> bool {
    name.len() == RANDOM * 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plug::table::{Holder, Refusal, State};
    use std::{
        fs,
        os::unix::{
            fs::{MetadataExt as _, PermissionsExt as _, symlink},
            net::UnixListener,
        },
    };

    fn record(number: u64, state: State) -> Record {
        Record { slot: "7".to_owned(), number, state }
    }

    #[test]
    fn directories_are_found_again_with_what_is_known_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (one, two) = (store.name().unwrap(), store.name().unwrap());
        assert!(is_ours(&one) && one != two);
        let path = store.make(&one, &record(1, State::Waiting)).unwrap();
        assert_eq!(path, directory.path().join("slots").join(&one));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o711);
        for closed in
            [directory.path().to_owned(), directory.path().join("slots"), directory.path().join("records")]
        {
            assert_eq!(fs::metadata(&closed).unwrap().mode() & 0o777, 0o700, "{}", closed.display());
        }
        store.make(&two, &record(2, State::Waiting)).unwrap();
        let holder = Holder { namespace: "a".to_owned(), pod: "b".to_owned(), container: "c".to_owned() };
        let held = record(1, State::Held(holder.clone()));
        store.write(&one, &held).unwrap();
        let refused = record(2, State::Refused { why: Refusal::Shared, before: Some(holder) });
        store.write(&two, &refused).unwrap();
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(
            store.load().unwrap(),
            BTreeMap::from([(one.clone(), held), (two.clone(), refused.clone())])
        );

        let _socket = UnixListener::bind(path.join("link.sock")).unwrap();
        store.remove(&one).unwrap();
        store.remove(&one).unwrap();
        assert!(!path.exists());
        assert_eq!(store.load().unwrap(), BTreeMap::from([(two, refused)]));
    }

    #[test]
    fn of_a_directory_that_cannot_be_made_the_first_error_is_told_and_nothing_left() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (slots, records) = (directory.path().join("slots"), directory.path().join("records"));
        let name = store.name().unwrap();
        // The record cannot take its place.
        fs::create_dir(records.join(&name)).unwrap();
        let error = store.make(&name, &record(1, State::Waiting)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ISDIR.raw_os_error()), "{error}");
        assert!(!records.join(&name).exists() && !slots.join(&name).exists());
        // The directory is there, and cannot be removed either.
        fs::create_dir_all(slots.join(&name).join("inside").join("deeper")).unwrap();
        let error = store.make(&name, &record(1, State::Waiting)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert!(!records.join(&name).exists());
    }

    #[test]
    fn what_is_unknown_is_removed_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "x").unwrap();
        let store = Store::open(directory.path()).unwrap();
        let name = |letter: &str| letter.repeat(32);
        let (slots, records) = (directory.path().join("slots"), directory.path().join("records"));
        // A record without a directory, one with a link for a directory, one that is damaged, one of another name.
        store.write(&name("a"), &record(1, State::Waiting)).unwrap();
        store.write(&name("b"), &record(2, State::Waiting)).unwrap();
        symlink(outside.path(), slots.join(name("b"))).unwrap();
        store.make(&name("c"), &record(3, State::Waiting)).unwrap();
        fs::write(records.join(name("c")), "{").unwrap();
        fs::write(records.join("other"), "{}").unwrap();
        // A directory without a record, with a link and a directory in it.
        fs::create_dir_all(slots.join(name("d")).join("inside")).unwrap();
        symlink(outside.path(), slots.join(name("d")).join("link")).unwrap();
        // A record that is a link to one.
        store.make(&name("e"), &record(4, State::Waiting)).unwrap();
        let elsewhere = outside.path().join("record");
        fs::rename(records.join(name("e")), &elsewhere).unwrap();
        symlink(&elsewhere, records.join(name("e"))).unwrap();
        store.make(&name("f"), &record(5, State::Waiting)).unwrap();

        assert_eq!(store.load().unwrap(), BTreeMap::from([(name("f"), record(5, State::Waiting))]));
        for directory in [slots, records] {
            let left: Vec<_> =
                fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, [name("f").as_str()]);
        }
        assert!(outside.path().join("precious").exists() && elsewhere.exists());
    }

    #[test]
    fn a_directory_that_is_a_link_or_open_to_others_is_refused_or_closed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        symlink(outside.path(), directory.path().join("slots")).unwrap();
        assert!(Store::open(directory.path()).is_err());
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
        if rustix::process::geteuid().is_root() {
            fs::remove_file(directory.path().join("slots")).unwrap();
            fs::create_dir(directory.path().join("slots")).unwrap();
            std::os::unix::fs::chown(directory.path().join("slots"), Some(107), Some(107)).unwrap();
            let error = Store::open(directory.path()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
    }

    #[test]
    fn one_process_has_it_and_the_next_one_waits() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.set_host(Some(7)).unwrap();
        let path = directory.path().to_owned();
        let (say, said) = std::sync::mpsc::channel();
        let next = std::thread::spawn(move || {
            let store = Store::open(&path).unwrap();
            say.send(()).unwrap();
            drop(store);
        });
        // Not before this one ends: if it could open it, nothing would stop it from saying so at any time.
        assert!(said.try_recv().is_err());
        assert_eq!(fs::read_to_string(directory.path().join("host")).unwrap(), r#"{"networkNamespace":7}"#);
        drop(store);
        next.join().unwrap();
        said.recv().unwrap();
        assert!(!directory.path().join("host").exists());
    }
}
