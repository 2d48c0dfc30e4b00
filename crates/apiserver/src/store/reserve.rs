//! Space that is kept for deletions: a file that is given up when the disk is full.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Bytes that are kept. A deletion needs some pages of the database; this is enough for thousands.
const BYTES: u64 = 8 << 20;
/// Bytes that have to be free besides before it counts as made: else the next write would take it away again.
const MARGIN: u64 = 4 << 20;

/// The file beside the store.
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(super) fn new(store: &Path) -> Self {
        Self { path: store.with_extension("reserve") }
    }

    /// Gives the space back to the disk.
    pub(super) fn release(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("the store's reserve cannot be given up: {error}");
            }
            _ => {}
        }
    }

    /// Makes it, where it is missing or too small. False when there is no space for it.
    ///
    /// # Errors
    /// What the file system says besides.
    pub(super) fn make(&self) -> io::Result<bool> {
        let state =
            statvfs(self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        let kept = fs::metadata(&self.path).map_or(0, |data| data.blocks().saturating_mul(512));
        let missing = BYTES.saturating_sub(kept);
        if state.f_bavail.saturating_mul(state.f_frsize) < missing.saturating_add(MARGIN) {
            self.release();
            return Ok(false);
        }
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
            // Where space cannot be kept, the disk may be good for everything else.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(true),
            Err(error) => {
                self.release();
                if matches!(error, Errno::NOSPC | Errno::DQUOT) { Ok(false) } else { Err(error.into()) }
            }
        }
    }
}
