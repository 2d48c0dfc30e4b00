//! What the launcher makes before QEMU opens it: seeds and scratch disks.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Launcher, bare, disk, event};
use ferrovirt_qemu::{
    order::{Disk, Format, Image, Kernel, Order, Prepare},
    protocol::{Ending, Event, Request, State},
    seed::{Content, File},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

fn made(name: &str, path: &Path, prepare: Prepare) -> Disk {
    Disk { prepare: Some(prepare), ..disk(name, path.to_owned()) }
}

fn seed(path: &Path) -> Disk {
    Disk { read_only: true, ..made("seed", path, Prepare::Seed) }
}

fn give(launcher: &Launcher, name: &str, content: &[u8]) {
    let file = File { disk: "seed".into(), name: name.into(), content: Content(content.to_owned()) };
    for piece in file.pieces() {
        launcher.send(&Request::Piece { piece });
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_seed_is_made_of_the_files_that_came_and_other_readers_find_them() {
    let mut launcher = Launcher::new();
    let path = launcher.directory.path().join("cloud-init-seed.iso");
    let large: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    give(&launcher, "user-data", &large);
    give(&launcher, "meta-data", b"");
    launcher.run(Order { disks: vec![seed(&path)], ..bare() });
    let image = fs::read(&path).unwrap();
    assert_eq!(&image[16 * 2048 + 40..16 * 2048 + 46], b"CIDATA");
    assert!(image.windows(large.len()).any(|part| part == large));
    assert_eq!(mode(&path), 0o400);
    if let Ok(shown) = Command::new("isoinfo").args(["-J", "-f", "-i"]).arg(&path).output() {
        let text = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(
            text.lines().collect::<std::collections::BTreeSet<_>>(),
            ["/meta-data", "/user-data"].into()
        );
    }
    let pid = i32::try_from(launcher.child.id()).unwrap();
    let private = Launcher::proc(pid, "smaps_rollup", "Private_Dirty")
        + Launcher::proc(pid, "smaps_rollup", "Private_Clean");
    assert!(private < 4096, "{private} KiB");
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
}

#[test]
fn a_scratch_disk_takes_no_space_and_replaces_what_is_there_but_not_what_a_link_leads_to() {
    let launcher = Launcher::new();
    let outside = tempfile::tempdir().unwrap();
    let other = outside.path().join("other");
    fs::write(&other, "kept").unwrap();
    let [new, old, link] = ["new", "old", "link"].map(|name| launcher.directory.path().join(name));
    fs::write(&old, vec![7; 4096]).unwrap();
    symlink(&other, &link).unwrap();
    let empty = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        made(name, path, Prepare::Empty { bytes: 1 << 30 })
    };
    launcher.run(Order { disks: [&new, &old, &link].map(empty).into(), ..bare() });
    for path in [&new, &old, &link] {
        let data = fs::symlink_metadata(path).unwrap();
        assert!(data.is_file() && data.len() == 1 << 30 && data.blocks() < 64, "{data:?}");
        assert_eq!(mode(path), 0o600);
    }
    assert_eq!(fs::read_to_string(other).unwrap(), "kept");
}

#[test]
fn a_disk_that_is_not_ready_starts_nothing_and_the_launcher_takes_the_order_again() {
    let launcher = Launcher::new();
    let missing = launcher.directory.path().join("missing");
    let path = missing.join("scratch.img");
    let seed = seed(&launcher.directory.path().join("seed.iso"));
    let order =
        Order { disks: vec![seed, made("scratch", &path, Prepare::Empty { bytes: 1 << 20 })], ..bare() };
    give(&launcher, "user-data", b"a secret");
    launcher.start(order.clone());
    let Event::NotReady { message } = launcher.event() else { panic!("it started") };
    assert!(message.contains("disk \"scratch\"") && message.contains("No such file"), "{message}");
    assert!(!message.contains("a secret"), "{message}");
    assert!(!launcher.directory.path().join("ended.json").exists());
    fs::create_dir(&missing).unwrap();
    let again = launcher.connect();
    assert_eq!(event(&again), Event::State { state: State::Waiting, qemu_pid: None });
    // What came for the first try is gone with it.
    give(&launcher, "user-data", b"another");
    launcher.run(order);
    let image = fs::read(launcher.directory.path().join("seed.iso")).unwrap();
    assert!(image.windows(7).any(|part| part == b"another"));
    assert!(!image.windows(8).any(|part| part == b"a secret"));
    give(&launcher, "user-data", b"late");
    assert!(launcher.refused().contains("already started"));
}

#[test]
fn an_order_of_another_version_makes_nothing() {
    let mut launcher = Launcher::new();
    let path = launcher.directory.path().join("scratch.img");
    let disks = vec![made("scratch", &path, Prepare::Empty { bytes: 1 << 20 })];
    launcher.start(Order { version: 2, disks, ..bare() });
    let (ending, message, _) = launcher.ended();
    assert!(ending == Ending::Failed && message.contains("version 2"), "{message}");
    assert!(!path.exists());
}

/// An image's root with a qcow2 disk and a raw one.
fn image() -> (tempfile::TempDir, Image) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("disk")).unwrap();
    let qcow2 = root.path().join("disk/a.img");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&qcow2).arg("8M").status();
    assert!(made.unwrap().success());
    fs::write(root.path().join("disk/b.img"), vec![0; 1 << 20]).unwrap();
    symlink("a.img", root.path().join("disk/link")).unwrap();
    symlink("disk", root.path().join("other")).unwrap();
    let image = Image {
        root: root.path().to_str().unwrap().to_owned(),
        reference: "team/guest:1".into(),
        served: false,
    };
    (root, image)
}

