//! Mounts that are what they shall be before anybody can use them.

use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};
use std::{io, path::Path};

/// Mounts a copy of the tree at `source` on `target`, with everything that is mounted in it: read-only throughout, without
/// set-user-ID programs and device nodes, and apart from what is mounted there later. It is so from its first moment.
///
/// # Errors
/// What open_tree(2), mount_setattr(2) and move_mount(2) say; nothing is mounted then. `ENOSYS` before Linux 5.12.
pub fn read_only_copy(source: &Path, target: &Path) -> io::Result<()> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    restrict(&tree)?;
    Ok(move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

#[allow(unsafe_code)]
fn restrict(tree: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a C string and the structure lives through the call, with its own size; the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::MountFlags;
    use rustix::mount::{UnmountFlags, mount, unmount};
    use std::fs;

    /// Needs root.
    #[test]
    fn nothing_is_written_through_the_copy_nor_through_what_is_mounted_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let [source, target] = ["source", "target"].map(|name| directory.path().join(name));
        fs::create_dir_all(source.join("inner")).unwrap();
        fs::create_dir(&target).unwrap();
        mount("tmpfs", source.join("inner"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(source.join("inner/file"), "kept").unwrap();
        read_only_copy(&source, &target).unwrap();
        let outer = fs::create_dir(target.join("made"));
        let inner = fs::write(target.join("inner/file"), "lost");
        let read = fs::read_to_string(target.join("inner/file"));
        // The original is as it was.
        let original = fs::write(source.join("inner/more"), "x");
        unmount(&target, UnmountFlags::DETACH).unwrap();
        unmount(source.join("inner"), UnmountFlags::DETACH).unwrap();
        for refused in [outer, inner] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert_eq!(read.unwrap(), "kept");
        original.unwrap();
        assert!(!source.join("made").exists());
    }
}
