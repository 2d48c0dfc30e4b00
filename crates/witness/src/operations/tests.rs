//! The operations without SELinux: what the first half makes ready, what the second does, and that only the second one does
//! what the policy is asked about. Those that need a device of the guest, or that would be ways out of it, are not run.

use super::{Place, furnish, prepare};
use ferrovirt_lab_protocol::Operation;
use ferrovirt_plan::selinux::prove::EXPERIMENTS;
use ferrovirt_sys::{netns, tap};
use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, symlink},
            net::{SocketAddr, UnixListener},
            process::ExitStatusExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
};

/// Two workers' directories, as the first process and the workers themselves make them.
struct Guest {
    directory: tempfile::TempDir,
    /// What plays the other machine.
    neighbour: Child,
    place: Place,
}

impl Guest {
    fn new(number: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let neighbour = {
            let _alone = crate::programs();
            Command::new("sleep").arg("1000").spawn().unwrap()
        };
        let root = directory.path().to_string_lossy().into_owned();
        let place = Place { number, neighbour: Some(number + 1), root };
        for (kind, number) in [("w", number), ("w", number + 1), ("huge", number), ("huge", number + 1)] {
            fs::create_dir_all(directory.path().join(kind).join(number.to_string())).unwrap();
        }
        fs::write(place.path("secret"), "own").unwrap();
        fs::write(place.neighbours("secret").unwrap(), "other").unwrap();
        fs::write(place.neighbours("pid").unwrap(), neighbour.id().to_string()).unwrap();
        fs::write(format!("{}/memory", place.neighbours_huge().unwrap()), "").unwrap();
        Self { directory, neighbour, place }
    }

    fn huge(&self, name: &str) -> PathBuf {
        self.place.huge(name).into()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.neighbour.kill();
        let _ = self.neighbour.wait();
    }
}

/// Numbers of workers that no other test has, here or in another process: they name abstract sockets.
fn number(of: u32) -> u32 {
    std::process::id() * 16 + of
}

/// An operation about another machine says that there is none before anything else; the others need none.
#[test]
fn what_needs_a_neighbour_says_so() {
    let mut guest = Guest::new(number(0));
    guest.place.neighbour = None;
    for experiment in EXPERIMENTS.iter().filter(|experiment| experiment.needs_neighbour()) {
        // Its own half of a TAP needs the device node.
        if experiment.operation == Operation::OtherTap {
            continue;
        }
        let error =
            prepare(experiment.operation, &guest.place).err().unwrap_or_else(|| io::Error::other("prepared"));
        assert!(error.to_string().contains("no neighbour"), "{}: {error}", experiment.operation);
    }
    assert!(prepare(Operation::OwnFileRead, &guest.place).is_ok());
}

#[test]
fn entries_change_in_the_second_half_alone() {
    let guest = Guest::new(number(2));
    let mode = |name: &str| fs::metadata(guest.huge(name)).unwrap().permissions().mode() & 0o777;
    let there = |name: &str| guest.huge(name).symlink_metadata().is_ok();
    // The operation, and what is there before and after its second half.
    let rows: [(Operation, &[&str], &[&str]); 6] = [
        (Operation::HugeMkdir, &[], &["new"]),
        (Operation::HugeRmdir, &["old"], &[]),
        (Operation::HugeCreate, &[], &["made"]),
        (Operation::HugeUnlink, &["gone"], &[]),
        (Operation::HugeRename, &["from"], &["to"]),
        (Operation::HugeSymlink, &[], &["link"]),
    ];
    for (name, before, after) in rows {
        let act = prepare(name, &guest.place).unwrap();
        assert!(before.iter().all(|entry| there(entry)), "{name}");
        assert!(after.iter().all(|entry| !there(entry)), "{name}");
        act().unwrap();
        assert!(before.iter().all(|entry| !there(entry)), "{name}");
        assert!(after.iter().all(|entry| there(entry)), "{name}");
    }
    for (name, entry, changed) in
        [(Operation::HugeChmodDir, "mode", 0o740), (Operation::HugeChmodFile, "bits", 0o440)]
    {
        let act = prepare(name, &guest.place).unwrap();
        assert_ne!(mode(entry), changed, "{name}");
        act().unwrap();
        assert_eq!(mode(entry), changed, "{name}");
    }
    assert!(
        fs::metadata(guest.huge("new")).unwrap().is_dir()
            && fs::metadata(guest.huge("made")).unwrap().is_file()
    );
    assert_eq!(fs::read_link(guest.huge("link")).unwrap().to_str(), Some("memory"));
}

