//! Secrets as files in memory, in a kubelet's form (`pkg/volume/util/atomic_writer.go`): who reads a volume sees the keys of
//! one moment, also while they are exchanged.
//!
//! ```text
//!   ..2026_12_01_04_28_56.123456789/KEY    a version
//!   ..data -> ..2026_12_01_04_28_56.123456789
//!   KEY -> ..data/KEY
//! ```

use super::{Error, Objects, unsupported};
use crate::{disk::unmount, oci::identity::Identity, selinux};
use k8s_openapi::{
    api::core::v1::{SecretVolumeSource, Volume},
    jiff::Timestamp,
};
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, OsString},
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{PermissionsExt as _, chown, symlink},
        },
    },
    path::Path,
};

/// Memory of a volume: two versions of the largest secret, and room for the rest of their pages.
const SIZE: &str = "size=4m,mode=0755";
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;
/// The newest version, and the link that is about to take its place.
const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// A file of such a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
}

/// Files by their relative paths.
pub(super) type Files = BTreeMap<String, File>;

/// Who may read the files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readers<'a> {
    /// The pod's group, beside those whom the mode lets.
    pub(super) group: Option<u32>,
    /// The SELinux label of its files.
    pub(super) label: Option<&'a str>,
}

impl<'a> From<&'a Identity> for Readers<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self { group: identity.fs_group, label: identity.label.as_ref().map(|label| label.files.as_str()) }
    }
}

/// The files of a volume.
///
/// # Errors
/// The secret is not there, or lacks a key, and neither is optional; or a path leads out of the volume.
pub(super) fn files(volume: &Volume, source: &SecretVolumeSource, objects: &Objects) -> Result<Files, Error> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    let optional = source.optional == Some(true);
    let Some(secret) = objects.secrets.get(name) else {
        if optional {
            return Ok(Files::new());
        }
        let (volume, name) = (volume.name.clone(), name.to_owned());
        return Err(Error::NotFound { volume, kind: "secret", name });
    };
    let data = secret.data.as_ref();
    let bits = |mode: Option<i32>| mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644) & 0o777;
    let mut files = Files::new();
    let mut add = |path: &str, bytes: &[u8], mode| {
        if !is_inside(path) {
            return Err(unsupported(&volume.name, &format!("path {path:?} leaves the volume")));
        }
        files.insert(path.to_owned(), File { bytes: bytes.to_vec(), mode });
        Ok(())
    };
    match &source.items {
        None => {
            for (key, bytes) in data.into_iter().flatten() {
                add(key, &bytes.0, bits(source.default_mode))?;
            }
        }
        Some(items) => {
            for item in items {
                match data.and_then(|data| data.get(&item.key)) {
                    Some(bytes) => add(&item.path, &bytes.0, bits(item.mode.or(source.default_mode)))?,
                    None if optional => {}
                    None => {
                        let what = format!("secret {name} has no key {:?}", item.key);
                        return Err(unsupported(&volume.name, &what));
                    }
                }
            }
        }
    }
    Ok(files)
}

/// Names with two dots in the beginning are this module's own.
fn is_inside(path: &str) -> bool {
    !path.starts_with("..") && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
}

