//! The files that the launcher makes for its own guest before QEMU opens them.

use ferrovirt_qemu::{
    iso::TooMuch,
    order::{Disk, Order, Prepare},
    seed::Files,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Write},
};

/// A disk that is not ready.
#[derive(Debug, thiserror::Error)]
#[error("disk {name:?}: {path}: {problem}")]
pub(crate) struct NotReady {
    name: String,
    path: String,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Seed(#[from] TooMuch),
}

/// Makes what the disks of an order need, of the files that came before it. What an earlier try has left is made again.
pub(crate) fn prepare(order: &Order, files: &Files) -> Result<(), NotReady> {
    for disk in &order.disks {
        self::disk(disk, files).map_err(|problem| NotReady {
            name: disk.name.clone(),
            path: disk.path.clone(),
            problem,
        })?;
    }
    Ok(())
}

fn disk(disk: &Disk, files: &Files) -> Result<(), Problem> {
    match &disk.prepare {
        None => {}
        Some(Prepare::Seed) => {
            let image = files.image(&disk.name)?;
            make(&disk.path, 0o400)?.write_all(&image)?;
        }
        Some(Prepare::Empty { bytes }) => make(&disk.path, 0o600)?.set_len(*bytes)?,
    }
    Ok(())
}

/// A new file in place of what is there. O_EXCL follows no link.
fn make(path: &str, mode: u32) -> io::Result<File> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?.into())
}
