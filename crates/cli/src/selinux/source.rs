//! Reading a policy.

use anyhow::{Context, Result, anyhow};
use ferrovirt_selinux::{Database, Policy, PolicyError, ReadError};
use ferrovirt_selinux_node::{RUNNING, in_directory};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

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
