//! Files that a pod's processes hold open and that have no name any more, such as QEMU's overlays: no walk finds them.

use super::usage::Usage;
use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::Path};

/// Most descriptors of one process that are looked at.
const MOST: usize = 4096;

/// Adds up the nameless files on the file system of `place` that these processes hold, as their user looks at them
/// through `/proc`. Processes that end meanwhile hold nothing.
///
/// # Errors
/// What the file system of `place`, or the change of the user, says.
pub fn unlinked(processes: &[u32], user: u32, group: u32, place: &Path) -> io::Result<Usage> {
    let device = fs::metadata(place)?.dev();
    ferrovirt_sys::identity::as_user(user, group, || {
        let mut seen = BTreeSet::new();
        let mut sum = Usage::default();
        for process in processes {
            let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
            for entry in entries.flatten().take(MOST) {
                let Ok(data) = fs::metadata(entry.path()) else { continue };
                if data.is_file() && data.nlink() == 0 && data.dev() == device && seen.insert(data.ino()) {
                    sum += Usage { bytes: data.blocks().saturating_mul(512), inodes: 1 };
                }
            }
        }
        sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{getgid, getuid};
    use std::io::Write;

    #[test]
    fn a_file_without_a_name_counts_once_and_one_with_a_name_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let own = [std::process::id()];
        let look = || unlinked(&own, getuid().as_raw(), getgid().as_raw(), folder.path()).unwrap();
        let mut named = fs::File::create(folder.path().join("named")).unwrap();
        named.write_all(&vec![1; 1 << 20]).unwrap();
        let before = look();
        let mut nameless = tempfile::tempfile_in(folder.path()).unwrap();
        let _again = nameless.try_clone().unwrap();
        nameless.write_all(&vec![1; 3 << 20]).unwrap();
        // Other tests of this process make such files, too.
        assert!(look().bytes >= 3 << 20, "{before:?} {:?}", look());
    }
}
