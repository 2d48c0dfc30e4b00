//! Records that belong together.

use super::record::{AvcError, Denial, Record, RecordKind, Stamp, parse};
use std::collections::HashMap;

/// Records with the same stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When; events from lines without a stamp stand alone.
    pub stamp: Option<Stamp>,
    /// The records in the order of the log.
    pub records: Vec<Record>,
}

impl Event {
    /// The decisions with their records.
    pub fn denials(&self) -> impl Iterator<Item = (&Record, &Denial)> {
        self.records.iter().filter_map(|record| record.denial.as_ref().map(|denial| (record, denial)))
    }

    /// A field of the first record of a kind.
    pub fn field(&self, kind: &RecordKind, name: &str) -> Option<&str> {
        self.records.iter().find(|record| record.kind == *kind)?.field(name)
    }

    /// The name of the TUN request of the event's system call.
    pub fn tun_request(&self) -> Option<&'static str> {
        let syscall = self.field(&RecordKind::Syscall, "syscall")?;
        let ioctl = match self.field(&RecordKind::Syscall, "arch")? {
            _ if syscall == "ioctl" => "ioctl",
            "c000003e" => "16",
            "c00000b7" => "29",
            "80000016" | "c0000015" | "80000015" => "54",
            _ => return None,
        };
        if syscall != ioctl {
            return None;
        }
        let request = self.field(&RecordKind::Syscall, "a1")?;
        let request = u64::from_str_radix(request.strip_prefix("0x").unwrap_or(request), 16).ok()?;
        match request & 0xffff {
            0x54ca => Some("TUNSETIFF"),
            0x54cb => Some("TUNSETPERSIST"),
            0x54cc => Some("TUNSETOWNER"),
            0x54d9 => Some("TUNSETQUEUE"),
            _ => None,
        }
    }
}

/// Groups the lines of a log, in the order in which events begin, and gives the lines (from 1) that are damaged.
pub fn events<'a>(lines: impl IntoIterator<Item = &'a str>) -> (Vec<Event>, Vec<(usize, AvcError)>) {
    let mut events: Vec<Event> = Vec::new();
    let mut places: HashMap<Stamp, usize> = HashMap::new();
    let mut damaged = Vec::new();
    for (number, line) in (1..).zip(lines) {
        let record = match parse(line) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error) => {
                damaged.push((number, error));
                continue;
            }
        };
        let place = record.stamp.and_then(|stamp| places.get(&stamp).copied());
        match place.and_then(|place| events.get_mut(place)) {
            Some(event) => event.records.push(record),
            None => {
                if let Some(stamp) = record.stamp {
                    places.insert(stamp, events.len());
                }
                events.push(Event { stamp: record.stamp, records: vec![record] });
            }
        }
    }
    (events, damaged)
}
