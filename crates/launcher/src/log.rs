//! The launcher's own log, which is the pod's. What QEMU and the guest say is in it: as data, one line a line.

use ferrovirt_qemu::text::plain;
use std::{
    io::Write,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Most characters of a line.
const LONGEST: usize = 1000;

/// Most lines in [`WINDOW`]: what QEMU and the guest do decides how many there are.
const LINES: u32 = 200;
const WINDOW: Duration = Duration::from_secs(10);

/// Writes to standard error, each line behind the time: seconds since 1970, a dot, nanoseconds, a blank. Anyone who shows
/// the log turns that into words or leaves it out. Lines beyond what a log is for are counted instead. A log that nobody
/// takes is no reason to end.
pub(crate) fn line(text: &str) {
    static RATE: Mutex<Rate> = Mutex::new(Rate { since: Duration::ZERO, written: 0, left_out: 0 });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut rate = RATE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = String::new();
    for line in text.lines() {
        let (may, left_out) = rate.may(now);
        if left_out > 0 {
            out.push_str(&stamped(now, &format!("{left_out} lines were left out")));
        }
        if may {
            out.push_str(&stamped(now, &plain(line, LONGEST)));
        }
    }
    let _ = std::io::stderr().write_all(out.as_bytes());
}

fn stamped(now: Duration, line: &str) -> String {
    format!("{}.{:09} {line}\n", now.as_secs(), now.subsec_nanos())
}

struct Rate {
    /// Beginning of the window.
    since: Duration,
    written: u32,
    left_out: u64,
}

impl Rate {
    /// Whether a line may be written, and how many were left out before it without a word.
    fn may(&mut self, now: Duration) -> (bool, u64) {
        let mut left_out = 0;
        // A clock that went back begins a window, too.
        if now.checked_sub(self.since).is_none_or(|passed| passed >= WINDOW) {
            self.since = now;
            self.written = 0;
            left_out = std::mem::take(&mut self.left_out);
        }
        self.written = self.written.saturating_add(1);
        let may = self.written <= LINES;
        self.left_out += u64::from(!may);
        (may, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_instead_of_written() {
        let mut rate = Rate { since: Duration::ZERO, written: 0, left_out: 0 };
        let start = Duration::from_secs(1_800_000_000);
        let written = (0..100_000).filter(|_| rate.may(start).0).count();
        assert_eq!(written, 200);
        assert_eq!(rate.may(start + WINDOW), (true, 99_800));
        assert_eq!(rate.may(start + WINDOW), (true, 0));
    }
}
