//! Ways out of confinement. No domain of a machine may take one.

use super::{Act, Place, anchor};
use rustix::fs::{FileType, Mode, makedev, mknodat};
use std::{
    fs::File,
    io::{self, Write as _},
};

/// Writes to a file that was opened before.
fn write_to(path: &str, text: &'static str) -> io::Result<Act> {
    let mut file = File::options().write(true).open(path)?;
    Ok(Box::new(move || file.write_all(text.as_bytes())))
}

pub(super) fn domain(_: &Place) -> io::Result<Act> {
    write_to("/proc/thread-self/attr/current", "system_u:system_r:spc_t:s0")
}

pub(super) fn enforcing(_: &Place) -> io::Result<Act> {
    write_to("/sys/fs/selinux/enforce", "0")
}

/// What is written is no policy: were it not refused, the error would be another.
pub(super) fn policy(_: &Place) -> io::Result<Act> {
    write_to("/sys/fs/selinux/load", "no policy")
}

/// A node for the node's disk.
pub(super) fn disk(place: &Place) -> io::Result<Act> {
    let directory = anchor(place.path(""))?;
    Ok(Box::new(move || Ok(mknodat(&directory, "disk", FileType::BlockDevice, Mode::RUSR, makedev(259, 0))?)))
}
