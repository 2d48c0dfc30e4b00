//! What the launcher finds in the volumes of its pod, on a cluster: the file of an image, the disks of claims, and secrets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Launcher, bare, disk, event};
use ferrovirt_qemu::{
    order::{Disk, Image, Inline, Mounted, Order, Prepare},
    protocol::{Ending, Event, Request, State},
    seed::{Content, File},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};

const MIB: u64 = 1 << 20;

fn order(path: &Path, prepare: Prepare) -> Order {
    Order { disks: vec![Disk { prepare: Some(prepare), ..disk("data", path.to_owned()) }], ..bare() }
}

/// Why an order is not carried out; the launcher waits for the next one.
fn not_ready(launcher: &mut Launcher, order: Order) -> String {
    launcher.start(order);
    let Event::NotReady { message } = launcher.event() else { panic!("it started") };
    launcher.agent = launcher.connect();
    assert_eq!(event(&launcher.agent), Event::State { state: State::Waiting, qemu_pid: None });
    message
}

fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message}");
    }
}

fn claim(bytes: Option<u64>) -> Prepare {
    Prepare::ClaimFile { claim: "c".into(), bytes }
}

#[test]
fn the_only_file_of_an_image_is_its_disk() {
    let root = tempfile::tempdir().unwrap();
    let image = Image {
        root: root.path().to_str().unwrap().to_owned(),
        reference: "team/guest:1".into(),
        served: false,
    };
    let directory = root.path().join("disk");
    let mut launcher = Launcher::new();
    let asked = || {
        let mut order = order(&directory, Prepare::OnlyFile(image.clone()));
        order.disks[0].overlay = true;
        order
    };
    says(
        &not_ready(&mut launcher, asked()),
        &["team/guest:1", "/disk", "no such directory", "containerDisk.path"],
    );
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret-name"), "x").unwrap();
    symlink(outside.path(), &directory).unwrap();
    let message = not_ready(&mut launcher, asked());
    assert!(message.contains("no such directory") && !message.contains("secret-name"), "{message}");
    fs::remove_file(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    symlink(outside.path().join("secret-name"), directory.join("link")).unwrap();
    says(&not_ready(&mut launcher, asked()), &["there is no file"]);
    for number in 0..1000 {
        symlink("nowhere", directory.join(format!("link{number}"))).unwrap();
    }
    says(&not_ready(&mut launcher, asked()), &["more than 1000 entries"]);
    for number in 0..1000 {
        fs::remove_file(directory.join(format!("link{number}"))).unwrap();
    }
    for name in ["one.qcow2", "two"] {
        let file = directory.join(name);
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(file).arg("8M").status();
        assert!(made.unwrap().success());
    }
    says(&not_ready(&mut launcher, asked()), &["there are 2 files"]);
    fs::rename(directory.join("two"), root.path().join("two")).unwrap();
    let qemu = launcher.run(asked());
    let line = fs::read_to_string(format!("/proc/{qemu}/cmdline")).unwrap();
    assert!(line.split('\0').any(|word| word.contains("disk/one.qcow2")), "{line:?}");
    assert!(line.split('\0').any(|word| word.contains("qcow2") && word.contains("driver")), "{line:?}");
}

/// Runs a guest and ends it: QEMU of a launcher that is killed has its disk open for a while longer.
fn run_and_end(order: Order) {
    let mut launcher = Launcher::new();
    launcher.run(order);
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
}

#[test]
fn a_claim_without_a_disk_gets_one_that_others_of_its_group_can_use_and_a_disk_stays() {
    let volume = tempfile::tempdir().unwrap();
    let path = volume.path().join("disk.img");
    fs::create_dir(volume.path().join("lost+found")).unwrap();
    let bytes = 64 * MIB + 5;
    run_and_end(order(&path, claim(Some(bytes))));
    let made = fs::metadata(&path).unwrap();
    assert!(made.len() == 64 * MIB && made.blocks() < 64, "{made:?}");
    assert_eq!(made.permissions().mode() & 0o777, 0o660);
    // A disk of another size than the claim's, which holds something.
    fs::write(&path, vec![7; 4096]).unwrap();
    run_and_end(order(&path, claim(Some(bytes))));
    assert_eq!(fs::read(&path).unwrap(), vec![7; 4096]);
    assert_eq!(fs::metadata(&path).unwrap().ino(), made.ino());
    // What an interrupted start leaves, and nobody has open.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    run_and_end(order(&path, claim(Some(bytes))));
    assert_eq!(fs::metadata(&path).unwrap().len(), 64 * MIB);
}

/// A guest that writes the first bytes of an image into its disk must not have QEMU open what the image names.
#[test]
fn the_disk_of_a_claim_is_raw_whatever_it_begins_with() {
    let volume = tempfile::tempdir().unwrap();
    let path = volume.path().join("disk.img");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("8M").status();
    assert!(made.unwrap().success());
    let launcher = Launcher::new();
    let qemu = launcher.run(order(&path, claim(Some(8 * MIB))));
    let line = fs::read_to_string(format!("/proc/{qemu}/cmdline")).unwrap();
    assert!(!line.contains("qcow2") && line.contains("disk.img"), "{line:?}");
}

#[test]
fn of_two_machines_that_begin_at_once_one_gives_the_disk_its_size() {
    let volume = tempfile::tempdir().unwrap();
    let path = volume.path().join("disk.img");
    // The other one is at it.
    let file = fs::File::create(&path).unwrap();
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut launcher = Launcher::new();
    says(&not_ready(&mut launcher, order(&path, claim(Some(64 * MIB)))), &["disk.img", "another machine"]);
    assert_eq!(file.metadata().unwrap().len(), 0);
    file.set_len(32 * MIB).unwrap();
    drop(file);
    launcher.run(order(&path, claim(Some(64 * MIB))));
    assert_eq!(fs::metadata(&path).unwrap().len(), 32 * MIB);
}

#[test]
fn nothing_is_made_where_it_could_harm_or_would_not_fit() {
    let volume = tempfile::tempdir().unwrap();
    let path = volume.path().join("disk.img");
    let mut launcher = Launcher::new();
    says(
        &not_ready(&mut launcher, order(&path, claim(Some(1 << 60)))),
        &["claim c", "too little", "larger claim"],
    );
    says(&not_ready(&mut launcher, order(&path, claim(None))), &["claim c", "capacity"]);
    let mut read_only = order(&path, claim(Some(MIB)));
    read_only.disks[0].read_only = true;
    says(&not_ready(&mut launcher, read_only), &["no file disk.img", "the guest may not write"]);
    fs::write(volume.path().join("database"), "somebody's").unwrap();
    says(
        &not_ready(&mut launcher, order(&path, claim(Some(MIB)))),
        &["\"database\"", "nothing is made beside"],
    );
    assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 1);
    let outside = tempfile::NamedTempFile::new().unwrap();
    symlink(outside.path(), &path).unwrap();
    says(&not_ready(&mut launcher, order(&path, claim(Some(MIB)))), &["not a regular file", "links"]);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    not_ready(&mut launcher, order(&path, claim(Some(MIB))));
    assert_eq!(outside.as_file().metadata().unwrap().len(), 0);
}

