//! Debian packages, by name.

use crate::run;
use anyhow::{Context, Result};
use std::process::Command;

/// What each package is for.
const PACKAGES: [(&str, &str); 35] = [
    ("qemu-system-x86", "runs the guests"),
    ("qemu-utils", "qemu-img makes the guest's disk"),
    ("seabios", "firmware of guests that boot a disk"),
    ("crun", "the OCI runtime of the node agent"),
    ("curl", "asks a pod in the tests on a cluster"),
    ("iproute2", "looked at by tests"),
    ("nftables", "looked at by tests"),
    ("containernetworking-plugins", "the pod network"),
    ("busybox-static", "the guest's user space"),
    ("cpio", "packs the guest's initial RAM file system"),
    ("kmod", "depmod orders the guest's modules"),
    ("binutils", "strips the guest's modules"),
    ("e2fsprogs", "file system of the guest's disk"),
    ("grub-common", "grub-mkimage makes the guest's disk bootable"),
    ("grub-pc-bin", "GRUB's modules for it"),
    ("gcc", "links Rust programs and builds their C parts"),
    ("libc6-dev", "the static launcher"),
    ("checkpolicy", "compiles policy modules for tests of SELinux"),
    ("semodule-utils", "packs them"),
    ("policycoreutils", "converts them to CIL"),
    ("secilc", "compiles CIL to a kernel's policy"),
    ("m4", "reads the sources of policy modules"),
    ("gawk", "the makefile of policy modules"),
    ("make", "the same"),
    ("zstd", "unpacks the policy's sources"),
    ("bzip2", "unpacks the policy's modules"),
    ("setools", "its answers about policies are compared with ours"),
    ("python3-setools", "the same, asked by a script"),
    ("time", "memory of programs in benchmarks"),
    ("procps", "looked at by tests"),
    ("libfaketime", "tests in which the clock jumps"),
    ("strace", "tells which system calls launcher and QEMU make"),
    ("libseccomp-dev", "runc of the real Kubernetes is built with it"),
    ("pkg-config", "finds it"),
    ("ca-certificates", "apt over TLS, where it is used"),
];

/// Installs what is missing. Runs apt only when something is.
pub(crate) fn install() -> Result<()> {
    let mut wanted: Vec<&str> = PACKAGES.iter().map(|(name, _)| *name).collect();
    let mut missing: Vec<&str> = wanted.iter().copied().filter(|name| !installed(name)).collect();
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        // Debian's package of kubectl; one from elsewhere does as well.
        missing.push("kubernetes-client");
        wanted.push("kubernetes-client");
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let _ = run(Command::new("apt-get").args(["-q", "update"]));
    // All of them are named, also those that are there: apt removes what is not named to make room for the rest.
    let attempt = apt(&wanted, &[]);
    if attempt.is_err() && installed("qemu-utils") && missing.contains(&"qemu-system-x86") {
        // A qemu-utils from another suite keeps the release's qemu-system-x86 out: take the release's own for both.
        let release = release()?;
        let own = format!("qemu-utils/{release}");
        wanted.retain(|name| *name != "qemu-utils");
        return apt(&wanted, &[own.as_str()]);
    }
    attempt
}

fn apt(names: &[&str], more: &[&str]) -> Result<()> {
    run(Command::new("apt-get")
        .args(["-q", "install", "-y", "--no-install-recommends", "--allow-downgrades"])
        // Another apt on this machine, such as its daily upgrade, is waited for.
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .args(names)
        .args(more)
        .env("DEBIAN_FRONTEND", "noninteractive"))
    .context("install these packages by hand, then run the command again")
}

fn installed(name: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", name])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// The release's code name, from os-release.
fn release() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release")?;
    code_name(&text).context("/etc/os-release has no VERSION_CODENAME")
}

/// The code name in the text of an os-release(5).
fn code_name(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_release_is_read_from_its_own_line() {
        let text = |line: &str| format!("NAME=Debian\nOLD_VERSION_CODENAME=bullseye\n{line}\nID=debian\n");
        assert_eq!(code_name(&text("VERSION_CODENAME=bookworm")).as_deref(), Some("bookworm"));
        assert_eq!(code_name(&text("UBUNTU_CODENAME=jammy")), None);
        assert_eq!(code_name("NAME=Debian\n"), None);
    }

    /// A word that apt would read as an option or as two packages, or a package that is there twice.
    #[test]
    fn packages_are_names_and_each_has_its_reason() {
        let names: BTreeSet<&str> = PACKAGES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), PACKAGES.len());
        for (name, reason) in PACKAGES {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
            assert!(name.bytes().all(plain) && !name.starts_with('-'), "{name}");
            assert!(!reason.trim().is_empty(), "{name}");
        }
        assert!(installed("libc6") && !installed("no-such-package-of-debian"));
    }
}
