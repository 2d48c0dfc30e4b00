//! The test guest, made from Debian packages alone: a kernel, an initial RAM file system with busybox, a small
//! bootable disk, and the OCI layouts in which a machine refers to them.
//!
//! Everything lands in `target/guest` and is made once for each version of the kernel package and of the files
//! in `xtask/guest`.

use crate::{oci, run};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

const INIT: &str = include_str!("../guest/init");
const UDHCPC: &str = include_str!("../guest/udhcpc");

/// Modules of Debian's cloud kernel that the guest wants; their dependencies come first by themselves.
const MODULES: [&str; 13] = [
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "sr_mod",
    "virtio_balloon",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "button",
    "evdev",
];

/// Where the parts of the guest are.
pub(crate) struct Guest {
    /// Kernel (bzImage).
    pub(crate) kernel: PathBuf,
    /// Initial RAM file system.
    pub(crate) initrd: PathBuf,
    /// Image directory for `ferrovirt up --image-dir`: `ferrovirt/guest-kernel` and `ferrovirt/guest-disk`.
    pub(crate) images: PathBuf,
}

/// Makes the guest below `target`, or finds it made.
pub(crate) fn build(target: &Path) -> Result<Guest> {
    let dir = target.join("guest");
    fs::create_dir_all(&dir)?;
    let package = kernel_package()?;
    let mut hash = Sha256::new();
    for part in [INIT, UDHCPC, &package, &MODULES.join(" "), GRUB] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let stamp: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let guest = Guest { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd"), images: dir.join("images") };
    let stamp_file = dir.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(guest);
    }
    println!("making the guest image from {package} and busybox-static");
    let work = dir.join("work");
    let _ = fs::remove_dir_all(&work);
    let _ = fs::remove_dir_all(&guest.images);
    fs::create_dir_all(&work)?;
    let (tree, release) = unpack_kernel(&work, &package)?;
    fs::copy(tree.join(format!("boot/vmlinuz-{release}")), &guest.kernel)?;
    initrd(&tree, &release, &work, &guest.initrd)?;
    let disk = disk(&work, &guest)?;
    oci::layout(
        &guest.images.join("ferrovirt/guest-kernel"),
        "latest",
        &[("boot/vmlinuz", &guest.kernel), ("boot/initrd", &guest.initrd)],
    )?;
    oci::layout(&guest.images.join("ferrovirt/guest-disk"), "latest", &[("disk/disk.img", &disk)])?;
    fs::remove_dir_all(&work)?;
    fs::write(stamp_file, stamp)?;
    Ok(guest)
}

/// The real package behind Debian's `linux-image-cloud-amd64`.
pub(crate) fn kernel_package() -> Result<String> {
    let look_up = || -> Result<Option<String>> {
        let output = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned))
    };
    if let Some(package) = look_up()? {
        return Ok(package);
    }
    run(Command::new("apt-get").args(["-q", "update"]))?;
    look_up()?.context("apt knows no linux-image-cloud-amd64: is this Debian on amd64?")
}

/// Downloads a package without installing it; its file.
pub(crate) fn download(directory: &Path, package: &str) -> Result<PathBuf> {
    run(Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(directory))?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_"))) {
            return Ok(path);
        }
    }
    bail!("apt-get brought no {package} into {}", directory.display())
}

