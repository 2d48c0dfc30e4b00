//! Builds the programs into `target/dist`.

use crate::{root, run, target};
use anyhow::Result;
use std::{fs, path::PathBuf, process::Command};

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
        let Some(name) = source.file_name() else { continue };
        // A running program cannot be overwritten, but it can be replaced.
        let fresh = dist.join(format!(".{}", name.to_string_lossy()));
        fs::copy(&source, &fresh)?;
        fs::rename(&fresh, dist.join(name))?;
    }
    Ok(dist)
}
