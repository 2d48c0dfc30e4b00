//! The directory that an image is unpacked into. Everything is named from its descriptor, one component at a time, and
//! no link is ever followed.

use crate::budget::Budget;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, fstatvfs, linkat, mkdirat, openat, statat, symlinkat,
        unlinkat,
    },
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Blocks of zeroes of this size become holes.
const BLOCK: usize = 64 << 10;
/// How many blocks are written before the free space is looked at again.
const LOOK: usize = 256;
/// Most directories above a file: removing them goes as deep.
const MAX_DEPTH: usize = 128;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The root of an unpacked image.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// From the descriptor of a directory.
    pub fn new(root: OwnedFd) -> Self {
        Self(root)
    }

    /// Opens the directory at `path`; for tests and fuzzing.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, OFlags::RDONLY | DIRECTORY, Mode::empty())?))
    }

    /// The directory with these components, made where missing.
    pub(crate) fn directory(&self, path: &[&[u8]], budget: &Budget) -> io::Result<OwnedFd> {
        if path.len() > MAX_DEPTH {
            return Err(wrong(format!("a directory lies over {MAX_DEPTH} directories deep")));
        }
        let mut at = openat(&self.0, c".", OFlags::PATH | DIRECTORY, Mode::empty())?;
        for part in path {
            at = match openat(&at, *part, OFlags::PATH | DIRECTORY, Mode::empty()) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    budget.entry()?;
                    mkdirat(&at, *part, Mode::from_raw_mode(0o755))?;
                    openat(&at, *part, OFlags::PATH | DIRECTORY, Mode::empty())?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(wrong(format!("{} lies behind a link or a file", crate::plain(part, 100))));
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(at)
    }

    /// Makes the file `name` in `directory` with all that `from` has left.
    pub(crate) fn write(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        mode: u32,
        from: &mut impl Read,
        budget: &Budget,
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(directory, name, flags, Mode::from_raw_mode(mode))?);
        let mut block = vec![0; BLOCK];
        let mut length = 0_u64;
        for number in 0_usize.. {
            if number.is_multiple_of(LOOK) {
                self.has_space(budget.reserve())?;
            }
            let mut filled = 0;
            while let Some(space) = block.get_mut(filled..).filter(|space| !space.is_empty()) {
                match from.read(space)? {
                    0 => break,
                    more => filled += more,
                }
            }
            let Some(data) = block.get(..filled).filter(|data| !data.is_empty()) else { break };
            length += data.len() as u64;
            if data.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Start(length))?;
            } else {
                budget.write(data.len())?;
                file.write_all(data)?;
            }
        }
        file.set_len(length)
    }

    fn has_space(&self, reserve: u64) -> io::Result<()> {
        let all = fstatvfs(&self.0)?;
        let free = all.f_bavail.saturating_mul(all.f_frsize);
        if free < reserve {
            let what = format!("only {free} bytes are free on the node, and {reserve} must stay free");
            return Err(io::Error::new(io::ErrorKind::StorageFull, what));
        }
        Ok(())
    }
}

pub(crate) fn kind(directory: &OwnedFd, name: &[u8]) -> io::Result<Option<FileType>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(data) => Ok(Some(FileType::from_raw_mode(data.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn make_directory(directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    Ok(mkdirat(directory, name, Mode::from_raw_mode(0o755))?)
}

pub(crate) fn make_symlink(directory: &OwnedFd, name: &[u8], to: &[u8]) -> io::Result<()> {
    Ok(symlinkat(to, directory, name)?)
}

pub(crate) fn make_link(from: &OwnedFd, name: &[u8], directory: &OwnedFd, new: &[u8]) -> io::Result<()> {
    Ok(linkat(from, name, directory, new, AtFlags::empty())?)
}

/// Removes a file, or a directory with all below it. What is not there is fine.
pub(crate) fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = openat(directory, name, OFlags::PATH | DIRECTORY, Mode::empty())?;
    empty(&inner)?;
    Ok(unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

/// Removes everything in a directory.
pub(crate) fn empty(directory: &OwnedFd) -> io::Result<()> {
    let list = openat(directory, c".", OFlags::RDONLY | DIRECTORY, Mode::empty())?;
    for entry in Dir::new(list)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove(directory.as_fd(), name)?;
        }
    }
    Ok(())
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
