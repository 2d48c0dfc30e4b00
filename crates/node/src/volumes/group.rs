//! A volume follows the group of its pod, as with a kubelet (`fsGroup`, `pkg/volume/volume_linux.go`): what is in it belongs to
//! the group, which may read and write it, and what comes into a directory belongs to it, too. A kubelet leaves a local volume
//! alone that another pod has already; here who starts last has it.
//!
//! Another pod may have the volume at the same time and change it meanwhile. So what is changed is what an open descriptor
//! names; no link is followed, and no other file system entered.

use k8s_openapi::api::core::v1::Pod;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, chmod, chownat, fstat, openat,
        openat2,
    },
    io::Errno,
};
use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

/// What the group may do with directories, with the bit by which what comes into them is the group's, and with files.
const DIRECTORIES: u32 = 0o2770;
const FILES: u32 = 0o660;

/// A pod's `fsGroupChangePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Everything is looked at each time.
    Always,
    /// A volume whose own directory is the group's is taken to be done: that one comes last.
    OnRootMismatch,
}

impl Change {
    pub(super) fn of(pod: &Pod) -> Self {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        match context.and_then(|context| context.fs_group_change_policy.as_deref()) {
            Some("OnRootMismatch") => Self::OnRootMismatch,
            _ => Self::Always,
        }
    }
}

/// Gives a directory with everything in it to a group.
///
/// # Errors
/// What the kernel says.
pub(super) fn follow(volume: &Path, group: u32, change: Change) -> io::Result<()> {
    let group = Gid::from_raw(group);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, volume, flags, Mode::empty())?;
    let found = fstat(&root)?;
    if change == Change::OnRootMismatch && is_given(&found, group, DIRECTORIES) {
        return Ok(());
    }
    let mut directories = vec![PathBuf::from(".")];
    while let Some(path) = directories.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let directory = match openat2(&root, &path, flags, Mode::empty(), resolve) {
            // Somebody else has removed or exchanged it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            other => other?,
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inside = match openat(&directory, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let data = fstat(&inside)?;
            match FileType::from_raw_mode(data.st_mode) {
                FileType::Directory if data.st_dev == found.st_dev => {
                    give(&inside, &data, group, DIRECTORIES)?;
                    directories.push(path.join(OsStr::from_bytes(name.to_bytes())));
                }
                // A second name of the file may lead to something else than this volume.
                FileType::RegularFile if data.st_nlink == 1 => give(&inside, &data, group, FILES)?,
                _ => {}
            }
        }
    }
    give(&root, &found, group, DIRECTORIES)
}

fn is_given(data: &Stat, group: Gid, bits: u32) -> bool {
    data.st_gid == group.as_raw() && data.st_mode & bits == bits
}

fn give(file: &OwnedFd, data: &Stat, group: Gid, bits: u32) -> io::Result<()> {
    if is_given(data, group, bits) {
        return Ok(());
    }
    let own = |group| chownat(file, "", None, Some(group), AtFlags::EMPTY_PATH);
    // Setting the set-group-ID bit of another's group would take CAP_FSETID; a directory keeps it when its group changes.
    own(Gid::ROOT)?;
    let mode = Mode::from_raw_mode(data.st_mode & 0o1777 | bits);
    chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?;
    Ok(own(group)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
    };

    fn of(path: &Path) -> (u32, u32) {
        let data = fs::symlink_metadata(path).unwrap();
        (data.gid(), data.mode() & 0o7777)
    }

    /// Needs root.
    #[test]
    fn everything_in_a_volume_is_the_groups_and_nothing_behind_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        fs::write(outside.join("second"), "").unwrap();
        fs::write(volume.join("a/b/file"), "").unwrap();
        chmod(volume.join("a/b/file"), Mode::from_raw_mode(0o600)).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        symlink(outside.join("file"), volume.join("a/link")).unwrap();
        fs::hard_link(outside.join("second"), volume.join("second")).unwrap();
        let before = [&outside, &outside.join("file"), &outside.join("second")].map(|path| of(path));
        // Of another group before, and once more.
        for group in [4321, 1234, 1234] {
            follow(&volume, group, Change::Always).unwrap();
            assert_eq!(of(&volume), (group, 0o2775));
            assert_eq!(of(&volume.join("a/b")), (group, 0o2775));
            assert_eq!(of(&volume.join("a/b/file")), (group, 0o660));
        }
        let after = [&outside, &outside.join("file"), &outside.join("second")].map(|path| of(path));
        assert_eq!(before, after);
    }

    /// Needs root.
    #[test]
    fn a_volume_that_has_its_group_is_left_alone_where_the_pod_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, link) = (directory.path().join("volume"), directory.path().join("link"));
        fs::create_dir(&volume).unwrap();
        // The way to a volume may be a link.
        symlink(&volume, &link).unwrap();
        follow(&link, 1234, Change::OnRootMismatch).unwrap();
        assert_eq!(of(&volume), (1234, 0o2775));
        let file = volume.join("file");
        fs::write(&file, "").unwrap();
        chmod(&file, Mode::from_raw_mode(0o600)).unwrap();
        follow(&link, 1234, Change::OnRootMismatch).unwrap();
        assert_eq!(of(&file), (1234, 0o600));
        follow(&link, 1234, Change::Always).unwrap();
        assert_eq!(of(&file), (1234, 0o660));
    }

    #[test]
    fn a_pods_policy_is_always_unless_it_says_otherwise() {
        for (said, change) in [
            (None, Change::Always),
            (Some("Always"), Change::Always),
            (Some("OnRootMismatch"), Change::OnRootMismatch),
        ] {
            let context = serde_json::json!({"fsGroupChangePolicy": said});
            let pod = serde_json::json!({"spec": {"containers": [], "securityContext": context}});
            assert_eq!(Change::of(&serde_json::from_value(pod).unwrap()), change);
        }
    }
}
