//! The policy compiler.

use std::{
    fs, io,
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

/// The modules in CIL in a directory, sorted: the compiler's result depends on their order.
///
/// # Errors
/// What reading the directory says.
pub fn cil_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cil") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_what_ends_in_cil_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.cil", "a.cil", "z.cil", "c.pp", "cil", "README", "a.cil.bak"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let names = ["a.cil", "b.cil", "z.cil"].map(|name| directory.path().join(name));
        assert_eq!(cil_files(directory.path()).unwrap(), names);
        assert!(cil_files(&directory.path().join("none")).is_err());
    }
}
