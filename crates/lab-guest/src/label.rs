//! SELinux through its files.

use crate::context;
use rustix::fs::XattrFlags;
use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

/// The context of the next program that this thread executes; empty for the policy's own choice.
///
/// # Errors
/// The kernel does not take it.
pub fn on_exec(text: &str) -> io::Result<()> {
    // A write of no bytes would not reach the kernel.
    let bytes = if text.is_empty() { "\n".to_owned() } else { format!("{text}\0") };
    // Opened without O_CREAT, which would be asked about as making a file.
    let file = File::options().write(true).open("/proc/thread-self/attr/exec");
    file.and_then(|mut file| file.write_all(bytes.as_bytes()))
        .map_err(context(format_args!("the context {text:?} of a program")))
}

/// Labels one file.
///
/// # Errors
/// What lsetxattr(2) says, with the file.
pub fn set(path: &Path, text: &str) -> io::Result<()> {
    let value = format!("{text}\0");
    rustix::fs::lsetxattr(path, "security.selinux", value.as_bytes(), XattrFlags::empty())
        .map_err(context(format_args!("labelling {} as {text}", path.display())))
}
