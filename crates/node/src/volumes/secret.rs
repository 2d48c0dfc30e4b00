//! Secrets as files in memory, in a kubelet's form (`pkg/volume/util/atomic_writer.go`): who reads a volume sees the keys of
//! one moment, also while they are exchanged.
//!
//! ```text
//!   ..2026_12_01_04_28_56.123456789/KEY    a version
//!   ..data -> ..2026_12_01_04_28_56.123456789
//!   KEY -> ..data/KEY
//! ```

use super::{Error, Objects, unsupported};
use crate::{
    disk::{remove_tree, unmount},
    oci::identity::Identity,
    selinux,
};
use k8s_openapi::{
    api::core::v1::{SecretVolumeSource, Volume},
    jiff::Timestamp,
};
use rustix::{
    io::Errno,
    mount::{MountFlags, mount, mount_remount},
};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, OsStr, OsString},
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

/// Most memory of the files of a volume. A secret has a mebibyte at most, but each file has pages of its own, and a key may be
/// in a volume under many names.
const MOST: u64 = 64 << 20;
/// A page of x86-64, which each file begins.
const PAGE: u64 = 4096;
/// Memory of a volume beside its files: links whose targets are longer than what their inodes hold.
const REST: u64 = 1 << 20;
/// How it is mounted.
const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
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
    if room(&files) > MOST {
        let what = format!(
            "its files need {} MiB of memory, and {} are the most: use fewer items or a smaller secret",
            room(&files).div_ceil(1 << 20),
            MOST >> 20
        );
        return Err(unsupported(&volume.name, &what));
    }
    Ok(files)
}

/// Bytes of the pages of files.
fn room(files: &Files) -> u64 {
    let pages = files.values().map(|file| (file.bytes.len() as u64).div_ceil(PAGE));
    pages.fold(0, |all, count| all.saturating_add(count.saturating_mul(PAGE)))
}

/// Names with two dots in the beginning are this module's own.
fn is_inside(path: &str) -> bool {
    !path.starts_with("..") && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
}

/// Makes the volume for these files, in memory that is never written to the disk where the kernel can promise that (6.4).
pub(super) fn make(directory: &Path, files: &Files, readers: Readers<'_>) -> io::Result<()> {
    match fs::create_dir(directory) {
        // Of an attempt that was interrupted.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => unmount(directory)?,
        other => other?,
    }
    let tmpfs = |options: &CStr| mount("tmpfs", directory, "tmpfs", FLAGS, Some(options));
    let options = format!("size={},mode=0755", room(files) + REST);
    match tmpfs(&CString::new(format!("{options},noswap"))?) {
        Err(Errno::INVAL) => tmpfs(&CString::new(options)?)?,
        other => other?,
    }
    give(directory, readers)
}

