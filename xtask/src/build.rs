//! Builds the programs into `target/dist`.

use crate::{root, run, target};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The launcher is linked statically so that it runs in any image, and the witness so that it runs alone in a guest; the C
/// library's static form is enough for that.
const STATIC: &str = "x86_64-unknown-linux-gnu";

/// Builds `ferrovirt`, `virt-handler` and the static `virt-launcher` and `selinux-witness`, optimised, and puts them side by
/// side.
pub(crate) fn build() -> Result<PathBuf> {
    println!("building");
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root()).args(["build", "--quiet", "--release", "--locked"]);
        command
    };
    run(cargo().args(["-p", "ferrovirt-cli", "-p", "ferrovirt-agent"]))?;
    run(cargo()
        .args(["-p", "ferrovirt-launcher", "-p", "ferrovirt-witness", "--target", STATIC])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let dist = target().join("dist");
    fs::create_dir_all(&dist)?;
    let release = target().join("release");
    let statics = target().join(STATIC).join("release");
    let programs = ["ferrovirt", "virt-handler"].map(|name| release.join(name));
    for source in
        programs.into_iter().chain(["virt-launcher", "selinux-witness"].map(|name| statics.join(name)))
    {
        put(&source, &dist)?;
    }
    Ok(dist)
}

/// Puts a program into a directory. One that runs cannot be overwritten, but it can be replaced.
fn put(source: &Path, dist: &Path) -> Result<()> {
    let name = source.file_name().context("a program has no name")?;
    let fresh = dist.join(format!(".{}", name.to_string_lossy()));
    fs::copy(source, &fresh).with_context(|| source.display().to_string())?;
    Ok(fs::rename(&fresh, dist.join(name))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A person builds while machines run: the old program goes on, the next start is of the new one.
    #[test]
    fn a_program_that_runs_is_replaced() {
        let (from, dist) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = from.path().join("program");
        fs::copy("/usr/bin/sleep", &source).unwrap();
        put(&source, dist.path()).unwrap();
        let placed = dist.path().join("program");
        let mut running = loop {
            match Command::new(&placed).arg("60").spawn() {
                // A process that another test has just started has it open for writing until it runs its own program.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now()
                }
                started => break started.unwrap(),
            }
        };
        fs::copy("/usr/bin/true", &source).unwrap();
        let replaced = put(&source, dist.path());
        let alive = running.try_wait().unwrap().is_none();
        running.kill().unwrap();
        running.wait().unwrap();
        replaced.unwrap();
        assert!(alive, "the old program ended");
        assert_eq!(fs::read(&placed).unwrap(), fs::read("/usr/bin/true").unwrap());
        assert_ne!(fs::metadata(&placed).unwrap().permissions().mode() & 0o111, 0, "it can be started");
        assert_eq!(fs::read_dir(dist.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_program_that_was_not_built_is_named() {
        let dist = tempfile::tempdir().unwrap();
        let error = format!("{:#}", put(Path::new("/no/such/program"), dist.path()).unwrap_err());
        assert!(error.contains("/no/such/program"), "{error}");
        assert_eq!(fs::read_dir(dist.path()).unwrap().count(), 0);
    }
}
