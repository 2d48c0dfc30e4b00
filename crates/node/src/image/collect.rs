//! Removing unpacked images that no pod uses.

use super::Store;
use crate::disk::{remove_tree, usage};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// An unpacked image that no pod uses.
struct Unused {
    path: PathBuf,
    bytes: u64,
    age: Duration,
}

impl Store {
    /// Removes unpacked images that no pod uses: those that are too old, the oldest where there are too many bytes of
    /// them, or all. `marks` are the directories in which pods have marked what they use. The number of bytes that
    /// became free. Blocks.
    pub fn collect(&self, marks: impl Fn() -> Vec<PathBuf>, all: bool) -> u64 {
        let mut unused = match self.unused(&marks()) {
            Ok(unused) => unused,
            Err(error) => {
                tracing::warn!("looking for unpacked images without use: {error}");
                return 0;
            }
        };
        unused.sort_by_key(|image| image.age);
        let mut kept = 0_u64;
        let gone: Vec<Unused> = unused
            .into_iter()
            .filter(|image| {
                kept = kept.saturating_add(image.bytes);
                all || image.age > self.policy.unused_age || kept > self.policy.unused_bytes
            })
            .collect();
        let mut freed = 0;
        for image in gone {
            match self.remove(&image.path, &marks) {
                Ok(true) => {
                    tracing::info!(bytes = image.bytes, "removed an unpacked image that no pod uses");
                    freed += image.bytes;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!("removing an unpacked image: {error}"),
            }
        }
        freed
    }

    fn unused(&self, marks: &[PathBuf]) -> io::Result<Vec<Unused>> {
        let used = used(marks);
        let mut unused = Vec::new();
        for entry in fs::read_dir(&self.cache)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.extension().is_some_and(|extension| extension == "part") {
                continue;
            }
            if used.contains(&name) {
                // The time counts from when it was last seen in use.
                fs::File::open(&path)?.set_modified(SystemTime::now())?;
                continue;
            }
            let age = fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
            unused.push(Unused { bytes: usage(&path)?.bytes, path, age });
        }
        Ok(unused)
    }

    /// Removes one, unless a pod has marked it meanwhile: marks are made under the same lock.
    fn remove(&self, path: &Path, marks: &impl Fn() -> Vec<PathBuf>) -> io::Result<bool> {
        let gone = path.with_extension("gone.part");
        {
            let _state = self.state();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if used(&marks()).contains(&name) {
                return Ok(false);
            }
            fs::rename(path, &gone)?;
        }
        remove_tree(&gone)?;
        Ok(true)
    }
}

fn used(marks: &[PathBuf]) -> BTreeSet<String> {
    let names = marks.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
