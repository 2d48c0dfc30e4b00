//! Disks in files of the node, on a cluster: the kubelet has mounted their directories, and nobody else looks at what is in
//! them.

use crate::claims::{give_size, user, writes};
use ferrovirt_qemu::order::Disk;
use rustix::{
    fs::{FileType, Mode, OFlags, openat},
    io::Errno,
};
use std::{fs::File, io};

/// What is wrong with a file of the node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(
        "the node has no file {path}: make it there, or let hostDisk.type be DiskOrCreate with a capacity, where the guest \
         writes to the disk"
    )]
    Missing { path: String },
    #[error(
        "{path} of the node is not a regular file (links do not count): name the raw disk itself, or put one in its place"
    )]
    Strange { path: String },
    #[error(
        "{path} of the node may not be used by user {user}: give the file to that user on the node, and where it is to be \
         made its directory"
    )]
    Denied { path: String, user: u32 },
    #[error(
        "{path} lies in a file system that is read-only, and the machine writes to it: make the disk read-only"
    )]
    ReadOnly { path: String },
    #[error(
        "{path} of the node is empty, and another machine is about to give it its size: this one waits for that"
    )]
    Busy { path: String },
    #[error("{path} of the node: {error}")]
    System { path: String, error: io::Error },
}

/// The file is there and can be opened as the guest uses it, or is made with `bytes`.
pub(crate) fn file(disk: &Disk, path: &str, bytes: Option<u64>) -> Result<(), Problem> {
    let failed = |error: Errno| {
        let path = path.to_owned();
        match error {
            Errno::NOENT => Problem::Missing { path },
            Errno::LOOP => Problem::Strange { path },
            Errno::ACCESS | Errno::PERM => Problem::Denied { path, user: user() },
            Errno::ROFS => Problem::ReadOnly { path },
            Errno::AGAIN => Problem::Busy { path },
            error => Problem::System { path, error: error.into() },
        }
    };
    let (directory, name) = disk.path.rsplit_once('/').ok_or_else(|| failed(Errno::NOENT))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty()).map_err(failed)?;
    let access = if writes(disk) { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let bytes = bytes.filter(|_| writes(disk));
    let opened = match (openat(&directory, name, flags, Mode::empty()), bytes) {
        (Err(Errno::NOENT), Some(_)) => {
            openat(&directory, name, flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o600))
        }
        (opened, _) => opened,
    };
    let opened = File::from(opened.map_err(failed)?);
    let stat = rustix::fs::fstat(&opened).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Problem::Strange { path: path.to_owned() });
    }
    match bytes {
        // New, or what an interrupted start has left: it holds nothing.
        Some(bytes) if stat.st_size == 0 => give_size(&directory, &opened, bytes, 0o600).map_err(failed),
        _ => Ok(()),
    }
}