/// A launcher of another user than the volumes' owner, as in a pod.
fn unprivileged() -> Launcher {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--groups", "65533", "--inh-caps=-all"]);
    command.args(["--bounding-set=-all", "--"]).arg(env!("CARGO_BIN_EXE_virt-launcher"));
    let launcher = Launcher::behind(command, None);
    fs::set_permissions(launcher.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    launcher
}

#[test]
fn a_claim_that_may_not_be_used_is_named_with_what_to_change() {
    let mut launcher = unprivileged();
    let volume = tempfile::tempdir().unwrap();
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = volume.path().join("disk.img");
    let wanted = ["claim c", "user 65534", "groups 65534, 65533", "fsGroup", "volumeGroup"];
    says(&not_ready(&mut launcher, order(&path, claim(Some(MIB)))), &wanted);
    fs::write(&path, vec![1; 512]).unwrap();
    says(&not_ready(&mut launcher, order(&path, claim(Some(MIB)))), &wanted);
    let node = volume.path().join("device");
    let made = Command::new("mknod").args(["-m", "600"]).arg(&node).args(["b", "7", "200"]).status();
    assert!(made.unwrap().success());
    let device = || Prepare::ClaimDevice { claim: "b".into() };
    let message = not_ready(&mut launcher, order(&node, device()));
    says(&message, &["claim b", "user 65534", "device_ownership_from_security_context = true"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    says(&not_ready(&mut launcher, order(&path, device())), &["no block device"]);
    launcher.run(order(&path, claim(Some(MIB))));
}

/// The witness `volume-group`: what a kubelet makes of a volume for a pod with this fsGroup is of use for nobody else.
#[test]
fn a_claim_is_used_by_the_group_that_it_was_given_to() {
    let volume = tempfile::tempdir().unwrap();
    let path = volume.path().join("disk.img");
    let given = |group| {
        std::os::unix::fs::chown(volume.path(), None, Some(group)).unwrap();
        fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    };
    given(65532);
    let mut launcher = unprivileged();
    says(&not_ready(&mut launcher, order(&path, claim(Some(MIB)))), &["may not be used by user 65534"]);
    given(65533);
    launcher.run(order(&path, claim(Some(MIB))));
    let made = fs::metadata(&path).unwrap();
    assert_eq!((made.uid(), made.gid(), made.permissions().mode() & 0o777), (65534, 65533, 0o660));
}

fn seed_of(mounted: Vec<Mounted>) -> Prepare {
    let content = Content(b"{\"instance-id\": \"m.n\"}".to_vec());
    Prepare::SeedOf { files: vec![Inline { name: "meta-data".into(), content }], mounted }
}

fn mounted(directory: &Path) -> Vec<Mounted> {
    vec![Mounted {
        name: "user-data".into(),
        directory: directory.to_str().unwrap().to_owned(),
        keys: vec!["userdata".into(), "userData".into()],
        secret: "s".into(),
    }]
}

#[test]
fn a_seed_is_made_of_a_mounted_secret_and_of_nothing_that_its_links_name_elsewhere() {
    let volume = tempfile::tempdir().unwrap();
    let version = volume.path().join("..2026_11_30_12_00_00.1");
    fs::create_dir(&version).unwrap();
    let mut launcher = Launcher::new();
    let path = launcher.directory.path().join("seed.iso");
    let asked = || {
        let mut order = order(&path, seed_of(mounted(volume.path())));
        order.disks[0].read_only = true;
        order
    };
    says(&not_ready(&mut launcher, asked()), &["secret s", "not as a kubelet makes it"]);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("userdata"), "another's").unwrap();
    let newest = volume.path().join("..data");
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    for out in [outside.path().to_str().unwrap().to_owned(), format!("../{name}"), "..".to_owned()] {
        symlink(out, &newest).unwrap();
        says(&not_ready(&mut launcher, asked()), &["not as a kubelet makes it"]);
        fs::remove_file(&newest).unwrap();
    }
    symlink(version.file_name().unwrap(), &newest).unwrap();
    says(&not_ready(&mut launcher, asked()), &["no key userdata or userData", "create it"]);
    symlink(outside.path().join("userdata"), version.join("userdata")).unwrap();
    says(&not_ready(&mut launcher, asked()), &["not as a kubelet makes it"]);
    fs::remove_file(version.join("userdata")).unwrap();
    fs::write(version.join("userData"), vec![b'x'; usize::try_from(MIB).unwrap() + 1]).unwrap();
    says(&not_ready(&mut launcher, asked()), &["no file of up to"]);
    fs::write(version.join("userData"), "#cloud-config of the secret").unwrap();
    // What comes before the order belongs to other seeds.
    let file = File { disk: "data".into(), name: "meta-data".into(), content: Content(b"sent".to_vec()) };
    launcher.send(&Request::Piece { piece: file });
    launcher.run(asked());
    let image = fs::read(&path).unwrap();
    let has = |text: &str| image.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("#cloud-config of the secret") && has("m.n") && !has("another's") && !has("sent"));
}

fn host(bytes: Option<u64>) -> Prepare {
    Prepare::HostFile { bytes }
}

#[test]
fn a_disk_of_the_node_is_used_as_it_is_and_made_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let mut launcher = Launcher::new();
    says(&not_ready(&mut launcher, order(&path, host(None))), &["no file of hostDisk.path", "DiskOrCreate"]);
    // Nothing is made that the guest could not write.
    let mut read_only = order(&path, host(Some(MIB)));
    read_only.disks[0].read_only = true;
    says(&not_ready(&mut launcher, read_only), &["no file of hostDisk.path"]);
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    symlink(elsewhere.path(), &path).unwrap();
    says(&not_ready(&mut launcher, order(&path, host(Some(MIB)))), &["hostDisk.path", "links do not count"]);
    assert_eq!(fs::metadata(elsewhere.path()).unwrap().len(), 0);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    says(&not_ready(&mut launcher, order(&path, host(None))), &["not a regular file"]);
    fs::remove_dir(&path).unwrap();
    assert!(directory.path().read_dir().unwrap().next().is_none(), "nothing was made");

    launcher.run(order(&path, host(Some(3 * MIB))));
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
    let made = fs::metadata(&path).unwrap();
    assert_eq!((made.len(), made.permissions().mode() & 0o777), (3 * MIB, 0o600));
    assert!(made.blocks() < 64, "{made:?}");
    // What holds something stays, whatever size is asked for.
    fs::write(&path, vec![7; 4096]).unwrap();
    run_and_end(order(&path, host(Some(3 * MIB))));
    assert_eq!(fs::read(&path).unwrap(), vec![7; 4096]);
    // What an interrupted start leaves.
    fs::write(&path, "").unwrap();
    run_and_end(order(&path, host(Some(3 * MIB))));
    assert_eq!(fs::metadata(&path).unwrap().len(), 3 * MIB);
}

#[test]
fn a_disk_of_the_node_that_belongs_to_others_says_whom_to_give_it_to() {
    let mut launcher = unprivileged();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("data");
    let wanted =
        ["hostDisk.path", "may not be used by user 65534", "give the file to that user", "directory"];
    says(&not_ready(&mut launcher, order(&path, host(Some(MIB)))), &wanted);
    fs::write(&path, vec![1; 4096]).unwrap();
    says(&not_ready(&mut launcher, order(&path, host(None))), &wanted);
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    launcher.run(order(&path, host(None)));
}
