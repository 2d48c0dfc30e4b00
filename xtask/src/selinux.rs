//! Policies and a kernel for tests of SELinux, made from Debian packages alone and without installing a policy.
//!
//! `target/selinux` holds, made once for each version of the packages and of the files in `tests/selinux`:
//!
//! | file | what |
//! |---|---|
//! | `base.33` | Debian's reference policy with its container module |
//! | `NAME.33` | the same with the overlay `tests/selinux/NAME.cil` |
//! | `cil/*.cil` | each module of `base.33` in CIL: `secilc` makes a policy of them and further modules in 5 s |
//! | `overlays/NAME.cil` | the overlays |
//! | `vmlinuz`, `modules/*.ko` | Debian's cloud kernel and the modules that proofs load |

use crate::{guest, root, run};
use anyhow::{Context, Result, ensure};
use ferrovirt_selinux_node::{Output, cil_files, secilc};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where the converter from policy packages to CIL is.
const CONVERTER: &str = "/usr/libexec/selinux/hll/pp";

/// Debian's policy packages: modules, headers for building one, and the only source of the container module.
const PACKAGES: [&str; 3] = ["selinux-policy-default", "selinux-policy-dev", "selinux-policy-src"];

/// What Debian's package leaves disabled when it is installed.
const DISABLED: [&str; 17] = [
    "amtu",
    "bugzilla",
    "cobbler",
    "condor",
    "cyphesis",
    "git",
    "ksmtuned",
    "likewise",
    "livecd",
    "nessus",
    "numad",
    "oddjob",
    "openca",
    "soundserver",
    "thunderbird",
    "updfstab",
    "usernetctl",
];

/// Modules of the kernel that proofs load, each after those that it needs.
const MODULES: [&str; 23] = [
    "drivers/net/tun.ko",
    "virt/lib/irqbypass.ko",
    "arch/x86/kvm/kvm.ko",
    "arch/x86/kvm/kvm-amd.ko",
    "lib/libcrc32c.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/bridge/bridge.ko",
    "drivers/net/veth.ko",
    "net/netfilter/nfnetlink.ko",
    "net/ipv4/netfilter/nf_defrag_ipv4.ko",
    "net/ipv6/netfilter/nf_defrag_ipv6.ko",
    "net/netfilter/nf_conntrack.ko",
    "net/netfilter/nf_nat.ko",
    "net/netfilter/nf_tables.ko",
    "net/netfilter/nft_chain_nat.ko",
    "net/netfilter/nft_masq.ko",
    "net/netfilter/nft_nat.ko",
    "net/netfilter/nft_ct.ko",
    "net/netfilter/nf_conncount.ko",
    "net/netfilter/nft_connlimit.ko",
    "net/netfilter/nft_objref.ko",
    "net/bridge/netfilter/nft_meta_bridge.ko",
];

/// Makes `target/selinux`, or finds it made.
pub(crate) fn build(target: &Path) -> Result<PathBuf> {
    let dir = target.join("selinux");
    fs::create_dir_all(&dir)?;
    let kernel = guest::kernel_package()?;
    let overlays = overlays()?;
    let stamp = stamp(&kernel, &overlays)?;
    let stamp_file = dir.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(dir);
    }
    println!("making SELinux policies from {} and taking {kernel}", PACKAGES.join(", "));
    let work = dir.join("work");
    for old in ["work", "cil", "overlays", "modules"] {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    let _ = fs::remove_file(&stamp_file);
    fs::create_dir_all(&work)?;
    take_kernel(&work, &kernel, &dir)?;
    let cil = dir.join("cil");
    fs::create_dir_all(&cil)?;
    take_modules(&work, &cil)?;
    let modules = cil_files(&cil)?;
    compile(&modules, &dir.join("base.33"))?;
    let kept = dir.join("overlays");
    fs::create_dir_all(&kept)?;
    for overlay in overlays {
        let name = overlay.file_stem().context("an overlay has no name")?.to_owned();
        fs::copy(&overlay, kept.join(&name).with_extension("cil"))?;
        let mut all = modules.clone();
        all.push(overlay);
        compile(&all, &dir.join(name).with_extension("33"))?;
    }
    fs::remove_dir_all(&work)?;
    fs::write(stamp_file, stamp)?;
    Ok(dir)
}

/// The overlays of the repository, sorted.
fn overlays() -> Result<Vec<PathBuf>> {
    Ok(cil_files(&root().join("tests/selinux"))?)
}

fn stamp(kernel: &str, overlays: &[PathBuf]) -> Result<String> {
    let mut parts = Vec::new();
    for package in PACKAGES.iter().copied().chain([kernel]) {
        parts.push(Command::new("apt-cache").args(["show", "--no-all-versions", package]).output()?.stdout);
    }
    parts.extend(DISABLED.iter().chain(&MODULES).map(|part| part.as_bytes().to_vec()));
    parts.extend(of_overlays(overlays)?);
    Ok(guest::stamp(&parts))
}

/// What the policies of the overlays depend on: each one's name, which is that of its policy, and its text.
fn of_overlays(overlays: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    for overlay in overlays {
        parts.push(overlay.file_name().context("an overlay has no name")?.as_encoded_bytes().to_vec());
        parts.push(fs::read(overlay)?);
    }
    Ok(parts)
}

