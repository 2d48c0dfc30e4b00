//! QEMU opens the files of an order, with the access that was granted and without it.

use super::*;

fn order() -> Order {
    Order {
        version: VERSION,
        name: "n_m".into(),
        uuid: "5d307ca9-b3ef-428c-8861-06e72d69f223".into(),
        serial_number: None,
        machine: "q35".into(),
        accelerator: Accelerator::Tcg,
        cpu_model: "max".into(),
        sockets: 1,
        cores: 1,
        threads: 1,
        memory: Memory { bytes: 64 << 20, backing: Backing::Anonymous },
        kernel: None,
        disks: vec![],
        nics: vec![],
        serial: false,
        graphics: false,
        balloon: false,
        rng: false,
        acpi: true,
        start_paused: false,
        grace_seconds: 0,
    }
}

/// Starts QEMU as the launcher's user with an order's own command line, up to its first answer.
fn greets(order: &Order) -> Result<(), String> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let descriptors = Descriptors { qmp: 3, ..Descriptors::default() };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(command_line(order, &descriptors).unwrap()).uid(USER).gid(USER).env("TMPDIR", "/tmp");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let setup = Setup { fds: vec![(theirs.into(), 3)], ..Setup::default() };
    let mut child = ferrovirt_sys::process::spawn(command, setup).unwrap();
    // The greeting comes before the machine is made, the answer after.
    io::Write::write_all(&mut &ours, b"{\"execute\": \"qmp_capabilities\"}\n").unwrap();
    let lines = io::BufRead::lines(io::BufReader::new(ours)).map_while(Result::ok);
    let greeted = lines.take(2).any(|line| line.contains("\"return\""));
    if greeted {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    if greeted { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Every grant by which QEMU opens a file: with the access that it grants QEMU starts, without it it does not. What
/// the file is to the machine makes no difference to the kernel, so that each is a disk here, but for the two that
/// are none.
pub(super) fn opens() -> BTreeSet<&'static str> {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("file");
    fs::write(&file, vec![0_u8; 1 << 20]).unwrap();
    chown(&file, Some(USER), Some(USER)).unwrap();
    let path = file.to_string_lossy().into_owned();
    let mut ran = BTreeSet::new();
    for name in registered(Scenario::Node) {
        let rights = witnessed(name).unwrap().rights.iter();
        let Some(access) = rights
            .filter_map(|right| match right {
                Right::Open { access, .. } => Some(*access),
                _ => None,
            })
            .next()
        else {
            continue;
        };
        let mut order = order();
        match name {
            "kernel-boot-open" => {
                order.kernel = Some(Kernel {
                    kernel: Some(path.clone()),
                    initrd: None,
                    args: String::new(),
                    image: None,
                });
            }
            "huge-pages-file" => {
                let place = directory.path().join("pages");
                fs::create_dir(&place).unwrap();
                order.memory.backing = Backing::HugeDirectory { path: place.to_string_lossy().into_owned() };
            }
            _ => order.disks.push(Disk {
                name: "d".into(),
                path: path.clone(),
                format: Format::Raw,
                read_only: access == Access::Read,
                overlay: false,
                cdrom: false,
                bus: Bus::Virtio,
                serial: None,
                boot_order: None,
                cache: Cache::Auto,
                queues: 1,
                prepare: None,
            }),
        }
        let (place, good, bad) = match (&order.memory.backing, access) {
            (Backing::HugeDirectory { path }, _) => (PathBuf::from(path), 0o700, 0o500),
            (_, Access::Read) => (file.clone(), 0o400, 0o200),
            (_, Access::ReadWrite) => (file.clone(), 0o600, 0o400),
        };
        chown(&place, Some(USER), Some(USER)).unwrap();
        let mode = |mode| fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        mode(bad);
        let refusal = greets(&order).expect_err(name);
        let kernel = name == "kernel-boot-open" && refusal.contains("could not open kernel file");
        assert!(refusal.contains("Permission denied") || kernel, "{name}: {refusal}");
        mode(good);
        match greets(&order) {
            Ok(()) => {}
            // A file of zeroes is no kernel; it was opened and read to find that.
            Err(words) => {
                assert!(name == "kernel-boot-open" && !words.contains("could not open"), "{name}: {words}")
            }
        }
        ran.insert(name);
    }
    ran
}
