//! What a guest is made of: TAP queues, huge pages, disks on every bus, addresses by DHCP.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Launcher, Namespace, bare, disk, nic};
use ferrovirt_qemu::{
    Descriptors, command_line,
    order::{Backing, Bus, Format, Lease, Memory, Order, Tap},
    protocol::{Ending, Purpose, Request},
};
use ferrovirt_sys::{netns, tap, udp};
use std::{fs, net::Ipv4Addr, os::fd::AsFd, os::unix::fs::PermissionsExt, process::Command};

/// Queues of a TAP that a process has open.
fn queues(pid: i32, name: &str) -> usize {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .unwrap()
        .filter(|entry| {
            let text = fs::read_to_string(entry.as_ref().unwrap().path()).unwrap_or_default();
            text.lines().any(|line| line.split_whitespace().eq(["iff:", name]))
        })
        .count()
}

#[test]
fn passed_queues_reach_qemu_and_the_tap_ends_with_it() {
    let namespace = Namespace::new();
    let fds = netns::run_in(&namespace.open(), || tap::create("tap0", 4, 107)).unwrap();
    let mut launcher = Launcher::new();
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let purposes = vec![Purpose::TapQueue { nic: "default".into() }; 4];
    launcher.send_with(&Request::Descriptors { purposes }, &borrowed);
    let qemu = launcher.run(Order { nics: vec![nic(4, Tap::Passed)], cores: 4, ..bare() });
    drop(fds);
    assert_eq!(queues(qemu, "tap0"), 4);
    assert_eq!(queues(i32::try_from(launcher.child.id()).unwrap(), "tap0"), 0);
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
    assert!(!namespace.run("ip", "-o link").contains("tap0"));
}

#[test]
fn every_model_of_interface_is_taken_by_qemu() {
    let namespace = Namespace::new();
    let launcher = Launcher::new();
    let mut order = bare();
    for (number, model) in ["virtio", "e1000", "e1000e", "rtl8139"].into_iter().enumerate() {
        let name = format!("nic{number}");
        let fds = netns::run_in(&namespace.open(), || tap::create(&name, 1, 107)).unwrap();
        let purposes = vec![Purpose::TapQueue { nic: name.clone() }];
        launcher.send_with(&Request::Descriptors { purposes }, &[fds[0].as_fd()]);
        let mut nic = nic(1, Tap::Passed);
        nic.mac = format!("02:00:00:00:00:0{number}");
        nic.model = model.into();
        nic.name = name;
        order.nics.push(nic);
    }
    let qemu = launcher.run(order);
    assert!((0..4).all(|number| queues(qemu, &format!("nic{number}")) == 1));
}

#[test]
fn too_few_queues_are_an_error_with_both_numbers() {
    let mut launcher = Launcher::new();
    launcher.start(Order { nics: vec![nic(4, Tap::Passed)], ..bare() });
    let (ending, message, _) = launcher.ended();
    assert_eq!(ending, Ending::Failed);
    assert!(message.contains("0 descriptors passed, 4 needed"), "{message}");
}

#[test]
fn the_documented_profile_makes_its_own_tap_on_the_bridge() {
    let namespace = Namespace::new();
    namespace.bridge();
    let launcher = Launcher::in_namespace(Some(namespace.open()));
    let tap = Tap::Created { interface: "tap0".into(), bridge: "k6t-eth0".into(), mtu: 1400 };
    let qemu = launcher.run(Order { nics: vec![nic(2, tap)], ..bare() });
    assert_eq!(queues(qemu, "tap0"), 2);
    let link = namespace.run("ip", "-o -d link show tap0");
    for word in ["mtu 1400", "master k6t-eth0", "UP", "multi_queue", "vnet_hdr"] {
        assert!(link.contains(word), "{word}: {link}");
    }
}

