//! What all clusters of this machine share: mount points outside their own directories, such as /var/lib/kubelet. The
//! first cluster that needs one makes it, the last one that goes removes it; what was there before stays.

use crate::layout::BASE;
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

/// Over each of these a node binds a directory of its own. What is not bound would be shared by two nodes, and left
/// behind.
pub const MOUNT_POINTS: [&str; 7] = [
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/etc/cni/net.d",
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/cni",
    "/var/lib/ferrovirt",
];

/// Where `ip netns` keeps namespaces; it becomes a mount point with the first of them.
const NETWORKS: &str = "/run/netns";

/// The base directory, with a lock against other commands that make or remove clusters; the lock ends on drop.
#[derive(Debug)]
pub struct Base {
    directory: PathBuf,
    _lock: File,
}

impl Base {
    /// Makes the base directory and takes its lock.
    pub fn lock() -> Result<Self> {
        Self::lock_at(Path::new(BASE))
    }

    fn lock_at(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("{}: are you root?", directory.display()))?;
        let lock = File::open(directory)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    fn record(&self) -> PathBuf {
        self.directory.join("made")
    }

    fn note(&self, line: &str) -> Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.record())?;
        Ok(writeln!(file, "{line}")?)
    }

    /// Makes every mount point that is missing, noted before it is made.
    pub fn prepare(&self) -> Result<()> {
        if !is_mount(NETWORKS)? {
            self.note(&format!("mount {NETWORKS}"))?;
        }
        MOUNT_POINTS.iter().map(Path::new).try_for_each(|path| self.make(path))
    }

    fn make(&self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|one| !one.exists()).collect();
        for one in missing.into_iter().rev() {
            self.note(&format!("directory {}", one.display()))?;
            fs::create_dir(one).with_context(|| one.display().to_string())?;
        }
        Ok(())
    }

    /// The names of the clusters that are here, whether they run or not.
    pub fn clusters(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Removes what was made for all clusters, if none is left.
    pub fn release(self) -> Result<()> {
        if !self.clusters()?.is_empty() {
            return Ok(());
        }
        let record = fs::read_to_string(self.record()).unwrap_or_default();
        for line in record.lines().rev() {
            match line.split_once(' ') {
                // Somebody else may have put something there since: then it is theirs, and stays.
                Some(("directory", path)) => drop(fs::remove_dir(path)),
                Some(("mount", path)) if is_mount(path)? && empty(Path::new(path)) => {
                    rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty())?;
                }
                _ => {}
            }
        }
        let _ = fs::remove_file(self.record());
        Ok(fs::remove_dir(&self.directory)?)
    }
}

fn empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn is_mount(path: &str) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(path)))
}

/// Mounts of this process's mount namespace below `directory`, the innermost first.
pub fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(directory))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missing_goes_with_the_last_cluster_and_the_rest_stays() {
        let place = tempfile::tempdir().unwrap();
        let (base, var) = (place.path().join("base"), place.path().join("var"));
        fs::create_dir_all(var.join("there")).unwrap();
        let first = Base::lock_at(&base).unwrap();
        fs::create_dir(base.join("one")).unwrap();
        first.make(&var.join("a/b")).unwrap();
        first.make(&var.join("there")).unwrap();
        first.make(&var.join("used")).unwrap();
        fs::write(var.join("used/file"), "").unwrap();
        first.release().unwrap();
        assert!(var.join("a/b").exists(), "a cluster is left");

        fs::remove_dir(base.join("one")).unwrap();
        Base::lock_at(&base).unwrap().release().unwrap();
        assert!(!var.join("a").exists() && !base.exists());
        assert!(var.join("there").exists() && var.join("used/file").exists());
    }

    #[test]
    fn inner_mounts_come_first_and_neighbours_do_not_count() {
        assert!(mounts_below(Path::new("/proc/nothing")).unwrap().is_empty());
        let root = mounts_below(Path::new("/")).unwrap();
        assert_eq!(root.last().map(PathBuf::as_path), Some(Path::new("/")));
    }
}
