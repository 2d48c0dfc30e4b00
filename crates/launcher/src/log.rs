//! The launcher's own log, which is the pod's.

use std::io::Write;

/// Writes one line to standard error. A log that nobody takes is no reason to end.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
