//! Finding and reading a policy.

use anyhow::{Context, Result, anyhow, bail};
use ferrovirt_selinux::{Database, Policy, PolicyError, ReadError};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The running kernel's policy.
pub(super) const RUNNING: &str = "/sys/fs/selinux/policy";

/// The newest policy of a directory: of `/etc/selinux/NAME`, of a module store such as `/var/lib/selinux/NAME`, or of a
/// directory of policies.
pub(super) fn in_directory(directory: &Path) -> Result<PathBuf> {
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
    if let Some(path) = compiled {
        return Ok(path);
    }
    if store.iter().any(|directory| directory.join("modules").is_dir()) {
        bail!(
            "the module store {} has no compiled policy: `semodule -n -B` makes one, or name the policy file",
            directory.display()
        );
    }
    bail!("no file policy.N in {} or its directory policy, and no module store either", directory.display())
}

/// The policy lives until the process ends, which is soon: to return its memory piece by piece would take time for
/// nothing.
pub(super) fn load(path: &Path) -> Result<&'static Database> {
    let path = if path.is_dir() { in_directory(path)? } else { path.to_owned() };
    let policy = read(&path).map_err(|error| {
        let hint = if path == Path::new(RUNNING) {
            "; SELinux is not running on this machine, so name a policy file"
        } else {
            ""
        };
        anyhow!("cannot read the policy {}: {error}{hint}", path.display())
    })?;
    let database = policy.map_err(PolicyError::from).and_then(|policy| Ok(Database::new(policy)?));
    Ok(Box::leak(Box::new(database.with_context(|| path.display().to_string())?)))
}

/// Larger than any policy.
const TOO_LARGE: u64 = 256 << 20;

/// Reads a file piece by piece, so that only the policy itself takes memory. The kernel's is read whole and at once, since
/// only one process may have it open, and so is what has no size, such as a pipe.
fn read(path: &Path) -> io::Result<Result<Policy, ReadError>> {
    let mut file = File::open(path)?;
    let data = file.metadata()?;
    if data.len() > TOO_LARGE {
        return Err(io::Error::other("it has more than 256 MiB, which no policy has"));
    }
    if data.is_file() && data.len() > 0 && path != Path::new(RUNNING) {
        return Ok(Policy::read(&mut file, data.len() as usize));
    }
    let mut bytes = Vec::new();
    (&mut file).take(TOO_LARGE).read_to_end(&mut bytes)?;
    Ok(Policy::parse(&bytes))
}