#[test]
fn what_an_image_holds_is_known_by_its_first_bytes() {
    let (root, image) = image();
    let mut launcher = Launcher::new();
    let of = |name: &str, file: &str| {
        let disk = made(name, &root.path().join(file), Prepare::Image(image.clone()));
        Disk { overlay: true, format: Format::Qcow2, ..disk }
    };
    let qemu =
        launcher.run(Order { disks: vec![of("one", "disk/a.img"), of("two", "disk/b.img")], ..bare() });
    let line = fs::read_to_string(format!("/proc/{qemu}/cmdline")).unwrap();
    let driver = |file: &str| {
        let own = line.split('\0').filter(|argument| argument.contains(file)).collect::<String>();
        assert!(!own.is_empty(), "{file} is not in {line:?}");
        own.contains("qcow2")
    };
    assert_eq!((driver("disk/a.img"), driver("disk/b.img")), (true, false), "{line:?}");
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
}

#[test]
fn a_link_a_directory_and_what_is_outside_are_no_disk_of_an_image() {
    let (root, image) = image();
    let launcher = Launcher::new();
    let mut agent = launcher.connect();
    event(&agent);
    for file in ["disk/link", "other/a.img", "disk", "disk/none", "disk/../disk/a.img", "/etc/hostname"] {
        let disk = made("root", &root.path().join(file), Prepare::Image(image.clone()));
        let order = Box::new(Order { disks: vec![disk], ..bare() });
        agent.send(&serde_json::to_vec(&Request::Start { order }).unwrap(), &[]).unwrap();
        let Event::NotReady { message } = event(&agent) else { panic!("{file} is a disk") };
        assert!(message.contains("team/guest:1") && message.contains("is not a regular file"), "{message}");
        agent = launcher.connect();
        assert_eq!(event(&agent), Event::State { state: State::Waiting, qemu_pid: None });
    }
}

#[test]
fn a_kernel_that_is_not_in_its_image_is_named() {
    let (root, image) = image();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("initrd"), "another's").unwrap();
    symlink(outside.path().join("initrd"), root.path().join("absolute")).unwrap();
    let up = format!("../{}/initrd", outside.path().file_name().unwrap().to_str().unwrap());
    symlink(up, root.path().join("relative")).unwrap();
    let launcher = Launcher::new();
    let path = |name: &str| Some(root.path().join(name).to_str().unwrap().to_owned());
    let mut agent = launcher.connect();
    event(&agent);
    for file in ["boot/initrd", "disk", "absolute", "relative"] {
        // What a link leads to in the image is as good as a file.
        let kernel = Kernel {
            kernel: path("disk/link"),
            initrd: path(file),
            args: String::new(),
            image: Some(image.clone()),
        };
        let order = Box::new(Order { kernel: Some(kernel), ..bare() });
        agent.send(&serde_json::to_vec(&Request::Start { order }).unwrap(), &[]).unwrap();
        let Event::NotReady { message } = event(&agent) else { panic!("{file} was taken") };
        assert!(message.contains(&format!("there is no regular file {file:?}")), "{message}");
        agent = launcher.connect();
        assert_eq!(event(&agent), Event::State { state: State::Waiting, qemu_pid: None });
    }
}
