//! The initial RAM file system of the outer machine, and in it the pods' root file system.

use super::Nest;
use crate::{guest::Guest, root, run, target};
use anyhow::{Context, Result};
use ferrovirt_nested::LAUNCHER;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// Modules in loading order.
pub(super) const MODULES: [&str; 4] = ["irqbypass", "kvm", "kvm-amd", "tun"];

/// Firmware and ROMs that the command lines name.
const FIRMWARE: [&str; 6] = [
    "qboot.rom",
    "bios-256k.bin",
    "linuxboot_dma.bin",
    "kvmvapic.bin",
    "vgabios-stdvga.bin",
    "keymaps/en-us",
];

const STATIC: &str = "x86_64-unknown-linux-gnu";

pub(super) fn stage(nest: &Nest, guest: &Guest) -> Result<()> {
    let tree = nest.dir.join("root");
    let _ = fs::remove_dir_all(&tree);
    for directory in
        ["modules", "proc", "sys", "dev", "images", "pod/dev", "pod/proc", "pod/sys", "pod/var/run"]
    {
        fs::create_dir_all(tree.join(directory))?;
    }
    program(&nested()?, &tree.join("init"))?;
    for module in MODULES {
        let name = format!("modules/{module}.ko");
        fs::copy(nest.selinux.join(&name), tree.join(&name)).with_context(|| name.clone())?;
    }
    let pod = tree.join("pod");
    program(&target().join("dist/virt-launcher"), &pod.join("usr/bin/virt-launcher"))?;
    // A mount's place.
    fs::write(pod.join(LAUNCHER.trim_start_matches('/')), "")?;
    for directory in ["lib", "lib64"] {
        let to = format!("usr/{directory}");
        fs::create_dir_all(pod.join(&to))?;
        symlink(to, pod.join(directory))?;
    }
    qemu(&pod)?;
    fs::create_dir_all(pod.join("images"))?;
    fs::copy(&guest.kernel, pod.join("images/vmlinuz"))?;
    fs::copy(&guest.initrd, pod.join("images/initrd"))?;
    fs::write(pod.join("images/sector.img"), super::scenarios::sector())?;
    Ok(fs::write(tree.join("images/scratch.img"), vec![0; 1 << 20])?)
}

/// Builds the program inside; its file.
pub(super) fn nested() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .current_dir(root())
        .args(["build", "--quiet", "--release", "--locked", "-p", "ferrovirt-nested", "--target", STATIC])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(target().join(STATIC).join("release/nested"))
}

pub(super) fn program(source: &Path, copy: &Path) -> Result<()> {
    if let Some(directory) = copy.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(source, copy).with_context(|| format!("{}: cargo xtask build makes it", source.display()))?;
    Ok(fs::set_permissions(copy, fs::Permissions::from_mode(0o755))?)
}

/// QEMU's module for emulation.
pub(super) const ACCELERATOR: &str = "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so";

/// A program or module of this machine with its libraries, at the same places.
pub(super) fn with_libraries(own: &Path, tree: &Path) -> Result<()> {
    program(own, &tree.join(own.strip_prefix("/")?))?;
    libraries(own, tree)
}

/// The libraries of a program; a static one has none.
pub(super) fn libraries(own: &Path, tree: &Path) -> Result<()> {
    let output = Command::new("ldd").arg(own).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        program(Path::new(library), &tree.join(library.trim_start_matches('/')))?;
    }
    Ok(())
}

/// Debian's QEMU with its libraries and firmware.
fn qemu(pod: &Path) -> Result<()> {
    with_libraries(Path::new("/usr/bin/qemu-system-x86_64"), pod)?;
    program(Path::new(ACCELERATOR), &pod.join(ACCELERATOR.trim_start_matches('/')))?;
    let share = pod.join("usr/share/qemu");
    for name in FIRMWARE {
        let directories = ["/usr/share/qemu", "/usr/share/seabios"].map(PathBuf::from);
        let found = directories.iter().map(|directory| directory.join(name)).find(|path| path.exists());
        program(&found.with_context(|| format!("QEMU's {name} is missing"))?, &share.join(name))?;
    }
    Ok(())
}
