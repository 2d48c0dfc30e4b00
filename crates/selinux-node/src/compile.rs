//! The policy compiler.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The newest version of policies that Linux 6.1 reads.
const VERSION: &str = "33";

/// What the compiler writes, and how strict it is.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// The policy.
    pub policy: &'a Path,
    /// Contexts of files; /dev/null for none.
    pub contexts: &'a Path,
    /// Whether `neverallow` rules are checked.
    pub neverallow: bool,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler cannot be started.
    #[error("cannot run secilc: install the package secilc")]
    Start(#[source] io::Error),
    /// It refuses the modules, in its own words.
    #[error("secilc refuses the policy:\n{0}")]
    Refused(String),
}

/// Makes a policy of modules in CIL, in the order in which they are given.
///
/// # Errors
/// The compiler is missing or refuses.
pub fn secilc(modules: &[PathBuf], output: Output<'_>) -> Result<(), CompileError> {
    let mut command = Command::new("secilc");
    if !output.neverallow {
        command.arg("-N");
    }
    command.args(["-M", "true", "-c", VERSION, "-f"]).arg(output.contexts).arg("-o").arg(output.policy);
    let said = command.args(modules).output().map_err(CompileError::Start)?;
    if said.status.success() {
        return Ok(());
    }
    Err(CompileError::Refused(String::from_utf8_lossy(&said.stderr).trim_end().to_owned()))
}
