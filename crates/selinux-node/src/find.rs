//! Where policies are.

use std::path::{Path, PathBuf};

/// The running kernel's policy.
pub const RUNNING: &str = "/sys/fs/selinux/policy";

/// A directory without a policy.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// A module store that was not compiled.
    #[error(
        "the module store {0} has no compiled policy: `semodule -n -B` makes one, or name the policy file"
    )]
    NotCompiled(PathBuf),
    /// Neither policies nor a store.
    #[error("no file policy.N in {0} or its directory policy, and no module store either")]
    Nothing(PathBuf),
}

/// The newest policy of a directory: of `/etc/selinux/NAME`, of a module store such as `/var/lib/selinux/NAME`, or of a
/// directory of policies.
///
/// # Errors
/// There is none.
pub fn in_directory(directory: &Path) -> Result<PathBuf, FindError> {
    let mut best: Option<(u32, PathBuf)> = None;
    for directory in [directory.to_owned(), directory.join("policy")] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version =
                name.to_str().and_then(|name| name.strip_prefix("policy.")).and_then(|end| end.parse().ok());
            if let Some(version) = version
                && best.as_ref().is_none_or(|(other, _)| *other < version)
            {
                best = Some((version, entry.path()));
            }
        }
    }
    if let Some((_, path)) = best {
        return Ok(path);
    }
    // What semodule compiled last, before it was installed under /etc/selinux.
    let store = [directory.join("active"), directory.to_owned()];
    let compiled = store.iter().map(|directory| directory.join("policy.kern")).find(|path| path.is_file());
    match compiled {
        Some(path) => Ok(path),
        None if store.iter().any(|directory| directory.join("modules").is_dir()) => {
            Err(FindError::NotCompiled(directory.to_owned()))
        }
        None => Err(FindError::Nothing(directory.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_newest_version_counts_by_number_and_a_compiled_store_comes_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let found = || in_directory(directory.path());
        assert!(matches!(found(), Err(FindError::Nothing(_))));
        fs::create_dir_all(path("active/modules")).unwrap();
        assert!(matches!(found(), Err(FindError::NotCompiled(_))));
        fs::write(path("active/policy.kern"), "").unwrap();
        assert_eq!(found().unwrap(), path("active/policy.kern"));
        fs::create_dir(path("policy")).unwrap();
        for name in ["policy/policy.9", "policy/policy.33", "policy.31", "policy.old"] {
            fs::write(path(name), "").unwrap();
        }
        assert_eq!(found().unwrap(), path("policy/policy.33"));
    }
}