/// Makes the volume, in memory that is never written to the disk where the kernel can promise that (6.4).
pub(super) fn make(directory: &Path, readers: Readers<'_>) -> io::Result<()> {
    match fs::create_dir(directory) {
        // Of an attempt that was interrupted.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => unmount(directory)?,
        other => other?,
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let tmpfs = |options: &CStr| mount("tmpfs", directory, "tmpfs", flags, Some(options));
    match tmpfs(&CString::new(format!("{SIZE},noswap"))?) {
        Err(Errno::INVAL) => tmpfs(&CString::new(SIZE)?)?,
        other => other?,
    }
    give(directory, readers)
}

/// Gives a volume of a container that runs these files and no others. Whether anything has changed. Fine where there is no
/// such volume.
pub(super) fn exchange(directory: &Path, files: &Files, readers: Readers<'_>) -> io::Result<bool> {
    // Through what is opened: when it is unmounted meanwhile, nothing is written to what lies below.
    let opened = match fs::File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if rustix::fs::fstatfs(&opened)?.f_type != TMPFS {
        return Ok(false);
    }
    write(Path::new(&format!("/proc/self/fd/{}", opened.as_raw_fd())), files, readers)
}

/// Gives a volume that [`make`] made these files and no others. Whether anything has changed.
pub(super) fn write(directory: &Path, files: &Files, readers: Readers<'_>) -> io::Result<bool> {
    let data = directory.join(DATA);
    let before = match fs::read_link(&data) {
        Ok(version) => Some(version.into_os_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if before.is_some() && holds(&data, files)? {
        return Ok(false);
    }
    let now = Timestamp::now();
    let version = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let made = directory.join(&version);
    own_directory(&made, readers)?;
    for (path, file) in files {
        let mut parent = made.clone();
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in above.split('/').filter(|part| !part.is_empty()) {
            parent.push(part);
            if !parent.is_dir() {
                own_directory(&parent, readers)?;
            }
        }
        let place = parent.join(name);
        fs::write(&place, &file.bytes)?;
        let for_group = if readers.group.is_some() { 0o440 } else { 0 };
        fs::set_permissions(&place, fs::Permissions::from_mode(file.mode | for_group))?;
        give(&place, readers)?;
    }
    let next = directory.join(NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => link(Path::new(&version), &next, readers)?,
    }
    fs::rename(&next, &data)?;
    shape(directory, files, &version, readers)?;
    Ok(true)
}

/// Has links to what there is now, and neither others nor an earlier version.
fn shape(directory: &Path, files: &Files, version: &str, readers: Readers<'_>) -> io::Result<()> {
    let tops = files.keys().filter_map(|path| path.split('/').next()).map(OsString::from);
    let mut missing: std::collections::BTreeSet<OsString> = tops.collect();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.as_bytes().starts_with(b"..") {
            if name != DATA && name != version {
                fs::remove_dir_all(directory.join(name))?;
            }
        } else if !missing.remove(&name) {
            fs::remove_file(directory.join(name))?;
        }
    }
    missing.iter().try_for_each(|name| link(&Path::new(DATA).join(name), &directory.join(name), readers))
}

fn own_directory(path: &Path, readers: Readers<'_>) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    give(path, readers)
}

fn link(target: &Path, path: &Path, readers: Readers<'_>) -> io::Result<()> {
    symlink(target, path)?;
    label(path, readers)
}

fn give(path: &Path, readers: Readers<'_>) -> io::Result<()> {
    chown(path, None, readers.group)?;
    label(path, readers)
}

/// Of a link its own.
fn label(path: &Path, readers: Readers<'_>) -> io::Result<()> {
    readers.label.map_or(Ok(()), |label| selinux::label_path(path, label))
}

/// Whether a version has these files and no others.
fn holds(version: &Path, files: &Files) -> io::Result<bool> {
    let mut count = 0;
    let mut directories = vec![version.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(version).ok().and_then(Path::to_str);
            let Some(file) = name.and_then(|name| files.get(name)) else { return Ok(false) };
            if fs::read(&path)? != file.bytes {
                return Ok(false);
            }
            count += 1;
        }
    }
    Ok(count == files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Readers<'_> = Readers { group: None, label: None };

    fn files(all: &[(&str, &str)]) -> Files {
        let file = |bytes: &str| File { bytes: bytes.into(), mode: 0o644 };
        all.iter().map(|(path, bytes)| ((*path).to_owned(), file(bytes))).collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_keys_change_at_once_and_nothing_of_before_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path();
        assert!(write(volume, &files(&[("a", "1"), ("below/b", "1"), ("gone", "1")]), ALL).unwrap());
        assert!(!write(volume, &files(&[("a", "1"), ("below/b", "1"), ("gone", "1")]), ALL).unwrap());
        // Who has the version of before open goes on seeing that.
        let before = fs::read_link(volume.join(DATA)).unwrap();
        // Of a process that was killed in the middle.
        fs::create_dir(volume.join("..2026_01_01_00_00_00.000000000")).unwrap();
        symlink("nowhere", volume.join(NEXT)).unwrap();
        assert!(write(volume, &files(&[("a", "2"), ("below/b", "1"), ("new", "2")]), ALL).unwrap());
        let after = fs::read_link(volume.join(DATA)).unwrap();
        assert_ne!(before, after);
        let version = after.to_str().unwrap();
        assert_eq!(names(volume), [version, DATA, "a", "below", "new"]);
        for (path, bytes) in [("a", "2"), ("below/b", "1"), ("new", "2")] {
            assert_eq!(fs::read_to_string(volume.join(path)).unwrap(), bytes, "{path}");
            assert_eq!(fs::read_to_string(volume.join(version).join(path)).unwrap(), bytes, "{path}");
        }
        assert!(write(volume, &Files::new(), ALL).unwrap());
        assert_eq!(names(volume).len(), 2, "a secret that is gone leaves an empty version");
    }

    #[test]
    fn only_names_inside_are_taken() {
        for path in ["a", "a/b", ".a", "a/..b", "a..", "..a/b"] {
            assert_eq!(is_inside(path), !path.starts_with(".."), "{path}");
        }
        for path in ["", "/a", "a/", "a//b", "./a", "a/../b", "..", "..data"] {
            assert!(!is_inside(path), "{path}");
        }
    }
}
