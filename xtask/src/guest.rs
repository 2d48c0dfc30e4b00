//! The test guest, made from Debian packages alone: a kernel, an initial RAM file system with busybox, a small
//! bootable disk, and the OCI layouts in which a machine refers to them.
//!
//! Everything lands in `target/guest` and is made once for each version of the kernel package and of the files
//! in `xtask/guest`.

use crate::{oci, run};
use anyhow::{Context, Result, bail, ensure};
use ferrovirt_lab::Initrd;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufWriter, Write as _},
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
    let stamp = stamp(&[INIT, UDHCPC, &package, &MODULES.join(" "), GRUB]);
    let guest = Guest { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd"), images: dir.join("images") };
    let stamp_file = dir.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(guest);
    }
    println!("making the guest image from {package} and busybox-static");
    let work = dir.join("work");
    // First of all: what is half made is nobody's guest, also not that of the version before.
    let _ = fs::remove_file(&stamp_file);
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

/// What a thing was made from, in few characters: other parts, or the same otherwise divided, have another one.
pub(crate) fn stamp<T: AsRef<[u8]>>(parts: &[T]) -> String {
    let mut hash = Sha256::new();
    for part in parts.iter().map(AsRef::as_ref) {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The real package behind Debian's `linux-image-cloud-amd64`.
pub(crate) fn kernel_package() -> Result<String> {
    let look_up = || -> Result<Option<String>> {
        let output = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output()?;
        Ok(dependency(&String::from_utf8_lossy(&output.stdout)))
    };
    if let Some(package) = look_up()? {
        return Ok(package);
    }
    run(Command::new("apt-get").args(["-q", "update"]))?;
    look_up()?.context("apt knows no linux-image-cloud-amd64: is this Debian on amd64?")
}

/// The first package that another one depends on, as `apt-cache depends` lists them. A name in angle brackets is of a package
/// that others provide.
fn dependency(listed: &str) -> Option<String> {
    let mut packages = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.find(|name| !name.starts_with('<')).map(str::to_owned)
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
    let packed = GzEncoder::new(BufWriter::new(fs::File::create(out)?), Compression::default());
    let mut archive = Initrd::new(packed);
    archive.tree(&root)?;
    Ok(archive.finish()?.finish()?.flush()?)
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
    let boot = fs::read("/usr/lib/grub/i386-pc/boot.img")?;
    let image = bootable(boot, core, fs::read(partition)?)?;
    let raw = work.join("disk.raw");
    fs::write(&raw, image)?;
    let out = work.join("disk.img");
    run(Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2"]).arg(&raw).arg(&out))?;
    Ok(out)
}

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Where the partition begins.
const PARTITION_SECTOR: usize = 2048;

/// A disk of a boot sector, the code that it loads, and one bootable partition of Linux.
fn bootable(mut boot: Vec<u8>, core: Vec<u8>, partition: Vec<u8>) -> Result<Vec<u8>> {
    ensure!(core.len() <= (PARTITION_SECTOR - 1) * SECTOR, "GRUB's core image does not fit");
    ensure!(partition.len().is_multiple_of(SECTOR), "the partition is not of whole sectors");
    boot.resize(SECTOR, 0);
    let mut entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0].to_vec();
    entry.extend(u32::try_from(PARTITION_SECTOR)?.to_le_bytes());
    entry.extend(u32::try_from(partition.len() / SECTOR)?.to_le_bytes());
    // Behind the first partition, GRUB's boot sector keeps code for floppy disks where a table has to be.
    entry.resize(64, 0);
    boot.splice(446..510, entry);
    boot.splice(510..512, [0x55, 0xaa]);
    let mut image = boot;
    image.extend(core);
    image.resize(PARTITION_SECTOR * SECTOR, 0);
    image.extend(partition);
    Ok(image)
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

    /// Whatever the modules need, each is there once and after all that it needs, directly or not.
    #[test]
    fn any_order_of_modules_can_be_loaded() {
        // depmod lists all that a module needs, the nearest first.
        let needs = [
            ("a", &[][..]),
            ("b", &["a"]),
            ("c", &["b", "a"]),
            ("d", &["a"]),
            ("e", &["d", "c", "b", "a"]),
            ("f", &["e", "d", "c", "b", "a"]),
        ];
        let path = |name: &str| format!("kernel/drivers/{name}.ko");
        let lines = needs.iter().map(|(name, needed)| {
            let needed: Vec<_> = needed.iter().map(|name| path(name)).collect();
            format!("{}: {}", path(name), needed.join(" "))
        });
        let dep = lines.collect::<Vec<_>>().join("\n");
        for chosen in
            [vec!["f"], vec!["e", "a"], vec!["d", "b", "f"], vec!["a", "b", "c", "d", "e", "f"], vec![]]
        {
            let order = loading_order(&dep, &chosen).unwrap();
            let place = |name: &str| order.iter().position(|loaded| *loaded == path(name));
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len(), "{order:?}");
            for name in &chosen {
                assert!(place(name).is_some(), "{chosen:?}: {order:?}");
            }
            for (name, needed) in needs.iter().filter(|(name, _)| place(name).is_some()) {
                for other in *needed {
                    assert!(
                        place(other) < place(name) && place(other).is_some(),
                        "{name} before {other}: {order:?}"
                    );
                }
            }
        }
        assert!(loading_order("kernel/drivers/a.ko", &["a"]).is_err(), "a line without a colon");
    }

    /// What a BIOS, and Linux, read of the disk: the first partition is bootable, of Linux, where it says, and as long as it says.
    #[test]
    fn the_disk_is_read_as_it_was_meant() {
        // GRUB's boot sector is full to its end.
        let (boot, core) = (vec![0xb0; SECTOR], vec![0xc0; 3 * SECTOR + 1]);
        let partition: Vec<u8> = (0..5 * SECTOR).map(|at| (at / SECTOR) as u8 + 1).collect();
        let disk = bootable(boot, core.clone(), partition.clone()).unwrap();
        assert!(disk[..446].iter().all(|byte| *byte == 0xb0), "the code is as GRUB made it");
        assert_eq!(disk[510..512], [0x55, 0xaa]);
        let entry = &disk[446..462];
        assert_eq!((entry[0], entry[4]), (0x80, 0x83));
        let number = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap()) as usize;
        let (start, sectors) = (number(8), number(12));
        assert_eq!(&disk[start * SECTOR..], partition, "the partition begins elsewhere");
        assert_eq!(disk.len(), (start + sectors) * SECTOR);
        assert!(disk[462..510].iter().all(|byte| *byte == 0), "three more partitions");
        assert_eq!(disk[SECTOR..SECTOR + core.len()], core);
        assert!(disk[SECTOR + core.len()..start * SECTOR].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_disk_whose_parts_do_not_fit_is_not_made() {
        let make =
            |core: usize, partition: usize| bootable(vec![0; SECTOR], vec![1; core], vec![2; partition]);
        let room = (PARTITION_SECTOR - 1) * SECTOR;
        let full = make(room, SECTOR).unwrap();
        assert_eq!((full[PARTITION_SECTOR * SECTOR - 1], full[PARTITION_SECTOR * SECTOR]), (1, 2));
        assert!(make(room + 1, SECTOR).unwrap_err().to_string().contains("does not fit"));
        assert!(make(1, SECTOR + 1).unwrap_err().to_string().contains("whole sectors"));
    }

    /// The stamp stands for all that something is made from: none of it can change, or move to its neighbour, unseen.
    #[test]
    fn a_stamp_tells_all_its_parts_apart() {
        let all = [
            stamp(&["a", "b"]),
            stamp(&["b", "a"]),
            stamp(&["ab", ""]),
            stamp(&["", "ab"]),
            stamp(&["ab"]),
            stamp(&["a", "b", ""]),
            stamp(&["a\0", "b"]),
            stamp(&["a", "c"]),
            stamp::<&str>(&[]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        assert_eq!(stamp(&["a", "b"]), all[0]);
    }

    #[test]
    fn the_real_package_is_what_another_depends_on() {
        let listed = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-28-cloud-amd64\n  Suggests: x\n";
        assert_eq!(dependency(listed).as_deref(), Some("linux-image-6.1.0-28-cloud-amd64"));
        let provided =
            "a\n  PreDepends: z\n |Depends: <linux-image>\n  Depends: <linux-image>\n  Depends: real\n";
        assert_eq!(dependency(provided).as_deref(), Some("real"));
        assert_eq!(dependency("N: Unable to locate package\n"), None);
    }

    /// A script that is no program, or that others may change, does not start a guest; the umask of a person is no matter.
    #[test]
    fn files_have_the_mode_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o644] {
            let path = directory.path().join(format!("{mode:o}"));
            write(&path, "text", mode).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
            assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        }
    }

    /// The first process of the guest is a script of busybox's shell: one that does not parse is a guest that never starts.
    #[test]
    fn the_scripts_of_the_guest_are_scripts() {
        for script in [INIT, UDHCPC] {
            assert!(script.starts_with("#!/bin/"), "{}", script.lines().next().unwrap_or_default());
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("script");
            fs::write(&path, script).unwrap();
            let status = Command::new("sh").arg("-n").arg(&path).status().unwrap();
            assert!(status.success(), "{script}");
        }
    }
}
