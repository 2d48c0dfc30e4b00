//! The node's images, and the unpacked copies of those in use.

use super::{
    Error, Reference,
    child::{Place, Unpacker, regular},
};
use crate::disk::remove_tree;
use ferrovirt_unpack::{Failure, Limits, Start, USER};
use rustix::fs::{CWD, Mode, OFlags, openat};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Most pods that wait for one image while it is unpacked: each holds a thread. The others come again.
const MOST_WAITING: usize = 8;
/// Most answers that are kept in memory, of each kind.
const MOST_KNOWN: usize = 1024;
/// Longest pause after a failure.
const LAST_PAUSE: Duration = Duration::from_secs(600);
/// Name of an unpacked copy that is not whole.
const PART: &str = "part";

/// What images may take.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Of one image.
    pub limits: Limits,
    /// Most bytes of unpacked images that no pod uses.
    pub unused_bytes: u64,
    /// How long an unpacked image is kept that no pod uses.
    pub unused_age: Duration,
    /// How long an image that could not be unpacked is not tried again; doubled with each failure.
    pub pause: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            unused_bytes: 20 << 30,
            unused_age: Duration::from_secs(7 * 24 * 3600),
            pause: Duration::from_secs(10),
        }
    }
}

/// The node's images and the unpacked copies of those in use.
#[derive(Debug)]
pub struct Store {
    images: PathBuf,
    pub(super) cache: PathBuf,
    program: PathBuf,
    pub(super) policy: Policy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Names of copies, as long as the layout is the same.
    found: HashMap<Asked, (Stamp, String)>,
    failed: HashMap<Asked, Failed>,
    /// Images that are being unpacked, with how many wait for each.
    busy: HashMap<String, (Arc<Mutex<()>>, usize)>,
    number: u64,
}

/// Name, tag and digest of a reference.
type Asked = (String, String, Option<String>);

#[derive(Debug)]
struct Failed {
    stamp: Stamp,
    until: Instant,
    pause: Duration,
    failure: Failure,
}

/// Tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 6]);

impl Stamp {
    fn of(file: impl AsFd) -> io::Result<Self> {
        let data = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
        let number = |number: u64| i64::from_ne_bytes(number.to_ne_bytes());
        let (changed, modified) = (data.ctime(), data.mtime());
        let (fine, file) = (data.ctime_nsec(), number(data.ino()));
        Ok(Self([number(data.dev()), file, number(data.len()), modified, changed, fine]))
    }
}

impl Store {
    /// `images` is the image directory, `cache` a directory of the agent's own, `program` this agent's.
    ///
    /// # Errors
    /// When the cache cannot be made.
    pub fn open(images: PathBuf, cache: PathBuf, program: PathBuf, policy: Policy) -> io::Result<Self> {
        // Nobody else passes: what an unpacking process owns below is out of the reach of the next one.
        DirBuilder::new().recursive(true).mode(0o700).create(&cache)?;
        fs::set_permissions(&cache, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&cache)? {
            // What an interrupted unpacking left.
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == PART) {
                remove_tree(&path)?;
            }
        }
        Ok(Self { images, cache, program, policy, state: Mutex::default() })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The unpacked files of an image. Blocks; the first use of an image takes as long as unpacking it does. The copy
    /// stays as long as the mark in the directory `marks`, which goes with the pod.
    ///
    /// # Errors
    /// When there is no such image, or it cannot be unpacked; a failure is repeated for a while without another try.
    pub fn root(&self, text: &str, marks: &Path) -> Result<PathBuf, Error> {
        let reference = Reference::parse(text)?;
        let failed = |failure| Error::of(text, failure);
        let io = |source| Error::Io { reference: text.to_owned(), source };
        let (place, stamp) = self
            .place(&reference.name)
            .map_err(io)?
            .ok_or_else(|| Error::Missing { reference: text.to_owned(), name: reference.name.clone() })?;
        let asked: Asked = (reference.name.clone(), reference.tag.clone(), reference.digest.clone());
        if let Some(answer) = self.known(&asked, stamp, marks) {
            return answer.map_err(failed);
        }
        let turn = Turn::take(self, &reference.name).ok_or_else(|| Error::Busy(text.to_owned()))?;
        let _one_at_a_time = turn.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one may have found it.
        if let Some(answer) = self.known(&asked, stamp, marks) {
            return answer.map_err(failed);
        }
        let unpacked = self.unpack(&reference, place, marks);
        let mut state = self.state();
        match unpacked {
            Ok(key) => {
                state.failed.remove(&asked);
                if state.found.len() >= MOST_KNOWN {
                    state.found.clear();
                }
                let root = self.cache.join(&key);
                state.found.insert(asked, (stamp, key));
                Ok(root)
            }
            Err(failure) => {
                let before = state.failed.get(&asked).filter(|before| before.stamp == stamp);
                let pause = before.map_or(self.policy.pause, |before| (before.pause * 2).min(LAST_PAUSE));
                if state.failed.len() >= MOST_KNOWN {
                    state.failed.clear();
                }
                let until = Instant::now() + pause;
                state.failed.insert(asked, Failed { stamp, until, pause, failure: failure.clone() });
                Err(failed(failure))
            }
        }
    }

