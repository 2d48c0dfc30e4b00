//! A clock that Ferrovirt sees and nobody else, which a test sets.

use anyhow::{Result, ensure};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// Shows a process another time, as far as it asks the C library; which it does not where it measures how much passed.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The clock; it ends with its value.
#[derive(Debug)]
pub struct Clock {
    directory: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Clock {
    /// A clock that is right.
    ///
    /// # Errors
    ///
    /// The library is missing, or its file cannot be written.
    pub fn new() -> Result<Self> {
        ensure!(Path::new(LIBRARY).exists(), "{LIBRARY} is missing: run `cargo xtask setup`");
        sweep();
        let directory = tempfile::tempdir()?;
        // The API server's process has a user of its own and reads the file, too.
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))?;
        let file = directory.path().join("offset").to_string_lossy().into_owned();
        let environment = vec![
            ("LD_PRELOAD", LIBRARY.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let clock = Self { directory, environment };
        clock.set(0)?;
        Ok(clock)
    }

    /// What `ferrovirt up` has to be started with to see it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment.clone()
    }

    /// Makes it differ from the machine's clock by this many hours.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn set(&self, hours: i64) -> Result<()> {
        // Whole or not at all: it is read at every look at the clock.
        let fresh = self.directory.path().join("fresh");
        fs::write(&fresh, format!("{hours:+}h\n"))?;
        Ok(fs::rename(&fresh, self.directory.path().join("offset"))?)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        sweep();
    }
}

/// Removes what the library left in shared memory for processes that were killed: it names files by process, and the next
/// process of that number does not start when the file is another user's.
fn sweep() {
    let Ok(entries) = fs::read_dir("/dev/shm") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            name.strip_prefix("faketime_shm_").or_else(|| name.strip_prefix("sem.faketime_sem_"))
        });
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
