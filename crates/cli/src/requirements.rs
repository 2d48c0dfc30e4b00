//! What `ferrovirt up` needs of the host, asked before anything is made.

use anyhow::{Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Programs that the node agent and the launcher start, with the Debian package of each.
const PROGRAMS: [(&str, &str); 2] = [("qemu-system-x86_64", "qemu-system-x86"), ("crun", "crun")];

/// The CNI plug-ins' directory, as Debian's containernetworking-plugins has it.
const CNI: &str = "/usr/lib/cni";

/// Fails with all that is missing and the command that brings it.
pub(crate) fn check() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "`ferrovirt up` starts containers and network namespaces and needs root: run it with sudo"
    );
    let mut missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if !["bridge", "host-local"].iter().all(|plugin| Path::new(CNI).join(plugin).exists()) {
        missing.push("containernetworking-plugins");
    }
    if !missing.is_empty() {
        bail!("missing on this machine: {}; run `apt-get install {}`", missing.join(", "), missing.join(" "));
    }
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
