//! A launcher on a cluster without image volumes: a copy of the program gives out what is in an image, and QEMU opens it through
//! descriptors.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Launcher, bare, disk};
use ferrovirt_privilege::scenario::{Scenario, registered};
use ferrovirt_qemu::{
    order::{Disk, Format, Image, Kernel, Order, Prepare},
    protocol::{Ending, Event, Request},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command},
};

/// A copy that serves an image; killed on drop.
struct Server(Child);

impl Server {
    /// Serves an image with the program as a container before has copied it.
    fn start(directory: &Path, root: &Path) -> (Self, Image) {
        copy(directory);
        let image = served(directory);
        (Self(serving(directory, &image, root, "").spawn().unwrap()), image)
    }
}

/// The copy, which serves an image in a mount namespace of its own: as in a container, its file system is read-only.
fn serving(directory: &Path, image: &Image, root: &Path, user: &str) -> Command {
    let script = "mount --bind \"$3\" \"$3\" && mount -o remount,bind,ro \"$3\" && exec $4 \"$1\" --serve-image \"$2\" \"$3\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(directory.join("copy")).arg(&image.root);
    command.arg(root).arg(user);
    command
}

fn copy(directory: &Path) {
    let copy = directory.join("copy");
    let made = Command::new(env!("CARGO_BIN_EXE_virt-launcher")).arg("--copy-to").arg(&copy).status();
    assert!(made.unwrap().success());
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o555);
}

/// An image whose socket is in a directory.
fn served(directory: &Path) -> Image {
    let root = directory.join("image").to_str().unwrap().to_owned();
    Image { root, reference: "team/guest:1".into(), served: true }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn image() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in ["disk", "boot"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    let qcow2 = root.path().join("disk/only.img");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&qcow2).arg("8M").status();
    assert!(made.unwrap().success());
    fs::write(root.path().join("boot/initrd-1"), "an initrd").unwrap();
    symlink("initrd-1", root.path().join("boot/initrd")).unwrap();
    symlink("../disk/only.img", root.path().join("boot/link")).unwrap();
    root
}

/// A kernel as far as QEMU looks at it.
fn bootable() -> Vec<u8> {
    // QEMU reads the header of a kernel before it runs anything: one sector beside the first, the magic, the protocol, and the
    // highest address of an initrd.
    let mut kernel = vec![0; 8192];
    kernel[0x1f1] = 1;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&[0x06, 0x02]);
    kernel[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    kernel
}

fn on_slot() -> (Launcher, ferrovirt_sys::seqpacket::Listener) {
    Launcher::on_slot(Command::new(env!("CARGO_BIN_EXE_virt-launcher")), None)
}

fn container_disk(image: &Image, path: &str, only: bool) -> Disk {
    let prepare = if only { Prepare::OnlyFile(image.clone()) } else { Prepare::Image(image.clone()) };
    let path = format!("{}/{path}", image.root).into();
    Disk { prepare: Some(prepare), overlay: true, format: Format::Raw, ..disk("root", path) }
}

/// The files that a process has open, by device and inode.
fn files(pid: i32) -> Vec<(u64, u64)> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    all.filter_map(|entry| fs::metadata(entry.unwrap().path()).ok())
        .map(|data| (data.dev(), data.ino()))
        .collect()
}