fn take_kernel(work: &Path, package: &str, dir: &Path) -> Result<()> {
    let (tree, release) = guest::unpack_kernel(work, package)?;
    fs::copy(tree.join(format!("boot/vmlinuz-{release}")), dir.join("vmlinuz"))?;
    let modules = dir.join("modules");
    fs::create_dir_all(&modules)?;
    for module in MODULES {
        let source = tree.join("lib/modules").join(&release).join("kernel").join(module);
        let copy = modules.join(source.file_name().context("a module has no name")?);
        fs::copy(&source, &copy)?;
        run(Command::new("strip").arg("-g").arg(copy))?;
    }
    Ok(())
}

/// Every enabled module of Debian's policy and the container module, as CIL.
fn take_modules(work: &Path, cil: &Path) -> Result<()> {
    let tree = work.join("policy");
    for package in PACKAGES {
        let deb = guest::download(work, package)?;
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    }
    let share = tree.join("usr/share/selinux");
    let names = fs::read_to_string(share.join("default/.modules"))?;
    for name in names.split_whitespace().filter(|name| !DISABLED.contains(name)) {
        let package = share.join("default").join(format!("{name}.pp.bz2"));
        let mut unpack = Command::new("bunzip2").arg("-c").arg(package).stdout(Stdio::piped()).spawn()?;
        let packed = unpack.stdout.take().context("bunzip2 has no output")?;
        let converted = Command::new(CONVERTER)
            .stdin(packed)
            .stdout(File::create(cil.join(format!("{name}.cil")))?)
            .status()
            .with_context(|| format!("cannot run {CONVERTER}: apt-get install policycoreutils"))?;
        ensure!(unpack.wait()?.success() && converted.success(), "cannot convert the module {name} to CIL");
    }
    let container = work.join("container");
    fs::create_dir_all(&container)?;
    run(Command::new("tar")
        .arg("--zstd")
        .arg("-xf")
        .arg(tree.join("usr/src/selinux-policy-src.tar.zst"))
        .arg("-C")
        .arg(&container)
        .args(["--strip-components=4", "--wildcards", "*/policy/modules/services/container.*"]))?;
    let quiet = Command::new("make")
        .arg("-f")
        .arg(share.join("devel/Makefile"))
        .arg(format!("SHAREDIR={}", share.display()))
        .arg(format!("HEADERDIR={}", share.join("devel/include").display()))
        .args(["NAME=default", "container.pp"])
        .current_dir(&container)
        .output()
        .context("cannot run make")?;
    ensure!(
        quiet.status.success(),
        "the container module does not build:\n{}{}",
        String::from_utf8_lossy(&quiet.stdout),
        String::from_utf8_lossy(&quiet.stderr)
    );
    run(Command::new(CONVERTER)
        .stdin(File::open(container.join("container.pp"))?)
        .stdout(File::create(cil.join("container.cil"))?))
}

/// Compiles CIL files to a policy of version 33, the newest that Debian's kernel reads.
fn compile(modules: &[PathBuf], policy: &Path) -> Result<()> {
    Ok(secilc(modules, Output { policy, contexts: Path::new("/dev/null"), neverallow: true })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn write(directory: &Path, files: &[(&str, &str)]) -> Vec<PathBuf> {
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
        cil_files(directory).unwrap()
    }

    /// A policy is made again when its overlay changes, and when another name asks for another policy.
    #[test]
    fn policies_are_made_again_when_overlays_change() {
        let stamp = |files: &[(&str, &str)]| {
            let directory = tempfile::tempdir().unwrap();
            guest::stamp(&of_overlays(&write(directory.path(), files)).unwrap())
        };
        let first = [("a.cil", "(type x)"), ("b.cil", "(type y)")];
        assert_eq!(stamp(&first), stamp(&first), "where the repository lies is no matter");
        let others = [
            stamp(&first),
            stamp(&[("a.cil", "(type x)"), ("b.cil", "(type z)")]),
            stamp(&[("a.cil", "(type x)"), ("c.cil", "(type y)")]),
            stamp(&[("a.cil", "(type x)(type y)"), ("b.cil", "")]),
            stamp(&[("a.cil", "(type x)")]),
            stamp(&[("a.cil", "(type y)"), ("b.cil", "(type x)")]),
        ];
        assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), others.len());
    }

    /// A module is loaded after those that it needs: these need each other by what they are.
    #[test]
    fn modules_of_the_kernel_are_in_loading_order() {
        let place =
            |name: &str| MODULES.iter().position(|module| module.ends_with(&format!("/{name}.ko"))).unwrap();
        for (needed, module) in [
            ("irqbypass", "kvm"),
            ("kvm", "kvm-amd"),
            ("llc", "stp"),
            ("stp", "bridge"),
            ("nfnetlink", "nf_tables"),
            ("libcrc32c", "nf_tables"),
            ("nf_defrag_ipv4", "nf_conntrack"),
            ("nf_defrag_ipv6", "nf_conntrack"),
            ("nf_conntrack", "nf_nat"),
            ("nf_nat", "nft_chain_nat"),
            ("nf_tables", "nft_chain_nat"),
            ("nf_nat", "nft_masq"),
            ("nft_chain_nat", "nft_nat"),
        ] {
            assert!(place(needed) < place(module), "{module} needs {needed}");
        }
        let names: BTreeSet<_> = MODULES.iter().map(|path| path.rsplit('/').next()).collect();
        assert_eq!(names.len(), MODULES.len(), "they are copied into one directory");
    }
}