#[test]
fn a_tap_that_cannot_be_attached_says_which_step_failed() {
    let namespace = Namespace::new();
    let mut launcher = Launcher::in_namespace(Some(namespace.open()));
    let tap = Tap::Created { interface: "tap0".into(), bridge: "nobridge".into(), mtu: 1500 };
    launcher.start(Order { nics: vec![nic(1, tap)], ..bare() });
    let (ending, message, _) = launcher.ended();
    assert_eq!(ending, Ending::Failed);
    assert!(message.contains("attaching the TAP to the bridge"), "{message}");
}

#[test]
fn a_real_client_gets_the_lease() {
    let namespace = Namespace::new();
    namespace.bridge();
    namespace.run("ip", "link add guest0 address 02:00:00:00:00:01 type veth peer name port0");
    namespace.run("ip", "link set port0 master k6t-eth0 up");
    namespace.run("ip", "link set guest0 up");
    let socket = netns::run_in(&namespace.open(), || udp::dhcp_server("k6t-eth0")).unwrap();
    let fds = netns::run_in(&namespace.open(), || tap::create("tap0", 1, 107)).unwrap();
    let launcher = Launcher::new();
    launcher.send_with(
        &Request::Descriptors {
            purposes: vec![
                Purpose::Dhcp { nic: "default".into() },
                Purpose::TapQueue { nic: "default".into() },
            ],
        },
        &[socket.as_fd(), fds[0].as_fd()],
    );
    let mut nic = nic(1, Tap::Passed);
    nic.dhcp = Some(Lease {
        address: Ipv4Addr::new(10, 0, 2, 2),
        prefix: 24,
        server: Ipv4Addr::new(10, 0, 2, 1),
        gateway: Some(Ipv4Addr::new(10, 0, 2, 1)),
        dns: vec![Ipv4Addr::new(10, 96, 0, 10)],
        search: vec!["default.svc.cluster.local".into()],
        hostname: "example".into(),
        mtu: 1480,
    });
    launcher.run(Order { nics: vec![nic], ..bare() });
    let script = launcher.directory.path().join("script");
    let environment = launcher.directory.path().join("environment");
    fs::write(&script, format!("#!/bin/sh\n[ $1 = bound ] && env > {}\nexit 0\n", environment.display()))
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = format!("udhcpc -i guest0 -q -n -f -O search -O mtu -t 10 -T 1 -s {}", script.display());
    namespace.run("busybox", &arguments);
    let environment = fs::read_to_string(environment).unwrap();
    for line in [
        "ip=10.0.2.2",
        "subnet=255.255.255.0",
        "router=10.0.2.1",
        "dns=10.96.0.10",
        "search=default.svc.cluster.local",
        "hostname=example",
        "mtu=1480",
        "serverid=10.0.2.1",
        "lease=86400",
    ] {
        assert!(environment.lines().any(|have| have == line), "{line}: {environment}");
    }
}

/// More huge pages for one test, given back after it.
struct HugePages(u64);

impl HugePages {
    const FILE: &'static str = "/proc/sys/vm/nr_hugepages";

    fn reserve(count: u64) -> Self {
        Self::change(|have| have + count);
        Self(count)
    }

    fn change(change: impl Fn(u64) -> u64) {
        let have: u64 = fs::read_to_string(Self::FILE).unwrap().trim().parse().unwrap();
        fs::write(Self::FILE, change(have).to_string()).unwrap();
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        Self::change(|have| have.saturating_sub(self.0));
    }
}

#[test]
fn guest_memory_is_in_huge_pages_and_a_lack_of_them_is_said() {
    let order = |bytes| Order {
        memory: Memory { bytes, backing: Backing::HugeMemfd { page_bytes: 2 << 20 } },
        ..bare()
    };
    let reserved = HugePages::reserve(64);
    let mut launcher = Launcher::new();
    let qemu = launcher.run(order(128 << 20));
    assert_eq!(Launcher::proc(qemu, "status", "HugetlbPages"), 128 * 1024);
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
    drop(reserved);

    let mut launcher = Launcher::new();
    launcher.start(order(1 << 40));
    let (ending, message, _) = launcher.ended();
    assert_eq!(ending, Ending::Failed);
    assert!(message.contains("Cannot allocate memory"), "{message}");
}

