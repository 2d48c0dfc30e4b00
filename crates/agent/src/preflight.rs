//! What the node must have, checked before anything is touched.

use ferrovirt_node::network::cni::PLUGINS;
use ferrovirt_plan::render::capabilities;
use ferrovirt_sys::rights;
use std::path::{Path, PathBuf};

/// A node that cannot run machines, and what to do about it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not root.
    #[error("virt-handler needs root: it makes namespaces, mounts and network devices; run it as root")]
    NotRoot,
    /// Root without what root usually has.
    #[error("root lacks the capabilities {0} here: run it outside of a restricted container")]
    Capabilities(String),
    /// Programs that are not there.
    #[error("missing on this node: {}; on Debian: apt-get install {}", names(.0, |p| &p.0), names(.0, |p| &p.1))]
    Programs(Vec<(String, String)>),
    /// The launcher is not there.
    #[error("the launcher {0} is missing or not a file: build it, or name another with --launcher")]
    Launcher(PathBuf),
    /// The kernel cannot make TAP devices.
    #[error("/dev/net/tun is missing: load the kernel module tun")]
    Tun,
}

fn names(all: &[(String, String)], which: impl Fn(&(String, String)) -> &String) -> String {
    let mut names: Vec<&str> = all.iter().map(|pair| which(pair).as_str()).collect();
    names.dedup();
    names.join(" ")
}

/// Programs and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 2] = [("crun", "crun"), ("qemu-system-x86_64", "qemu-system-x86")];

/// Checks the node.
///
/// # Errors
/// The first thing that is missing.
pub fn check(launcher: &Path) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if let Ok(held) = rustix::thread::capabilities(None) {
        let held = |name: &str| rights::set([name]).is_some_and(|set| held.effective.contains(set));
        // A nested root may lack SYS_RESOURCE; then no score of the OOM killer goes under this process's own.
        let needed = capabilities::agent().into_iter().filter(|name| name != "SYS_RESOURCE");
        let missing: Vec<String> = needed.filter(|name| !held(name)).collect();
        if !missing.is_empty() {
            return Err(Error::Capabilities(missing.join(", ")));
        }
    }
    let mut missing: Vec<(String, String)> = PROGRAMS
        .iter()
        .filter(|(program, _)| !in_path(program))
        .map(|(program, package)| ((*program).to_owned(), (*package).to_owned()))
        .collect();
    if ["bridge", "host-local"].iter().any(|plugin| !Path::new(PLUGINS).join(plugin).is_file()) {
        missing.push((format!("{PLUGINS}/bridge"), "containernetworking-plugins".to_owned()));
    }
    if !missing.is_empty() {
        return Err(Error::Programs(missing));
    }
    if !launcher.is_file() {
        return Err(Error::Launcher(launcher.to_owned()));
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(Error::Tun);
    }
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_their_packages() {
        let qemu = ("qemu-system-x86_64".into(), "qemu-system-x86".into());
        let missing = Error::Programs(vec![("crun".into(), "crun".into()), qemu]);
        assert_eq!(
            missing.to_string(),
            "missing on this node: crun qemu-system-x86_64; on Debian: apt-get install crun qemu-system-x86"
        );
    }
}
