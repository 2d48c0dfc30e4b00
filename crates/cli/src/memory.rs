//! Memory that is not used any more goes back to the system.
//!
//! The allocator keeps what is freed between what is not. After a flood of requests, or a large namespace that was
//! deleted, that can be most of it, for ever.

use ferrovirt_sys::memory;
use std::{fs, thread, time::Duration};

/// How often the size of this process is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How much larger it has to be than after the last time.
const MORE: u64 = 8 << 20;

/// Starts the thread that looks after it. To be called before other threads are started.
pub(crate) fn watch() {
    memory::few_arenas();
    let started = thread::Builder::new().name("memory".to_owned()).spawn(|| {
        let mut least = 0;
        loop {
            thread::sleep(LOOK);
            if resident().is_some_and(|now| now > least + MORE) {
                memory::give_back();
                least = resident().unwrap_or_default();
            }
        }
    });
    if let Err(error) = started {
        tracing::warn!("memory is not given back: {error}");
    }
}

/// Resident bytes of this process that no file is behind.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}
