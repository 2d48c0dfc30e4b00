//! What containers see of the node and of images, as mounts through which nobody can write.
//!
//! The runtime makes a read-only mount read-only after it has made all mounts, and until then makes missing mount points as
//! root in whatever lies below. Here the directories that all pods share are read-only before the runtime sees them, with
//! everything that is mounted in them, so that neither a pod's fields nor a fault of the runtime's can change them.

use crate::disk::unmount;
use ferrovirt_sys::mount::read_only_copy;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Shared directories and their read-only copies.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<(PathBuf, PathBuf)>);

impl Sources {
    /// Mounts a copy of each directory below `directory`, under its name there. What an earlier agent mounted is replaced:
    /// containers have mounts of their own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn prepare(directory: &Path, shared: &[(&str, &Path)]) -> io::Result<Self> {
        let mut all = Vec::new();
        for (name, path) in shared.iter().filter(|(_, path)| path.is_dir()) {
            let copy = directory.join(name);
            unmount(&copy)?;
            fs::create_dir_all(&copy)?;
            read_only_copy(path, &copy)?;
            all.push(((*path).to_owned(), copy));
        }
        Ok(Self(all))
    }

    /// Where the runtime finds a path: in the copy of the shared directory that it lies in, else where it is.
    pub fn of(&self, path: &Path) -> PathBuf {
        let below = |(shared, copy): &(PathBuf, PathBuf)| {
            let rest = path.strip_prefix(shared).ok()?;
            Some(if rest.as_os_str().is_empty() { copy.clone() } else { copy.join(rest) })
        };
        self.0.iter().find_map(below).unwrap_or_else(|| path.to_owned())
    }

    /// Takes the copies away.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|(_, copy)| unmount(copy).and_then(|()| fs::remove_dir(copy)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root.
    #[test]
    fn shared_directories_are_read_only_before_the_runtime_sees_them_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let images = directory.path().join("images");
        fs::create_dir_all(images.join("one/disk")).unwrap();
        let copies = directory.path().join("sources");
        for _ in 0..2 {
            // The second time as after a crash.
            let shared = [("images", images.as_path()), ("none", Path::new("/nowhere"))];
            let sources = Sources::prepare(&copies, &shared).unwrap();
            let found = sources.of(&images.join("one"));
            assert!(found.join("disk").is_dir(), "{found:?}");
            let made = fs::create_dir(found.join("made"));
            assert_eq!(made.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
            // What is unpacked later is there, too.
            fs::create_dir_all(images.join("two")).unwrap();
            assert!(sources.of(&images.join("two")).is_dir());
            assert_eq!(sources.of(Path::new("/elsewhere")), Path::new("/elsewhere"));
            assert_eq!(sources.of(&images), copies.join("images"));
        }
        Sources(vec![(images.clone(), copies.join("images"))]).remove().unwrap();
        assert!(!copies.join("images").exists() && !images.join("one/made").exists());
    }
}
