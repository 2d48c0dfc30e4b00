//! SELinux through its files.

use anyhow::{Context, Result};
use rustix::fs::XattrFlags;
use std::{fs, io::Write, path::Path};

/// The context of the next program that this thread executes; empty for the policy's own choice.
pub(crate) fn on_exec(context: &str) -> Result<()> {
    // A write of no bytes would not reach the kernel.
    let text = if context.is_empty() { "\n".to_owned() } else { format!("{context}\0") };
    // Opened without O_CREAT, which would be asked about as making a file.
    let file = fs::OpenOptions::new().write(true).open("/proc/thread-self/attr/exec");
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("exec label {context:?}"))
}

/// Labels one file.
pub(crate) fn set(path: &Path, context: &str) -> Result<()> {
    let value = format!("{context}\0");
    rustix::fs::lsetxattr(path, "security.selinux", value.as_bytes(), XattrFlags::empty())
        .with_context(|| format!("labelling {} as {context}", path.display()))
}

/// Labels a directory with all that is in it.
pub(crate) fn set_all(path: &Path, context: &str) -> Result<()> {
    set(path, context)?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            set_all(&entry?.path(), context)?;
        }
    }
    Ok(())
}