#[test]
fn disks_of_every_bus_and_format_are_taken_by_qemu() {
    let mut launcher = Launcher::new();
    let directory = launcher.directory.path().to_owned();
    let raw = directory.join("a,b=\"c\"\\ é.img");
    fs::write(&raw, vec![0; 1 << 20]).unwrap();
    let qcow = directory.join("q.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&qcow).arg("8M").status().unwrap();
    assert!(made.success());

    let mut disks = Vec::new();
    for (number, bus) in [Bus::Virtio, Bus::Sata, Bus::Scsi, Bus::Usb].into_iter().enumerate() {
        for format in [Format::Raw, Format::Qcow2] {
            let mut overlay = disk(&format!("overlay-{number}-{format:?}").to_lowercase(), raw.clone());
            if format == Format::Qcow2 {
                overlay.path = qcow.to_str().unwrap().into();
            }
            overlay.format = format;
            overlay.bus = bus;
            overlay.overlay = true;
            overlay.serial = Some("S-1".into());
            disks.push(overlay);
        }
        let own = directory.join(format!("own-{number}.img"));
        fs::write(&own, vec![0; 1 << 20]).unwrap();
        let mut own = disk(&format!("own-{number}"), own);
        own.bus = bus;
        own.queues = if bus == Bus::Virtio { 4 } else { 1 };
        disks.push(own);
        let mut fixed = disk(&format!("fixed-{number}"), raw.clone());
        fixed.bus = bus;
        fixed.read_only = true;
        fixed.cdrom = bus != Bus::Virtio;
        fixed.boot_order = Some(1 + u32::try_from(number).unwrap());
        disks.push(fixed);
    }
    // Enough for root ports and a second SATA controller.
    for number in 0..30 {
        let mut more = disk(&format!("more-{number}"), raw.clone());
        more.bus = if number < 24 { Bus::Virtio } else { Bus::Sata };
        more.overlay = true;
        disks.push(more);
    }
    launcher.run(Order { disks, graphics: true, balloon: true, rng: true, ..bare() });
    assert!(directory.join("sockets/vnc.sock").exists());
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left.iter().any(|name| name.to_str().unwrap().starts_with("vl.")),
        "overlays have names: {left:?}"
    );
    launcher.send(&Request::Shutdown { grace_seconds: Some(0) });
    assert_eq!(launcher.ended().0, Ending::Destroyed);
}

#[test]
fn an_image_cannot_make_qemu_read_other_files() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let secret = directory.join("secret");
    fs::write(&secret, vec![b'x'; 1 << 20]).unwrap();
    let make = |name: &str, options: &[&str]| {
        let image = directory.join(name);
        let mut command = Command::new("qemu-img");
        let made = command.args(["create", "-q", "-f", "qcow2"]).args(options).arg(&image).arg("1M").status();
        assert!(made.unwrap().success());
        image
    };
    let backing = make("backing.qcow2", &["-F", "raw", "-b", secret.to_str().unwrap()]);
    let data_file = format!("data_file={}", directory.join("data").display());
    let data = make("data.qcow2", &["-o", &data_file]);
    for (image, words) in
        [(&backing, "backing file"), (&data, "data in another file"), (&secret, "not a qcow2 image")]
    {
        let mut launcher = Launcher::new();
        let mut disk = disk("root", image.clone());
        disk.format = Format::Qcow2;
        launcher.start(Order { disks: vec![disk], ..bare() });
        let (ending, message, _) = launcher.ended();
        assert_eq!(ending, Ending::Failed);
        assert!(message.contains("disk \"root\"") && message.contains(words), "{message}");
    }

    // Should the image change after that look: QEMU itself is started so that it does not follow it.
    let descriptors = Descriptors { qmp: 3, ..Descriptors::default() };
    for overlay in [true, false] {
        let mut disk = disk("root", backing.clone());
        disk.format = Format::Qcow2;
        disk.overlay = overlay;
        let line = command_line(&Order { disks: vec![disk], ..bare() }, &descriptors).unwrap();
        assert!(line.iter().any(|argument| argument.to_str().unwrap().contains("\"backing\":null")));
    }
}
