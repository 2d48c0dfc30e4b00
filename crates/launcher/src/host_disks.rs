//! Disks in files of the node, on a cluster: the kubelet has mounted their directories, and nobody else looks at what is in
//! them.

use crate::claims::{give_size, user, writes};
use ferrovirt_qemu::order::Disk;
use rustix::{
    fs::{FileType, Mode, OFlags, openat},
    io::Errno,
};
use std::{fs::File, io};

/// What is wrong with a file of the node. Its path is not said, as no path of the node is: its user has written it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(
        "the node has no file of hostDisk.path: make it there, or let hostDisk.type be DiskOrCreate with a capacity, where \
         the guest writes to the disk"
    )]
    Missing,
    #[error(
        "what hostDisk.path names on the node is not a regular file (links do not count): name the raw disk itself, or put \
         one in its place"
    )]
    Strange,
    #[error(
        "the node's file of hostDisk.path may not be used by user {user}: give the file to that user on the node, and where \
         it is to be made its directory"
    )]
    Denied { user: u32 },
    #[error(
        "the node's file of hostDisk.path lies in a file system that is read-only, and the machine writes to it: make the disk \
         read-only"
    )]
    ReadOnly,
    #[error(
        "the node's file of hostDisk.path is empty, and another machine is about to give it its size: this one waits for that"
    )]
    Busy,
    #[error("the node's file of hostDisk.path: {0}")]
    System(io::Error),
}

/// The file is there and can be opened as the guest uses it, or is made with `bytes`.
pub(crate) fn file(disk: &Disk, bytes: Option<u64>) -> Result<(), Problem> {
    let failed = |error: Errno| match error {
        Errno::NOENT => Problem::Missing,
        Errno::LOOP | Errno::ISDIR => Problem::Strange,
        Errno::ACCESS | Errno::PERM => Problem::Denied { user: user() },
        Errno::ROFS => Problem::ReadOnly,
        Errno::AGAIN => Problem::Busy,
        error => Problem::System(error.into()),
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
        return Err(Problem::Strange);
    }
    match bytes {
        // New, or what an interrupted start has left: it holds nothing.
        Some(bytes) if stat.st_size == 0 => give_size(&directory, &opened, bytes, 0o600).map_err(failed),
        _ => Ok(()),
    }
}
