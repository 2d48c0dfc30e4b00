//! Denials as the kernel logs them, in the forms of auditd, of the console and of the journal.

mod event;
mod explain;
mod record;

pub use event::{Event, events};
pub use explain::{Allowed, Explanation, Kind, Topic, explain, is_minimal};
pub use record::{AvcError, Denial, Record, RecordKind, Stamp, parse};
