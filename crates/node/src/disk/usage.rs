//! How much space a directory takes. Pods write below it meanwhile: no link is followed, and the walk is bounded.

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat},
    io::Errno,
};
use std::{io, ops::AddAssign, os::fd::OwnedFd, path::Path};

/// Deepest directory that is looked at, and most entries: the files of a pod are a few on two levels. What has
/// more is made to hide something, and counts as without end.
const MAX_DEPTH: u32 = 32;
const MAX_ENTRIES: u64 = 100_000;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Space of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that its files take on disk; holes are none. [`u64::MAX`] when it is too large or deep to be walked.
    pub bytes: u64,
    /// Files and directories, each counted once for each name.
    pub inodes: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// Adds up the space of everything at `path`, on its own file system alone. Nothing there takes nothing.
///
/// # Errors
/// What the file system says.
pub fn usage(path: &Path) -> io::Result<Usage> {
    let root = match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Usage::default()),
        other => other?,
    };
    let device = fstat(&root)?.st_dev;
    let mut sum = Usage::default();
    walk(&root, device, 0, &mut sum)?;
    Ok(sum)
}

fn walk(directory: &OwnedFd, device: u64, depth: u32, sum: &mut Usage) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if sum.inodes >= MAX_ENTRIES {
            sum.bytes = u64::MAX;
            return Ok(());
        }
        let data = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed meanwhile.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        if data.st_dev != device {
            continue;
        }
        let bytes = u64::try_from(data.st_blocks).unwrap_or_default().saturating_mul(512);
        *sum += Usage { bytes, inodes: 1 };
        if !FileType::from_raw_mode(data.st_mode).is_dir() {
            continue;
        }
        if depth == MAX_DEPTH {
            sum.bytes = u64::MAX;
            return Ok(());
        }
        match openat(directory, name, DIRECTORY, Mode::empty()) {
            Ok(inner) => walk(&inner, device, depth + 1, sum)?,
            // Removed or replaced meanwhile; the next walk sees what is there then.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What is free on a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes that may still be written.
    pub available: u64,
    /// Inodes in all; 0 where the file system does not count them.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// Asks the file system of `path`.
///
/// # Errors
/// What statvfs(3) says.
pub fn free(path: &Path) -> io::Result<Free> {
    let all = rustix::fs::statvfs(path)?;
    Ok(Free {
        capacity: all.f_blocks.saturating_mul(all.f_frsize),
        available: all.f_bavail.saturating_mul(all.f_frsize),
        inodes: all.f_files,
        inodes_free: all.f_favail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn what_is_written_counts_and_holes_and_links_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("big"), vec![1; 4 << 20]).unwrap();
        assert_eq!(usage(&directory.path().join("missing")).unwrap(), Usage::default());
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/file"), vec![1; 1 << 20]).unwrap();
        fs::File::create(directory.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        symlink(outside.path(), directory.path().join("link")).unwrap();
        let found = usage(directory.path()).unwrap();
        assert!((1 << 20..2 << 20).contains(&found.bytes), "{found:?}");
        assert_eq!(found.inodes, 4);
    }

    #[test]
    fn what_is_too_deep_to_be_walked_is_without_end() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("d/".repeat(40))).unwrap();
        assert_eq!(usage(directory.path()).unwrap().bytes, u64::MAX);
    }
}
