//! Denials as the kernel logs them, in the forms of auditd, of the console and of the journal.

mod event;
mod judge;
mod record;

pub use event::{Event, events};
pub use judge::Judged;
pub use record::{AvcError, Denial, Record, RecordKind, Stamp, parse};
