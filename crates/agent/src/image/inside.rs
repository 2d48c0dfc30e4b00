//! Looking into an unpacked image: from its root, and out of it through nothing.

use super::Error;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat},
    io,
};
use std::{os::fd::OwnedFd, path::Path};

/// Most files of `/disk` that are looked at.
const MOST: usize = 1000;

/// The disk of a container disk image below its unpacked root, as a path from that root: `path`, or the only file
/// of `/disk`. No part of it is a link.
///
/// # Errors
/// When there is none, more than one, or something that is not a regular file.
pub fn disk(root: &Path, reference: &str, path: Option<&str>) -> Result<String, Error> {
    let wrong = |what: String| Error::Disk { reference: reference.to_owned(), what };
    let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if let Some(path) = path {
        let path = path.trim_start_matches('/');
        let found = open(root, path, OFlags::PATH, plain).and_then(|fd| fstat(&fd));
        return match found {
            Ok(data) if FileType::from_raw_mode(data.st_mode).is_file() => Ok(path.to_owned()),
            _ => Err(wrong(format!("{path:?} is not a regular file in it (links do not count)"))),
        };
    }
    let missing = |_| wrong("it has no /disk directory (a link does not count)".to_owned());
    let directory = open(root, "disk", OFlags::RDONLY | OFlags::DIRECTORY, plain).map_err(missing)?;
    let mut files = Vec::new();
    for entry in Dir::read_from(&directory).map_err(missing)?.take(MOST) {
        let entry = entry.map_err(missing)?;
        let data = statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if FileType::from_raw_mode(data.st_mode).is_file() {
            files.push(String::from_utf8_lossy(entry.file_name().to_bytes()).into_owned());
        }
    }
    match files.as_slice() {
        [one] => Ok(format!("disk/{one}")),
        [] => Err(wrong("there is no file in its /disk directory".to_owned())),
        _ => Err(wrong(format!("there are {} files in its /disk directory", files.len()))),
    }
}

/// `path` is a regular file below `root`. Links that stay below it are followed, as QEMU follows them in the mounted
/// image; absolute ones are not, because they lead somewhere else there.
pub fn is_file(root: &Path, path: &str) -> bool {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = open(root, path.trim_start_matches('/'), OFlags::PATH, resolve).and_then(|fd| fstat(&fd));
    found.is_ok_and(|data| FileType::from_raw_mode(data.st_mode).is_file())
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
        let said = disk(root.path(), "i", None).unwrap_err().to_string();
        assert!(said.contains("no /disk directory") && !said.contains("secret-name"), "{said}");
        assert!(disk(root.path(), "i", Some("/disk/secret-name")).is_err());
        assert!(!is_file(root.path(), "/disk/secret-name"));
        fs::remove_file(root.path().join("disk")).unwrap();
        fs::create_dir(root.path().join("disk")).unwrap();
        symlink(outside.path().join("secret-name"), root.path().join("disk/one")).unwrap();
        let said = disk(root.path(), "i", None).unwrap_err().to_string();
        assert!(said.contains("no file in its /disk"), "{said}");
        assert!(disk(root.path(), "i", Some("disk/one")).is_err());
        assert!(!is_file(root.path(), "disk/one"));
    }

    #[test]
    fn links_between_kernels_of_one_image_are_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        fs::write(root.path().join("boot/vmlinuz-6"), "x").unwrap();
        symlink("vmlinuz-6", root.path().join("boot/vmlinuz")).unwrap();
        symlink("/boot/vmlinuz-6", root.path().join("boot/absolute")).unwrap();
        assert!(is_file(root.path(), "/boot/vmlinuz"));
        assert!(!is_file(root.path(), "/boot/absolute"));
        assert!(!is_file(root.path(), "/boot"));
    }

    #[test]
    fn a_container_disk_has_one_file_or_a_path() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("disk")).unwrap();
        for name in ["a", "b"] {
            fs::write(root.path().join("disk").join(name), "x").unwrap();
        }
        assert!(disk(root.path(), "two", None).is_err());
        assert_eq!(disk(root.path(), "two", Some("/disk/b")).unwrap(), "disk/b");
        assert!(disk(root.path(), "two", Some("/disk/c")).is_err());
        fs::remove_file(root.path().join("disk/b")).unwrap();
        assert_eq!(disk(root.path(), "one", None).unwrap(), "disk/a");
    }
}
