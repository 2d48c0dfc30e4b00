//! The file of audit events: a thread that writes lines, a bounded queue before it, and rotation by size.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::clock;

/// Most bytes that wait to be written.
const QUEUE_BYTES: usize = 8 << 20;
/// Pause between two lines of the server's own log about events that were not written.
const WARN: Duration = Duration::from_secs(60);

/// Where audit events go.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file.
    pub path: PathBuf,
    /// Bytes after which it is renamed and begun again.
    pub max_size: u64,
    /// How many renamed files are kept; 0 keeps all.
    pub max_backups: usize,
}

/// The open log.
#[derive(Debug)]
pub struct Log {
    sender: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    queued: AtomicUsize,
    dropped: AtomicU64,
}

impl Log {
    /// Opens the file, which is its owner's alone, and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(options: Options) -> io::Result<Self> {
        let mut file = File { size: 0, file: None, options };
        file.open()?;
        let counts = Arc::new(Counts::default());
        let (sender, lines) = mpsc::channel();
        let thread = {
            let counts = Arc::clone(&counts);
            std::thread::Builder::new()
                .name("audit".to_owned())
                .spawn(move || write_all(file, &lines, &counts))?
        };
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)), counts })
    }

    /// Hands a line over; never waits. What does not fit into the queue is counted and dropped.
    pub(super) fn write(&self, line: Vec<u8>) {
        let length = line.len();
        let waiting = self.counts.queued.fetch_add(length, Ordering::Relaxed);
        let sent = waiting.saturating_add(length) <= QUEUE_BYTES
            && self
                .sender
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .is_some_and(|sender| sender.send(line).is_ok());
        if !sent {
            self.counts.queued.fetch_sub(length, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped: the queue or the disk was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends.
    pub fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

fn write_all(mut file: File, lines: &mpsc::Receiver<Vec<u8>>, counts: &Counts) {
    let (mut reported, mut last) = (0, None::<Instant>);
    let mut cause = "the queue is full".to_owned();
    for line in lines {
        counts.queued.fetch_sub(line.len(), Ordering::Relaxed);
        if let Err(error) = file.write(&line) {
            counts.dropped.fetch_add(1, Ordering::Relaxed);
            cause = error.to_string();
        }
        let dropped = counts.dropped.load(Ordering::Relaxed);
        if dropped > reported && last.is_none_or(|last| last.elapsed() >= WARN) {
            tracing::error!("{} audit events were dropped ({dropped} in all): {cause}", dropped - reported);
            (reported, last) = (dropped, Some(Instant::now()));
        }
    }
}

struct File {
    options: Options,
    file: Option<fs::File>,
    size: u64,
}

impl File {
    fn open(&mut self) -> io::Result<()> {
        let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&self.options.path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.options.max_size {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.open()?;
        }
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        if let Err(error) = file.write_all(line) {
            // The part that was written would spoil the next line.
            let _ = file.set_len(self.size);
            return Err(error);
        }
        self.size = self.size.saturating_add(length);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.options.path;
        let (stem, end) = parts(path);
        let stamp = clock::micro_stamp().replace(':', "-").replace('Z', "");
        // Renamed while it is open: when that fails, lines go on into the same file.
        fs::rename(path, path.with_file_name(format!("{stem}-{stamp}{end}")))?;
        self.file = None;
        self.size = 0;
        if self.options.max_backups > 0 {
            let mut old = backups(path)?;
            old.sort();
            let many = old.len().saturating_sub(self.options.max_backups);
            for path in old.into_iter().take(many) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Name and extension, with its dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let end = text(path.extension()).map(|end| format!(".{end}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default(), end)
}

/// The renamed files beside the log: their names, which sort by time, begin and end as [`File::rotate`] has it.
fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, end) = parts(path);
    let is_backup = |name: &str| {
        name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&end)).is_some_and(|stamp| {
            stamp.len() == "2026-01-31T12-00-00.000000".len()
                && stamp.starts_with(|c: char| c.is_ascii_digit())
        })
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(dir)?.flatten();
    Ok(entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_backup))
        .map(|entry| entry.path())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path, max_size: u64, max_backups: usize) -> Log {
        Log::open(Options { path: path.to_owned(), max_size, max_backups }).unwrap()
    }

    #[test]
    fn the_log_is_rotated_bounded_and_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        fs::write(dir.path().join("audit-of-somebody-else.log"), "").unwrap();
        let log = log(&path, 1000, 2);
        for number in 0..100 {
            log.write(format!("{number:099}\n").into_bytes());
        }
        log.close();
        let (mut names, mut lines) = (Vec::new(), 0);
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let data = entry.metadata().unwrap();
            assert!(data.len() <= 1000);
            lines += fs::read_to_string(entry.path()).unwrap().lines().count();
            names.push(entry.file_name());
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((names.len(), lines), (4, 30), "{names:?}");
        assert!(fs::read_to_string(&path).unwrap().ends_with("99\n"));
    }

    #[test]
    fn a_full_disk_stops_nobody_and_leaves_whole_lines() {
        let log = log(Path::new("/dev/full"), 1 << 20, 2);
        for _ in 0..10 {
            log.write(b"line\n".to_vec());
        }
        log.close();
        assert_eq!(log.dropped(), 10);
        log.write(b"after the end\n".to_vec());
        assert_eq!(log.dropped(), 11);
    }

    #[test]
    fn a_queue_that_is_full_drops_and_counts() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir.path().join("audit.log"), u64::MAX, 2);
        log.write(vec![b'x'; QUEUE_BYTES + 1]);
        assert_eq!(log.dropped(), 1);
        log.write(b"line\n".to_vec());
        log.close();
        assert_eq!(fs::read_to_string(dir.path().join("audit.log")).unwrap(), "line\n");
    }
}