    /// What is known of an image without reading it: its copy, or why there is none.
    fn known(&self, asked: &Asked, stamp: Stamp, marks: &Path) -> Option<Result<PathBuf, Failure>> {
        let state = self.state();
        if let Some((_, key)) = state.found.get(asked).filter(|(known, _)| *known == stamp) {
            let root = self.cache.join(key);
            if root.is_dir() {
                return Some(mark(marks, key).map(|()| root).map_err(Failure::from));
            }
        }
        let failed = state.failed.get(asked)?;
        let holds = failed.stamp == stamp && failed.until > Instant::now();
        holds.then(|| Err(failed.failure.clone()))
    }

    /// The layout of a name: a directory, or an archive.
    fn place(&self, name: &str) -> io::Result<Option<(Place, Stamp)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(fd) = openat(CWD, self.images.join(name), flags, Mode::empty())
            && let Ok(index) = regular(&fd, "index.json")
        {
            return Ok(Some((Place { fd, archive: false }, Stamp::of(index)?)));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(CWD, self.images.join(format!("{name}.tar")), flags, Mode::empty()) {
            Ok(fd) if rustix::fs::fstat(&fd).is_ok_and(|data| data.st_mode & 0o170_000 == 0o100_000) => {
                let stamp = Stamp::of(&fd)?;
                Ok(Some((Place { fd, archive: true }, stamp)))
            }
            _ => Ok(None),
        }
    }

    /// The name of the unpacked copy. Nothing is left of a failed try.
    fn unpack(&self, reference: &Reference, place: Place, marks: &Path) -> Result<String, Failure> {
        let part = {
            let mut state = self.state();
            state.number += 1;
            self.cache.join(format!("{}.{PART}", state.number))
        };
        let done = self.fill(reference, place, &part, marks);
        let cleaned = remove_tree(&part);
        if let Err(error) = cleaned {
            tracing::warn!("removing what was unpacked in vain: {error}");
        }
        done
    }

    fn fill(
        &self,
        reference: &Reference,
        place: Place,
        part: &Path,
        marks: &Path,
    ) -> Result<String, Failure> {
        DirBuilder::new().mode(0o700).create(part)?;
        chown(part, Some(USER), Some(USER))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target: OwnedFd = openat(CWD, part, flags, Mode::empty()).map_err(io::Error::from)?;
        let start = Start {
            archive: place.archive,
            tag: reference.tag.clone(),
            digest: reference.digest.clone(),
            limits: self.policy.limits,
        };
        let (unpacker, digest) = Unpacker::start(&self.program, place, target.as_fd(), &start)?;
        if reference.digest.as_ref().is_some_and(|asked| *asked != digest) {
            return Err(Failure::Broken(
                "its manifest has another digest than the reference names".to_owned(),
            ));
        }
        // Under the image's own name: a process that an image has led astray must not answer for another image.
        let name = Sha256::digest(reference.name.as_bytes());
        let name: String = name.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let key = format!("{name}-{digest}");
        let root = self.cache.join(&key);
        let is_new = !root.is_dir();
        if is_new {
            unpacker.unpack()?;
            std::os::unix::fs::fchown(&target, Some(0), Some(0))?;
            rustix::fs::fchmod(&target, Mode::from_raw_mode(0o755)).map_err(io::Error::from)?;
            // A name must never stand for half an image, not even after a power cut.
            rustix::fs::syncfs(&target).map_err(io::Error::from)?;
        }
        let _state = self.state();
        if is_new {
            fs::rename(part, &root)?;
        } else if !root.is_dir() {
            return Err(Failure::Node("its copy was removed a moment ago".to_owned()));
        }
        mark(marks, &key)?;
        Ok(key)
    }
}

/// Marks a copy as used. Under the lock of the state, as everyone who removes copies.
fn mark(marks: &Path, key: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(marks)?;
    File::create(marks.join(key)).map(drop)
}

/// A place among those who wait for an image.
struct Turn<'a> {
    store: &'a Store,
    name: String,
    lock: Arc<Mutex<()>>,
}

impl<'a> Turn<'a> {
    fn take(store: &'a Store, name: &str) -> Option<Self> {
        let mut state = store.state();
        let (lock, waiting) = state.busy.entry(name.to_owned()).or_default();
        if *waiting == MOST_WAITING {
            return None;
        }
        *waiting += 1;
        Some(Self { store, name: name.to_owned(), lock: lock.clone() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some((_, waiting)) = state.busy.get_mut(&self.name) {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                state.busy.remove(&self.name);
            }
        }
    }
}
