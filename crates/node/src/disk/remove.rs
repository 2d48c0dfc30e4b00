//! Removing a directory that a pod could write to: however deep it is, with a few descriptors and no recursion.

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
    mount::UnmountFlags,
};
use std::{io, os::fd::OwnedFd, path::Path};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Unmounts everything that is mounted on a directory. Fine where nothing is, and without a directory.
///
/// # Errors
/// What the kernel says.
pub fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes `path` and everything below it, through no link. What is not there is fine.
///
/// # Errors
/// What the file system says.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let root = match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut number = 0_u64;
    loop {
        let inner = level(&root, None, &mut number)?;
        if inner.is_empty() {
            break;
        }
        for name in inner {
            let directory = match openat(&root, name.as_slice(), DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            level(&directory, Some(&root), &mut number)?;
            unlinkat(&root, name.as_slice(), AtFlags::REMOVEDIR)?;
        }
    }
    match rustix::fs::rmdir(path) {
        Err(error) if error != Errno::NOENT => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes the files of a directory. Its directories are moved to `top`, or named where there is none.
fn level(directory: &OwnedFd, top: Option<&OwnedFd>, number: &mut u64) -> io::Result<Vec<Vec<u8>>> {
    let mut left = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(top) = top else {
            left.push(name.to_bytes().to_vec());
            continue;
        };
        loop {
            *number += 1;
            match renameat(directory, name, top, format!("removed.{number}")) {
                // A name that the pod took; there is always another.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                other => break other?,
            }
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_directory_as_deep_as_its_owner_likes_is_removed_with_a_small_stack() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut at = openat(CWD, &top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..10_000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(at);
        fs::create_dir(top.join("removed.2")).unwrap();
        fs::write(top.join("removed.2/file"), "x").unwrap();
        let thread = std::thread::Builder::new().stack_size(128 << 10);
        let path = top.clone();
        thread.spawn(move || remove_tree(&path).unwrap()).unwrap().join().unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn nothing_behind_a_link_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("a")).unwrap();
        symlink(outside.path(), top.join("a/link")).unwrap();
        symlink(outside.path(), top.join("link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists() && outside.path().join("kept").exists());
    }
}
