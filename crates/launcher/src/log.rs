//! The launcher's own log, which is the pod's.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

/// Writes to standard error, each line behind the time: seconds since 1970, a dot, nanoseconds, a blank. Whoever shows
/// the log turns that into words or leaves it out. A log that nobody takes is no reason to end.
pub(crate) fn line(text: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = String::new();
    for line in text.lines() {
        out.push_str(&format!("{}.{:09} {line}\n", now.as_secs(), now.subsec_nanos()));
    }
    let _ = std::io::stderr().write_all(out.as_bytes());
}
