//! Debian packages, by name.

use crate::run;
use anyhow::{Context, Result};
use std::process::Command;

/// What each package is for.
const PACKAGES: [(&str, &str); 36] = [
    ("qemu-system-x86", "runs the guests"),
    ("qemu-utils", "qemu-img makes the guest's disk"),
    ("seabios", "firmware of guests that boot a disk"),
    ("crun", "the OCI runtime of the node agent"),
    ("curl", "asks a pod in the tests on a cluster"),
    ("iproute2", "looked at by tests"),
    ("nftables", "looked at by tests"),
    ("containernetworking-plugins", "the pod network"),
    ("busybox-static", "the guest's user space"),
    ("cpio", "unpacks initial RAM file systems in tests"),
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
    ("skopeo", "gets images from a registry in a test"),
    ("ca-certificates", "apt over TLS, where it is used"),
];

/// Installs what is missing. Runs apt only when something is.
pub(crate) fn install() -> Result<()> {
    let has_kubectl = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    let Some(order) = Order::of(installed, has_kubectl) else { return Ok(()) };
    println!("installing {}", order.missing.join(" "));
    let _ = run(Command::new("apt-get").args(["-q", "update"]));
    let attempt = apt(&order.named);
    if attempt.is_err() && order.is_kept_out(installed) {
        return apt(&order.with_own_utils(&release()?));
    }
    attempt
}

/// What apt is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    /// What is not there.
    missing: Vec<String>,
    /// All that is named, also what is there: apt removes what is not named to make room for the rest.
    named: Vec<String>,
}

impl Order {
    /// None when nothing is missing.
    fn of(installed: impl Fn(&str) -> bool, has_kubectl: bool) -> Option<Self> {
        // Debian's package of kubectl; one from elsewhere does as well.
        let kubectl = (!has_kubectl).then_some("kubernetes-client");
        let names = || PACKAGES.iter().map(|(name, _)| *name);
        let missing: Vec<String> =
            names().filter(|name| !installed(name)).chain(kubectl).map(str::to_owned).collect();
        let named = names().chain(kubectl).map(str::to_owned).collect();
        (!missing.is_empty()).then_some(Self { missing, named })
    }

    /// A qemu-utils from another suite may keep the release's qemu-system-x86 out.
    fn is_kept_out(&self, installed: impl Fn(&str) -> bool) -> bool {
        installed("qemu-utils") && self.missing.iter().any(|name| name == "qemu-system-x86")
    }

    /// The same with the release's own qemu-utils.
    fn with_own_utils(&self, release: &str) -> Vec<String> {
        let own = format!("qemu-utils/{release}");
        self.named.iter().map(|name| if name == "qemu-utils" { own.clone() } else { name.clone() }).collect()
    }
}

fn apt(names: &[String]) -> Result<()> {
    run(Command::new("apt-get")
        .args(["-q", "install", "-y", "--no-install-recommends", "--allow-downgrades"])
        // Another apt on this machine, such as its daily upgrade, is waited for.
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .args(names)
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

    /// Nothing is asked of apt where everything is there; where one package is missing all are named, or apt would remove others.
    #[test]
    fn apt_is_asked_for_all_or_not_at_all() {
        assert_eq!(Order::of(|_| true, true), None);
        let order = Order::of(|name| name != "gcc", true).unwrap();
        assert_eq!(order.missing, ["gcc"]);
        assert_eq!(order.named, PACKAGES.map(|(name, _)| name));
        // A kubectl from elsewhere is no package, and a missing one is Debian's.
        let order = Order::of(|_| true, false).unwrap();
        assert_eq!(order.missing, ["kubernetes-client"]);
        assert_eq!(order.named.len(), PACKAGES.len() + 1);
        assert!(order.named.contains(&"kubernetes-client".to_owned()));
    }

    /// Only a qemu-utils that is there keeps a qemu-system-x86 out that is not; then the release's own is taken, once.
    #[test]
    fn utilities_of_another_suite_give_way() {
        let without = |missing: &'static [&'static str]| move |name: &str| !missing.contains(&name);
        let rows: [(&'static [&'static str], bool); 4] = [
            (&["qemu-system-x86"], true),
            (&["qemu-system-x86", "qemu-utils"], false),
            (&["qemu-utils"], false),
            (&["gcc"], false),
        ];
        for (missing, kept_out) in rows {
            let order = Order::of(without(missing), true).unwrap();
            assert_eq!(order.is_kept_out(without(missing)), kept_out, "{missing:?}");
        }
        let order = Order::of(without(&["qemu-system-x86"]), true).unwrap();
        let names = order.with_own_utils("bookworm");
        let utils: Vec<_> = names.iter().filter(|name| name.starts_with("qemu-utils")).collect();
        assert_eq!(utils, ["qemu-utils/bookworm"]);
        assert_eq!(names.len(), order.named.len());
        assert!(names.contains(&"qemu-system-x86".to_owned()));
    }
}