#[test]
fn qemu_has_the_disk_of_a_served_image_open() {
    let root = image();
    let (mut launcher, _listener) = on_slot();
    let (server, served) = Server::start(launcher.directory.path(), root.path());
    let qemu = launcher.run(Order { disks: vec![container_disk(&served, "disk", true)], ..bare() });
    let data = fs::metadata(root.path().join("disk/only.img")).unwrap();
    assert!(files(qemu).contains(&(data.dev(), data.ino())));
    let line = fs::read_to_string(format!("/proc/{qemu}/cmdline")).unwrap();
    assert!(line.contains("/proc/self/fd/") && line.contains("qcow2"), "{line}");
    // The launcher keeps nothing of it.
    let own = i32::try_from(launcher.child.id()).unwrap();
    assert!(!files(own).contains(&(data.dev(), data.ino())));
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
    // As the kubelet ends the container when the launcher has ended.
    let mut server = server;
    let pid = Pid::from_raw(i32::try_from(server.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(server.0.wait().unwrap().success());
}

#[test]
fn a_kernel_and_its_initrd_come_from_a_served_image() {
    let root = image();
    fs::write(root.path().join("boot/vmlinuz-1"), bootable()).unwrap();
    symlink("/boot/vmlinuz-1", root.path().join("vmlinuz")).unwrap();
    let (mut launcher, _listener) = on_slot();
    let (_server, served) = Server::start(launcher.directory.path(), root.path());
    let path = |name: &str| Some(format!("{}/{name}", served.root));
    let boot = Kernel {
        kernel: path("vmlinuz"),
        initrd: path("boot/initrd"),
        args: String::new(),
        image: Some(served.clone()),
    };
    let qemu = launcher.run(Order { kernel: Some(boot), ..bare() });
    let line = fs::read_to_string(format!("/proc/{qemu}/cmdline")).unwrap();
    assert_eq!(line.matches("/proc/self/fd/").count(), 2, "{line}");
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
}

#[test]
fn what_is_wrong_with_a_served_image_is_said_as_for_a_mounted_one() {
    let root = image();
    let (launcher, _listener) = on_slot();
    let (_server, served) = Server::start(launcher.directory.path(), root.path());
    let path = |name: &str| Some(format!("{}/{name}", served.root));
    let kernel =
        Kernel { kernel: path("none"), initrd: None, args: String::new(), image: Some(served.clone()) };
    let disks = |disk| Order { disks: vec![disk], ..bare() };
    for (order, words) in [
        (disks(container_disk(&served, "boot/link", false)), "\"boot/link\" is not a regular file"),
        (disks(container_disk(&served, "disk", false)), "\"disk\" is not a regular file"),
        (disks(container_disk(&served, "disk/../boot/initrd-1", false)), "is not a regular file"),
        (disks(container_disk(&served, "none", true)), "it has no such directory"),
        (Order { kernel: Some(kernel), ..bare() }, "there is no regular file \"none\""),
    ] {
        launcher.start(order);
        let Event::NotReady { message } = launcher.event() else { panic!("{words}: it started") };
        assert!(message.contains("team/guest:1") && message.contains(words), "{message}");
    }
}

/// A machine that boots from an image.
fn boot(image: &Image) -> Order {
    let kernel = Some(format!("{}/vmlinuz", image.root));
    let kernel = Kernel { kernel, initrd: None, args: String::new(), image: Some(image.clone()) };
    Order { kernel: Some(kernel), ..bare() }
}

/// Each grant of images that are served, taken away; with it the same machine runs.
#[test]
fn without_the_socket_or_the_file_nothing_starts() {
    let root = image();
    fs::write(root.path().join("vmlinuz"), bootable()).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let start = |order: fn(&Image) -> Order, served: bool, mode: u32| {
        for file in ["disk/only.img", "vmlinuz"] {
            fs::set_permissions(root.path().join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        let (mut launcher, _listener) = on_slot();
        let directory = launcher.directory.path().to_owned();
        let image = self::served(&directory);
        copy(&directory);
        // The server is somebody else's here, who may not read every file.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let _server =
            served.then(|| Server(serving(&directory, &image, root.path(), nobody).spawn().unwrap()));
        launcher.start(order(&image));
        match launcher.event() {
            Event::NotReady { message } => {
                assert!(message.contains("team/guest:1"), "{message}");
                false
            }
            Event::State { .. } => {
                launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
                launcher.ended();
                true
            }
            other => panic!("{other:?}"),
        }
    };
    let disk = |image: &Image| Order { disks: vec![container_disk(image, "disk", true)], ..bare() };
    let mut ran = Vec::new();
    for name in registered(Scenario::Images) {
        for order in [disk, boot as fn(&Image) -> Order] {
            assert!(start(order, true, 0o644), "{name}: nothing was taken away");
            match name {
                "served-image" => assert!(!start(order, false, 0o644)),
                "served-image-open" => assert!(!start(order, true, 0o600)),
                other => panic!("{other} has no witness here"),
            }
        }
        ran.push(name);
    }
    assert_eq!(ran, ["served-image", "served-image-open"]);
}