/// Makes room for another version beside what a volume holds.
fn widen(directory: &Path, files: &Files) -> io::Result<()> {
    let found = rustix::fs::statfs(directory)?;
    if found.f_type != TMPFS {
        return Ok(());
    }
    let unit = u64::try_from(found.f_bsize).unwrap_or_default();
    let used = found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(unit);
    let size = CString::new(format!("size={}", used + room(files) + REST))?;
    match mount_remount(directory, FLAGS, &size) {
        // It is no mount of its own, and has the room of what it is in.
        Err(Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
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
    if let Some(version) = &before
        && holds(&data, files)?
    {
        // A writer may have ended just before its links were there.
        shape(directory, files, version, readers)?;
        return Ok(false);
    }
    // What a writer that was interrupted has left takes the room of this version.
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.as_bytes().starts_with(b"..") && name != DATA && Some(&name) != before.as_ref() {
            remove(&directory.join(name))?;
        }
    }
    widen(directory, files)?;
    let now = Timestamp::now();
    let version = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let made = directory.join(&version);
    if let Err(error) = fill(&made, files, readers) {
        // Half a version is nobody's, and would take the room of the next try.
        let _first_counts = remove_tree(&made);
        return Err(error);
    }
    let next = directory.join(NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => link(Path::new(&version), &next, readers)?,
    }
    fs::rename(&next, &data)?;
    shape(directory, files, version.as_ref(), readers)?;
    Ok(true)
}

/// Makes a version.
fn fill(made: &Path, files: &Files, readers: Readers<'_>) -> io::Result<()> {
    own_directory(made, readers)?;
    for (path, file) in files {
        let mut parent = made.to_owned();
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
    Ok(())
}

/// Removes a link, or a directory with what is in it.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { remove_tree(path) } else { fs::remove_file(path) }
}

/// Has links to what there is now, and neither others nor an earlier version.
fn shape(directory: &Path, files: &Files, version: &OsStr, readers: Readers<'_>) -> io::Result<()> {
    let tops = files.keys().filter_map(|path| path.split('/').next()).map(OsString::from);
    let mut missing: std::collections::BTreeSet<OsString> = tops.collect();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.as_bytes().starts_with(b"..") {
            if name != DATA && name != version {
                remove(&directory.join(name))?;
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

    /// Needs root.
    #[test]
    fn a_version_that_does_not_fit_leaves_nothing_and_the_next_one_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let options = CString::new("size=64k").unwrap();
        mount("tmpfs", &volume, "tmpfs", FLAGS, Some(options.as_c_str())).unwrap();
        let long = "x".repeat(100 << 10);
        let fitting = files(&[("a", "1"), ("b", "1")]);
        fill(&volume.join("..first"), &fitting, ALL).unwrap();
        let failed = fill(&volume.join("..second"), &files(&[("a", "1"), ("b", &long)]), ALL).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        // Who writes next has its room, and makes what it needs.
        assert!(write(&volume, &files(&[("a", "2"), ("b", &long)]), ALL).unwrap());
        assert_eq!(fs::read_to_string(volume.join("b")).unwrap(), long);
        assert!(write(&volume, &fitting, ALL).unwrap());
        assert_eq!(names(&volume).len(), 4, "{:?}", names(&volume));
        // Links that are missing are made, though the version is there.
        fs::remove_file(volume.join("a")).unwrap();
        assert!(!write(&volume, &fitting, ALL).unwrap());
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        // A key that cannot be a file.
        let bad = files(&[("a", "3"), (&"n".repeat(300), "3")]);
        assert!(write(&volume, &bad, ALL).is_err());
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(names(&volume).len(), 4, "half a version is left: {:?}", names(&volume));
        unmount(&volume).unwrap();
    }

    /// Needs root.
    #[test]
    fn many_small_keys_have_a_page_each() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volume");
        let of = |count: usize, bytes: &str| -> Files {
            let all = (0..count).map(|n| (format!("key{n}"), File { bytes: bytes.into(), mode: 0o644 }));
            all.collect()
        };
        let first = of(2000, "1");
        assert_eq!(room(&first), 2000 * PAGE);
        make(&volume, &first, ALL).unwrap();
        assert!(write(&volume, &first, ALL).unwrap());
        assert!(write(&volume, &of(3000, "2"), ALL).unwrap());
        assert_eq!(fs::read_to_string(volume.join("key2999")).unwrap(), "2");
        unmount(&volume).unwrap();
    }

    #[test]
    fn what_needs_too_much_memory_is_refused_in_words() {
        let secret = serde_json::json!({"metadata": {"name": "s"}, "data": {"k": "eA=="}});
        let items: Vec<_> =
            (0..20_000).map(|n| serde_json::json!({"key": "k", "path": format!("p{n}")})).collect();
        let volume = serde_json::json!({"name": "v", "secret": {"secretName": "s", "items": items}});
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let mut objects = Objects::default();
        objects.secrets.insert("s".to_owned(), serde_json::from_value(secret).unwrap());
        let said = super::files(&volume, volume.secret.as_ref().unwrap(), &objects).unwrap_err().to_string();
        assert!(said.contains("79 MiB of memory, and 64 are the most"), "{said}");
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
