//! Builds the three programs into `target/dist`.

use crate::{root, run, target};
use anyhow::Result;
use std::{fs, path::PathBuf, process::Command};

/// The launcher is linked statically so that it runs in any image; the C library's static form is enough for that.
const STATIC: &str = "x86_64-unknown-linux-gnu";

/// Builds `ferrovirt`, `virt-handler` and the static `virt-launcher`, optimised, and puts them side by side.
pub(crate) fn build() -> Result<PathBuf> {
    println!("building");
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root()).args(["build", "--quiet", "--release", "--locked"]);
        command
    };
    run(cargo().args(["-p", "ferrovirt-cli", "-p", "ferrovirt-agent"]))?;
    run(cargo()
        .args(["-p", "ferrovirt-launcher", "--target", STATIC])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let dist = target().join("dist");
    fs::create_dir_all(&dist)?;
    let release = target().join("release");
    let launcher = target().join(STATIC).join("release/virt-launcher");
    for source in [release.join("ferrovirt"), release.join("virt-handler"), launcher] {
        let Some(name) = source.file_name() else { continue };
        // A running program cannot be overwritten, but it can be replaced.
        let fresh = dist.join(format!(".{}", name.to_string_lossy()));
        fs::copy(&source, &fresh)?;
        fs::rename(&fresh, dist.join(name))?;
    }
    Ok(dist)
}
