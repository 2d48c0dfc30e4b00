//! Looking into an unpacked image: from its root, and out of it through nothing.

use super::Error;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat},
    io,
};
use std::{os::fd::OwnedFd, path::Path};

/// Most files of a directory that are looked at.
const MOST: usize = 1000;

/// The only file of `directory` below an image's unpacked root, as a path from that root; it is no link. `directory` is one
/// name.
///
/// # Errors
/// When there is none, or more than one.
pub fn only_file(root: &Path, directory: &str, reference: &str) -> Result<String, Error> {
    let name = directory;
    let wrong = |what: String| Error::Disk { reference: reference.to_owned(), what };
    let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let missing = |_| wrong(format!("it has no /{name} directory (a link does not count)"));
    let directory = open(root, name, OFlags::RDONLY | OFlags::DIRECTORY, plain).map_err(missing)?;
    let mut files = Vec::new();
    for entry in Dir::read_from(&directory).map_err(missing)?.take(MOST) {
        let entry = entry.map_err(missing)?;
        let data = statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if FileType::from_raw_mode(data.st_mode).is_file() {
            files.push(String::from_utf8_lossy(entry.file_name().to_bytes()).into_owned());
        }
    }
    match files.as_slice() {
        [one] => Ok(format!("{name}/{one}")),
        [] => Err(wrong(format!("there is no file in its /{name} directory"))),
        _ => Err(wrong(format!("there are {} files in its /{name} directory", files.len()))),
    }
}

fn open(root: &Path, path: &str, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_disk_directory_that_is_a_link_says_nothing_about_where_it_leads() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret-name"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("disk")).unwrap();
        let said = only_file(root.path(), "disk", "i").unwrap_err().to_string();
        assert!(said.contains("no /disk directory") && !said.contains("secret-name"), "{said}");
        fs::remove_file(root.path().join("disk")).unwrap();
        fs::create_dir(root.path().join("disk")).unwrap();
        symlink(outside.path().join("secret-name"), root.path().join("disk/one")).unwrap();
        let said = only_file(root.path(), "disk", "i").unwrap_err().to_string();
        assert!(said.contains("no file in its /disk"), "{said}");
    }

    #[test]
    fn a_container_disk_has_one_file() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("disk")).unwrap();
        for name in ["a", "b"] {
            fs::write(root.path().join("disk").join(name), "x").unwrap();
        }
        assert!(only_file(root.path(), "disk", "two").is_err());
        fs::remove_file(root.path().join("disk/b")).unwrap();
        assert_eq!(only_file(root.path(), "disk", "one").unwrap(), "disk/a");
    }
}
