//! What `plug` knows, for another process that never writes it.

use super::{
    store::{self, Host},
    table::{Holder, Record, State},
};
use rustix::fs::{
    Mode, OFlags, fstat,
    inotify::{self, CreateFlags, WatchFlags},
    openat,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// A slot that a pod holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who holds it.
    pub holder: Holder,
    /// Grows with each `Allocate` on the node.
    pub number: u64,
}

/// The opened directories.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    own: OwnedFd,
    slots: OwnedFd,
    records: OwnedFd,
    /// Of the records.
    news: Option<OwnedFd>,
    boot: String,
}

impl Reader {
    /// Opens the directory of a [`super::store::Store`], which is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let own = rustix::fs::open(path, store::DIRECTORY, Mode::empty())?;
        let below = |name| openat(&own, name, store::DIRECTORY, Mode::empty());
        let (slots, records) = (below("slots")?, below("records")?);
        let news = watch(&path.join("records"));
        let news = news.inspect_err(|error| {
            tracing::warn!("the kernel does not report changes of {}: {error}", path.display());
        });
        // Now: later no other file may be opened.
        Ok(Self { path: path.to_owned(), own, slots, records, news: news.ok(), boot: store::boot()? })
    }

    /// Readable when a record has changed; none where the kernel does not report that.
    pub fn news(&self) -> Option<&OwnedFd> {
        self.news.as_ref()
    }

    /// Whether the kernel has reported a change since this was asked last.
    pub fn hear(&self) -> bool {
        let mut bytes = [0; 4096];
        let mut heard = false;
        let read =
            |news: &OwnedFd, bytes: &mut [u8]| rustix::io::read(news, bytes).is_ok_and(|count| count > 0);
        while self.news.as_ref().is_some_and(|news| read(news, &mut bytes)) {
            heard = true;
        }
        heard
    }

    /// The directory itself.
    pub fn own(&self) -> &OwnedFd {
        &self.own
    }

    /// That of the slots' directories.
    pub fn slots(&self) -> &OwnedFd {
        &self.slots
    }

    /// The directory of a slot.
    pub fn slot(&self, name: &str) -> PathBuf {
        self.path.join("slots").join(name)
    }

    /// Changes with every change of a record, but for some within one tick of the kernel's clock.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn stamp(&self) -> io::Result<(i64, u64)> {
        let stat = fstat(&self.records)?;
        Ok((stat.st_mtime, stat.st_mtime_nsec))
    }

    /// The cookie of the node's network namespace, while a kubelet is connected. What was known before the node was started
    /// again is not.
    ///
    /// # Errors
    /// What the kernel says, and a file that makes no sense.
    pub fn host(&self) -> io::Result<Option<u64>> {
        let bytes = read(&self.own, store::HOST)?;
        let host = bytes.map(|bytes| serde_json::from_slice::<Host>(&bytes)).transpose()?;
        Ok(host.filter(|host| host.boot == self.boot).map(|host| host.network_namespace))
    }

    /// The slots that are held, by the names of their directories. Of two records of one slot the later one counts.
    ///
    /// # Errors
    /// What the kernel says. A record that makes no sense, or of another version, is none: its machine is not served.
    pub fn held(&self) -> io::Result<BTreeMap<String, Held>> {
        let mut latest: BTreeMap<String, (String, Record)> = BTreeMap::new();
        for name in store::names(&self.records)?.into_iter().filter(|name| store::is_ours(name)) {
            let Some(bytes) = read(&self.records, &name)? else { continue };
            let Some(record) = store::record(&bytes) else {
                tracing::warn!("the record {name} is of no version that this program knows");
                continue;
            };
            let known = latest.get(&record.slot);
            if known.is_none_or(|(_, known)| known.number < record.number) {
                latest.insert(record.slot.clone(), (name, record));
            }
        }
        let held = latest.into_values().filter_map(|(name, record)| match record.state {
            State::Held(holder) => Some((name, Held { holder, number: record.number })),
            State::Waiting | State::Refused { .. } => None,
        });
        Ok(held.collect())
    }
}

/// Has the kernel report what comes into a directory under its name, and what goes.
fn watch(directory: &Path) -> io::Result<OwnedFd> {
    let news = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&news, directory, WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR)?;
    Ok(news)
}

/// A file of the directory; `None` where there is none.
fn read(directory: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let Some(file) = store::there(openat(directory, name, flags, Mode::empty()))? else { return Ok(None) };
    let mut bytes = Vec::new();
    File::from(file).take(store::FILE).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plug::{
        store::Store,
        table::{Refusal, Table},
    };
    use std::time::{Duration, Instant};

    #[test]
    fn slots_that_are_held_are_read_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut table = Table::new(Duration::from_secs(60), 10);
        let holder =
            |pod: &str| Holder { namespace: "vms".into(), pod: pod.into(), container: "compute".into() };
        let mut add = |slot: &str, state: State| {
            let name = store.name().unwrap();
            let record = Record { state, ..table.allocate(slot, &name, Instant::now()).unwrap() };
            store.make(&name, &record).unwrap();
            name
        };
        add("1", State::Held(holder("before")));
        let now = add("1", State::Held(holder("now")));
        add("2", State::Waiting);
        add("3", State::Held(holder("was")));
        add("3", State::Refused { why: Refusal::Twins, before: None });
        let broken = add("4", State::Held(holder("broken")));
        std::fs::write(directory.path().join("records").join(&broken), "{\"version\":2}").unwrap();
        std::fs::write(directory.path().join("records/part"), "{").unwrap();
        let reader = Reader::open(directory.path()).unwrap();
        let held = reader.held().unwrap();
        assert_eq!(held.keys().collect::<Vec<_>>(), [&now]);
        assert_eq!(held[&now], Held { holder: holder("now"), number: 2 });
        assert!(reader.slot(&now).is_dir());
        assert_eq!(reader.host().unwrap(), None);
        store.set_host(Some(7)).unwrap();
        assert_eq!(reader.host().unwrap(), Some(7));
        let of_another_start = "{\"networkNamespace\":7,\"boot\":\"another\"}";
        std::fs::write(directory.path().join(store::HOST), of_another_start).unwrap();
        assert_eq!(reader.host().unwrap(), None);
        assert!(!reader.hear());
        let before = reader.stamp().unwrap();
        store.remove(&now).unwrap();
        assert!(reader.hear() && !reader.hear());
        add("5", State::Waiting);
        assert!(reader.hear());
        assert!(!reader.held().unwrap().contains_key(&now));
        assert!(reader.stamp().unwrap() >= before);
    }
}