/// A file is opened by the second half: taken away between the two, it is missed there.
#[test]
fn files_are_opened_in_the_second_half() {
    let guest = Guest::new(number(4));
    let place = &guest.place;
    let neighbours_memory: PathBuf = format!("{}/memory", place.neighbours_huge().unwrap()).into();
    let rows: [(Operation, PathBuf); 4] = [
        (Operation::OwnFileRead, place.path("secret").into()),
        (Operation::OtherFileRead, place.neighbours("secret").unwrap().into()),
        (Operation::OtherHugeFile, neighbours_memory),
        (Operation::HugeOpen, guest.huge("there")),
    ];
    for (name, file) in rows {
        prepare(name, place).unwrap()().unwrap();
        let act = prepare(name, place).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(act().unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
    }
    prepare(Operation::HugeList, place).unwrap()().unwrap();
    prepare(Operation::HugeMap, place).unwrap()().unwrap();
    // What is missing from the beginning is no refusal: the first half says so.
    fs::remove_dir_all(guest.directory.path().join("huge")).unwrap();
    for name in [Operation::HugeList, Operation::HugeMkdir, Operation::HugeUnlink, Operation::OtherHugeFile] {
        assert!(prepare(name, place).is_err(), "{name}");
    }
}

/// The descriptor that is opened again leads to the file, whatever happens to its name.
#[test]
fn a_file_is_reopened_through_its_descriptor() {
    let guest = Guest::new(number(6));
    let act = prepare(Operation::OtherFileReopen, &guest.place).unwrap();
    fs::remove_file(guest.place.neighbours("secret").unwrap()).unwrap();
    act().unwrap();
    assert!(prepare(Operation::OtherFileReopen, &guest.place).is_err());
}

#[test]
fn another_process_is_reached_and_lives_on() {
    let mut guest = Guest::new(number(8));
    for name in [Operation::OtherSignal, Operation::OtherExists, Operation::OtherStatus] {
        prepare(name, &guest.place).unwrap()().unwrap();
    }
    let acts = [Operation::OtherSignal, Operation::OtherExists, Operation::OtherStatus]
        .map(|name| (name, prepare(name, &guest.place).unwrap()));
    guest.neighbour.kill().unwrap();
    let end = guest.neighbour.wait().unwrap().signal();
    assert_eq!(end, Some(9), "what ended the neighbour came before our own signal");
    for (name, act) in acts {
        assert!(act().is_err(), "{name}: nobody is there");
    }
    fs::write(guest.place.neighbours("pid").unwrap(), "0").unwrap();
    assert!(prepare(Operation::OtherExists, &guest.place).err().unwrap().to_string().contains("no number"));
}

#[test]
fn the_socket_of_another_machine_is_connected_to() {
    let guest = Guest::new(number(10));
    let act = prepare(Operation::OtherSocket, &guest.place).unwrap();
    assert_eq!(act().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let address = SocketAddr::from_abstract_name(format!("machine-{}", guest.place.number + 1)).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    prepare(Operation::OtherSocket, &guest.place).unwrap()().unwrap();
    listener.accept().unwrap();
}

/// A network of its own for TAP devices, which ends with its last descriptor.
fn network(directory: &Path) -> OwnedFd {
    let path = directory.join("network");
    netns::create(&path).unwrap();
    let namespace = netns::open(&path).unwrap();
    netns::delete(&path).unwrap();
    namespace
}

/// Whether the network of this thread has the device.
fn has_device(name: &str) -> bool {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    devices.lines().any(|line| line.trim_start().starts_with(&format!("{name}:")))
}

/// A guest with the node of the TUN driver in its directory, in whose network something is done.
fn with_taps(of: u32, work: impl FnOnce(&Place) + Send) {
    let guest = Guest::new(of);
    symlink("/dev/net/tun", guest.place.path("tun")).unwrap();
    let namespace = network(guest.directory.path());
    let place = &guest.place;
    let _alone = crate::programs();
    netns::run_in(&namespace, || {
        work(place);
        Ok(())
    })
    .unwrap();
}

/// What the policy is asked about happens in the second half: no device is made, joined or switched before it.
#[test]
fn devices_are_made_in_the_second_half() {
    with_taps(1, |place| {
        for (operation, name) in [(Operation::TapCreate, "new1"), (Operation::TapCreateSingle, "one1")] {
            let act = prepare(operation, place).unwrap();
            assert!(!has_device(name), "{operation}");
            // What is made later finds the name taken.
            let taken: OwnedFd = tap::open_node("/dev/net/tun").unwrap().into();
            tap::join(&taken, name, false).unwrap();
            assert!(act().is_err(), "{operation} does nothing");
            drop(taken);
            prepare(operation, place).unwrap()().unwrap();
        }
        for (operation, name) in [
            (Operation::TapSecondQueue, "two1"),
            (Operation::TapDetachQueue, "det1"),
            (Operation::TapAttachQueue, "att1"),
            (Operation::TapOpenOwn, "kept1"),
        ] {
            let act = prepare(operation, place).unwrap();
            assert!(has_device(name), "{operation} has something to start from");
            act().unwrap();
        }
        assert!(has_device("kept1"), "the helper left it");
    });
}

/// A device that is opened by its name is the one that somebody else left: where there is none, the kernel would make it, and what
/// was tried would be another thing.
#[test]
fn devices_of_others_are_opened_by_their_names() {
    with_taps(2, |place| {
        let leave = |name: &str, multiple: bool| {
            let queue: OwnedFd = tap::open_node("/dev/net/tun").unwrap().into();
            tap::join(&queue, name, multiple).unwrap();
            tap::keep(&queue).unwrap();
        };
        for (operation, name, multiple) in [
            (Operation::TapOpenForeign, "far2", false),
            (Operation::TapOpenAgents, "age2", true),
            (Operation::OtherTap, "own3", false),
        ] {
            leave(name, multiple);
            let act = prepare(operation, place).unwrap();
            // A queue of it is taken by the act: a second single one is refused meanwhile.
            let held: OwnedFd = tap::open_node("/dev/net/tun").unwrap().into();
            tap::join(&held, name, multiple).unwrap();
            assert_eq!(act().is_err(), !multiple, "{operation}: {name}");
            drop(held);
            prepare(operation, place).unwrap()().unwrap();
        }
    });
}

/// Whatever is made for neighbours is where their operations look for it.
#[test]
fn what_is_furnished_is_what_neighbours_reach_for() {
    let own = number(12);
    with_taps(own, |place| {
        // Numbers of tests are longer than the kernel lets names of devices be: of a guest's they are not.
        let place = &Place { number: own % 1000, neighbour: None, root: place.root.clone() };
        for kind in ["w", "huge"] {
            fs::create_dir_all(format!("{}/{kind}/{}", place.root, place.number)).unwrap();
        }
        fs::remove_dir(place.huge("")).unwrap();
        symlink("/dev/net/tun", place.path("tun")).unwrap();
        let kept = furnish(place).unwrap();
        let other =
            Place { number: place.number + 1, neighbour: Some(place.number), root: place.root.clone() };
        fs::create_dir_all(format!("{}/w/{}", other.root, other.number)).unwrap();
        symlink("/dev/net/tun", other.path("tun")).unwrap();
        for operation in [
            Operation::OtherFileRead,
            Operation::OtherFileReopen,
            Operation::OtherHugeFile,
            Operation::OtherSocket,
            Operation::OtherExists,
            Operation::OtherStatus,
            Operation::OtherTap,
        ] {
            prepare(operation, &other).unwrap()().unwrap_or_else(|error| panic!("{operation}: {error}"));
        }
        let pid = fs::read_to_string(place.path("pid")).unwrap();
        assert_eq!(pid, std::process::id().to_string());
        drop(kept);
        assert!(
            prepare(Operation::OtherSocket, &other).unwrap()().is_err(),
            "the socket goes with its worker"
        );
    });
}
