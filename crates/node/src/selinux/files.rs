//! Labels of files.

use rustix::fs::XattrFlags;
use std::{fs, io, os::fd::AsFd, path::Path};

/// The attribute that holds a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// The label of files that every container of this node may read, up to its level.
pub const SHARED_FILES: &str = "system_u:object_r:container_file_t:s0";

/// Labels an open file.
///
/// # Errors
/// What the kernel says.
pub fn label(file: impl AsFd, context: &str) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, ATTRIBUTE, context.as_bytes(), XattrFlags::empty())?)
}

/// Labels a path; a link itself, not what it leads to.
///
/// # Errors
/// What the kernel says.
pub fn label_path(path: &Path, context: &str) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(path, ATTRIBUTE, context.as_bytes(), XattrFlags::empty())?)
}

/// Labels a tree that is the caller's own, once: its root comes last and says that it is done.
///
/// # Errors
/// What the kernel says.
pub fn label_tree(root: &Path, context: &str) -> io::Result<()> {
    let mut found = [0_u8; 256];
    if let Ok(length) = rustix::fs::lgetxattr(root, ATTRIBUTE, &mut found)
        && found
            .get(..length)
            .is_some_and(|found| found.strip_suffix(b"\0").unwrap_or(found) == context.as_bytes())
    {
        return Ok(());
    }
    if fs::symlink_metadata(root)?.is_dir() {
        for entry in fs::read_dir(root)? {
            label_tree(&entry?.path(), context)?;
        }
    }
    label_path(root, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_labelled_without_following_links() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, outside) = (directory.path().join("tree"), directory.path().join("outside"));
        fs::create_dir_all(tree.join("a")).unwrap();
        fs::write(tree.join("a/file"), "").unwrap();
        fs::write(&outside, "").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        label_tree(&tree, SHARED_FILES).unwrap();
        let read = |path: &Path| {
            let mut found = [0_u8; 256];
            let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut found).unwrap_or(0);
            String::from_utf8_lossy(&found[..length]).trim_end_matches('\0').to_owned()
        };
        for path in ["", "a", "a/file", "link"] {
            assert_eq!(read(&tree.join(path)), SHARED_FILES, "{path}");
        }
        assert_ne!(read(&outside), SHARED_FILES);
    }
}