/// Unpacks a kernel package below `work`: its tree and the kernel's release.
pub(crate) fn unpack_kernel(work: &Path, package: &str) -> Result<(PathBuf, String)> {
    let tree = work.join("kernel");
    run(Command::new("dpkg-deb").arg("-x").arg(download(work, package)?).arg(&tree))?;
    let release =
        fs::read_dir(tree.join("lib/modules"))?.next().context("the kernel package has no modules")??;
    let release = release.file_name().into_string().ok().context("kernel release is not text")?;
    Ok((tree, release))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// The initial RAM file system: static busybox, the modules in loading order, and our two scripts.
fn initrd(kernel: &Path, release: &str, work: &Path, out: &Path) -> Result<()> {
    let root = work.join("root");
    for dir in ["bin", "dev", "proc", "sys", "etc/acpi/PWRF", "lib/modules", "root"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(
        busybox.context("busybox is missing: apt-get install busybox-static")?,
        root.join("bin/busybox"),
    )?;
    let applets = Command::new("busybox").arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    write(&root.join("init"), INIT, 0o755)?;
    write(&root.join("etc/udhcpc"), UDHCPC, 0o755)?;
    write(&root.join("etc/acpi/PWRF/00000080"), "#!/bin/sh\nexec /bin/poweroff -f\n", 0o755)?;
    write(&root.join("etc/passwd"), "root::0:0:root:/root:/bin/sh\n", 0o644)?;
    write(&root.join("etc/group"), "root:x:0:\ntty:x:5:\n", 0o644)?;
    write(&root.join("etc/securetty"), "ttyS0\n", 0o644)?;
    write(&root.join("etc/issue"), "Ferrovirt test guest, user root, no password\n", 0o644)?;

    run(Command::new("depmod").arg("-b").arg(kernel).arg(release))?;
    let base = kernel.join("lib/modules").join(release);
    let dep = fs::read_to_string(base.join("modules.dep"))?;
    let order = loading_order(&dep, &MODULES)?;
    let mut names = String::new();
    for path in &order {
        let name = path.rsplit('/').next().context("empty module path")?;
        fs::copy(base.join(path), root.join("lib/modules").join(name))?;
        run(Command::new("strip").arg("-g").arg(root.join("lib/modules").join(name)))?;
        names.push_str(name);
        names.push('\n');
    }
    write(&root.join("lib/modules/order"), &names, 0o644)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    let script = "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -n -6 > \"$1\"";
    run(Command::new("sh").args(["-c", script, "sh"]).arg(out).current_dir(&root))
}

/// The paths of modules and of what they need, in the order in which they can be loaded, from the text of a modules.dep.
fn loading_order(dep: &str, modules: &[&str]) -> Result<Vec<String>> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for module in modules {
        let line = dep
            .lines()
            .find(|line| line.split(':').next().is_some_and(|path| path.ends_with(&format!("/{module}.ko"))))
            .with_context(|| format!("the kernel package has no module {module}"))?;
        let (own, needed) = line.split_once(':').context("modules.dep is malformed")?;
        // modules.dep lists the nearest dependency first; loading goes the other way round.
        for path in needed.split_whitespace().rev().chain([own]) {
            if seen.insert(path.to_owned()) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

const GRUB: &str = "serial --unit=0 --speed=115200\nterminal_output serial\nset timeout=0\nmenuentry guest {\n  \
                    linux /boot/vmlinuz console=ttyS0 quiet no_timer_check\n  initrd /boot/initrd\n}\n";

/// A bootable disk without loop devices or mounts: boot sector and core image of GRUB, then one ext2 partition
/// from sector 2048 that holds kernel and initial RAM file system.
fn disk(work: &Path, guest: &Guest) -> Result<PathBuf> {
    const PARTITION_SECTOR: u64 = 2048;
    const PARTITION_MIB: u64 = 40;
    let tree = work.join("disk");
    fs::create_dir_all(tree.join("boot/grub"))?;
    fs::copy(&guest.kernel, tree.join("boot/vmlinuz"))?;
    fs::copy(&guest.initrd, tree.join("boot/initrd"))?;
    fs::write(tree.join("boot/grub/grub.cfg"), GRUB)?;
    let partition = work.join("partition");
    fs::File::create(&partition)?.set_len(PARTITION_MIB << 20)?;
    run(Command::new("mke2fs").args(["-q", "-t", "ext2", "-d"]).arg(&tree).arg(&partition))?;
    let core = work.join("core.img");
    run(Command::new("grub-mkimage")
        .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"])
        .arg(&core)
        .args([
            "biosdisk",
            "part_msdos",
            "ext2",
            "linux",
            "normal",
            "configfile",
            "serial",
            "terminal",
            "boot",
        ]))?;
    let core = fs::read(core)?;
    anyhow::ensure!((core.len() as u64) < (PARTITION_SECTOR - 1) * 512, "GRUB's core image does not fit");
    let mut boot = fs::read("/usr/lib/grub/i386-pc/boot.img")?;
    boot.resize(512, 0);
    let sectors = u32::try_from((PARTITION_MIB << 20) / 512)?;
    let mut entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0].to_vec();
    entry.extend(u32::try_from(PARTITION_SECTOR)?.to_le_bytes());
    entry.extend(sectors.to_le_bytes());
    // Behind the first partition, GRUB's boot sector keeps code for floppy disks where a table has to be.
    entry.resize(64, 0);
    boot.splice(446..510, entry);
    boot.splice(510..512, [0x55, 0xaa]);
    let mut image = boot;
    image.extend(core);
    image.resize(usize::try_from(PARTITION_SECTOR * 512)?, 0);
    image.extend(fs::read(partition)?);
    let raw = work.join("disk.raw");
    fs::write(&raw, image)?;
    let out = work.join("disk.img");
    run(Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2"]).arg(&raw).arg(&out))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let dep = "k/net_core.ko:\nk/xvirtio_net.ko:\nk/virtio_net.ko: k/failover.ko k/net_core.ko\nk/virtio_blk.ko: k/net_core.ko\n";
        let order = |modules: &[&str]| loading_order(dep, modules);
        let expected = ["k/net_core.ko", "k/failover.ko", "k/virtio_net.ko", "k/virtio_blk.ko"];
        assert_eq!(order(&["virtio_net", "virtio_blk"]).unwrap(), expected);
        let error = order(&["virtio_net", "virtio_scsi"]).unwrap_err();
        assert!(error.to_string().contains("no module virtio_scsi"), "{error}");
        assert_eq!(MODULES.iter().collect::<BTreeSet<_>>().len(), MODULES.len());
    }
}
