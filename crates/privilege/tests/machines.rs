//! What a machine's rights depend on: each part of it that asks for some, and each that asks for none.

mod common;

use std::collections::BTreeSet;

use common::{PROFILES, claim, disk, interface, machine};
use ferrovirt_model::{
    Bytes, Machine, PageSize,
    machine::{Binding, Bus, DiskTarget, KernelBoot, NicModel, Payload, Port, Protocol, Source},
};
use ferrovirt_privilege::{
    Feature, Label, Right, Subject, Surface, Surroundings, cluster_grants, features, machine_grants,
};

fn surroundings() -> Surroundings {
    Surroundings::default()
}

/// The features that a change of the plain machine adds.
fn added(around: &Surroundings, change: impl FnOnce(&mut Machine)) -> Vec<Feature> {
    let mut changed = machine();
    change(&mut changed);
    let plain = features(&machine(), &Surroundings::default());
    let found = features(&changed, around);
    assert!(plain.is_subset(&found), "{plain:?} {found:?}");
    found.difference(&plain).copied().collect()
}

fn with_disk(
    around: &Surroundings,
    source: Source,
    change: impl FnOnce(&mut ferrovirt_model::machine::Disk),
) -> Vec<Feature> {
    let mut one = disk("disk-1", source);
    change(&mut one);
    added(around, |machine| machine.disks.push(one))
}

#[test]
fn disks() {
    use Feature::{
        ClaimBlockRead, ClaimBlockWrite, ClaimFileRead, ClaimFileWrite, ContainerDisk, EmptyDisk,
        EmptyDiskRead, HostDiskCreate, HostDiskRead, HostDiskWrite, Overlay,
    };
    let image = || Source::ContainerDisk { image: "i".into(), path: None };
    let host = |create| Source::HostDisk { path: "/srv/a.img".into(), create };
    let empty = || Source::EmptyDisk { capacity: Bytes::mib(1) };
    // Source, features where the disk is written, features where it is only read.
    let rows: [(Source, &[Feature], &[Feature]); 8] = [
        (image(), &[ContainerDisk, Overlay], &[ContainerDisk]),
        (host(None), &[HostDiskWrite], &[HostDiskRead]),
        (host(Some(Bytes::mib(1))), &[HostDiskCreate], &[HostDiskRead]),
        (empty(), &[EmptyDisk], &[EmptyDiskRead]),
        (claim(false, false), &[ClaimFileWrite], &[ClaimFileRead]),
        (claim(true, false), &[ClaimFileRead], &[ClaimFileRead]),
        // What is written to goes to the overlay.
        (claim(false, true), &[ClaimFileRead, Overlay], &[ClaimFileRead]),
        (claim(true, true), &[ClaimFileRead, Overlay], &[ClaimFileRead]),
    ];
    for (source, written, read) in rows {
        let around = surroundings();
        assert_eq!(with_disk(&around, source.clone(), |_| ()), written, "{source:?}");
        assert_eq!(with_disk(&around, source.clone(), |disk| disk.read_only = true), read, "{source:?}");
        assert_eq!(
            with_disk(&around, source.clone(), |disk| disk.target = DiskTarget::Cdrom),
            read,
            "{source:?}"
        );
    }
    // A claim is in block mode by its own name, and then no group helps.
    let mut block = Surroundings { volume_group: Some(107), ..surroundings() };
    assert_eq!(with_disk(&block, claim(false, false), |_| ()), [ClaimFileWrite, Feature::VolumeGroup]);
    assert_eq!(with_disk(&block, claim(true, false), |_| ()), [ClaimFileRead, Feature::VolumeGroup]);
    assert_eq!(with_disk(&block, empty(), |_| ()), [EmptyDisk]);
    block.block_claims.insert("disk-1".into());
    assert_eq!(with_disk(&block, claim(false, false), |_| ()), [ClaimFileWrite, Feature::VolumeGroup]);
    block.block_claims.insert("claim-1".into());
    assert_eq!(with_disk(&block, claim(false, false), |_| ()), [ClaimBlockWrite]);
    assert_eq!(with_disk(&block, claim(true, false), |_| ()), [ClaimBlockRead]);
    assert_eq!(with_disk(&block, claim(false, true), |_| ()), [ClaimBlockRead, Overlay]);
}

#[test]
fn seeds() {
    use Feature::{CloudInit, CloudInitMounted, CloudInitSecret, Overlay};
    let seed = |user_data: Option<Payload>, network_data: Option<Payload>| Source::CloudInit {
        user_data,
        network_data,
    };
    let inline = || Some(Payload::Inline(b"x".to_vec()));
    let secret = |name: &str| Some(Payload::Secret(name.into()));
    let alone = surroundings();
    let cluster = Surroundings { slot: true, ..surroundings() };
    assert_eq!(with_disk(&alone, seed(inline(), None), |_| ()), [CloudInit]);
    assert_eq!(with_disk(&alone, seed(secret("s"), None), |_| ()), [CloudInit, CloudInitSecret]);
    assert_eq!(with_disk(&alone, seed(inline(), secret("s")), |_| ()), [CloudInit, CloudInitSecret]);
    assert_eq!(with_disk(&cluster, seed(inline(), inline()), |_| ()), [CloudInit, Feature::Slot]);
    assert_eq!(
        with_disk(&cluster, seed(None, secret("s")), |_| ()),
        [CloudInit, CloudInitMounted, Feature::Slot]
    );
    // A SATA disk is written by its guest; a SATA CD-ROM, or another bus, is not.
    assert_eq!(with_disk(&alone, seed(inline(), None), |disk| disk.bus = Bus::Sata), [Overlay, CloudInit]);
    let cdrom =
        |disk: &mut ferrovirt_model::machine::Disk| (disk.bus, disk.target) = (Bus::Sata, DiskTarget::Cdrom);
    assert_eq!(with_disk(&alone, seed(inline(), None), cdrom), [CloudInit]);

    // Each kind of data has a mount of its own with its own keys; the secret of one is not that of the other.
    let mut machine = machine();
    machine.disks.push(disk("disk-1", seed(secret("user"), secret("network"))));
    let mounts: BTreeSet<String> = machine_grants(&machine, &cluster, ferrovirt_model::Profile::Minimal)
        .on(Surface::Pod)
        .iter()
        .map(Right::to_string)
        .filter(|right| right.contains("of secret"))
        .collect();
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    let has = |mount: &str, secret: &str, keys: &str| {
        mounts
            .iter()
            .any(|right| right.contains(mount) && right.ends_with(&format!("secret {secret}, keys {keys}")))
    };
    assert!(has("disk-1-udata", "user", "userdata,userData"), "{mounts:?}");
    assert!(has("disk-1-ndata", "network", "networkdata,networkData"), "{mounts:?}");
}

#[test]
fn interfaces_and_devices() {
    use Feature::{
        Bridge, Dhcp, Graphics, HugePages, KernelBoot as Boot, Masquerade, MultiQueue, SerialConsole, Tap,
    };
    let nic = |binding, queues| {
        added(&surroundings(), |machine| machine.interfaces.push(interface("net", binding, queues)))
    };
    assert_eq!(nic(Binding::Masquerade, 1), [Tap, Masquerade, Dhcp]);
    assert_eq!(nic(Binding::Bridge, 1), [Tap, Bridge, Dhcp]);
    assert_eq!(nic(Binding::Masquerade, 2), [Tap, Masquerade, MultiQueue, Dhcp]);
    let one = |change: fn(&mut Machine)| added(&surroundings(), change);
    assert_eq!(one(|machine| machine.memory.huge_pages = PageSize::new(2 << 20)), [HugePages]);
    assert_eq!(one(|machine| machine.devices.graphics = true), [Graphics]);
    assert_eq!(one(|machine| machine.devices.serial_console = true), [SerialConsole]);
    let boot = |machine: &mut Machine| {
        let boot =
            KernelBoot { image: "i".into(), kernel_path: None, initrd_path: None, args: String::new() };
        machine.firmware.kernel_boot = Some(boot);
    };
    assert_eq!(one(boot), [Boot]);
    let around = Surroundings { slot: true, ..surroundings() };
    assert_eq!(added(&around, |_| ()), [Feature::Slot]);
    let label = Label { kind: "t".into(), level: "s0".into() };
    let around = Surroundings { label: Some(label), ..surroundings() };
    assert_eq!(added(&around, |_| ()), [Feature::SelinuxLabel]);
}

/// A machine with something of everything, whose names are found again.
fn rich() -> Machine {
    let mut machine = machine();
    machine.memory.huge_pages = PageSize::new(2 << 20);
    machine.firmware.kernel_boot = Some(KernelBoot {
        image: "boot-image".into(),
        kernel_path: None,
        initrd_path: None,
        args: String::new(),
    });
    let secret = |name: &str| Some(Payload::Secret(name.into()));
    machine.disks = vec![
        disk("disk-image", Source::ContainerDisk { image: "disk-source".into(), path: None }),
        disk(
            "disk-host",
            Source::HostDisk { path: "/host-directory/a.img".into(), create: Some(Bytes::mib(1)) },
        ),
        disk("disk-empty", Source::EmptyDisk { capacity: Bytes::mib(1) }),
        disk("disk-claim", claim(false, false)),
        disk("disk-block", Source::Claim { claim: "claim-2".into(), read_only: false, ephemeral: false }),
        disk(
            "disk-seed",
            Source::CloudInit { user_data: secret("secret-1"), network_data: secret("secret-2") },
        ),
    ];
    machine.interfaces =
        vec![interface("nic-1", Binding::Masquerade, 4), interface("nic-2", Binding::Bridge, 1)];
    machine.devices.graphics = true;
    machine.devices.serial_console = true;
    machine
}

fn around_rich() -> [Surroundings; 3] {
    let helper = Some("the launcher's".to_owned());
    [(false, None), (true, None), (true, helper)].map(|(slot, image_helper)| Surroundings {
        emulation: false,
        block_claims: ["claim-2".to_owned()].into(),
        label: Some(Label { kind: "label.kind".into(), level: "s0:c7,c8".into() }),
        user_namespace: slot,
        slot,
        volume_group: Some(107),
        image_helper,
    })
}

/// Every placeholder is filled with the machine's own text, and what a machine names is named in its rights.
#[test]
fn no_placeholder_is_left_and_no_name_is_lost() {
    for around in around_rich() {
        for profile in PROFILES {
            let all = machine_grants(&rich(), &around, profile);
            let texts: Vec<String> = all.iter().map(|(held, _)| held.right.to_string()).collect();
            for text in &texts {
                let rest = text.replace("{runtime}", "").replace("{agent}", "");
                assert!(!rest.contains(['{', '}']), "{profile:?}: {text}");
            }
            let names = [
                "disk-source",
                "boot-image",
                "/host-directory",
                "disk-empty",
                "claim-1",
                "claim-2",
                "nic-1",
                "nic-2",
                "label.kind",
                "s0:c7,c8",
                "disk-seed",
                "2Mi",
                "128Mi",
            ];
            // Without a place on a node the agent reads the secrets, and its role names none.
            let secrets = ["secret-1", "secret-2"].into_iter().filter(|_| around.slot);
            for name in names.into_iter().chain(secrets) {
                assert!(texts.iter().any(|text| text.contains(name)), "{profile:?}: {name}");
            }
        }
    }
}

/// What is installed for the cluster lets every machine in: no machine needs a value of the SCC, a role or a system call
/// that is not there.
#[test]
fn what_is_installed_is_enough_for_a_machine_with_everything() {
    for around in around_rich() {
        for profile in PROFILES {
            let machine = machine_grants(&rich(), &around, profile);
            let cluster = cluster_grants(profile);
            for surface in
                [Surface::Scc, Surface::MachineScc, Surface::Rbac, Surface::Seccomp, Surface::Filter]
            {
                assert!(machine.on(surface).is_subset(&cluster.on(surface)), "{profile:?} {surface:?}");
            }
        }
    }
}

type Change = fn(&mut Machine);

/// What the guest alone sees asks for no right.
#[test]
fn what_asks_for_nothing() {
    let changes: [(&str, Change); 11] = [
        ("processors", |machine| (machine.cpu.sockets, machine.cpu.threads) = (8, 2)),
        ("model", |machine| machine.cpu.model = "Haswell".into()),
        ("shares", |machine| {
            (machine.cpu.limit_millis, machine.memory.limit) = (Some(7), Some(Bytes::mib(7)))
        }),
        ("memory", |machine| machine.memory.guest = Bytes::mib(4096)),
        ("machine type", |machine| machine.machine_type = "pc-q35-8.2".into()),
        ("firmware", |machine| machine.firmware.serial = Some("s".into())),
        ("life", |machine| (machine.grace_seconds, machine.start_paused, machine.acpi) = (9, true, false)),
        ("devices", |machine| (machine.devices.balloon, machine.devices.rng) = (true, true)),
        ("queues of disks", |machine| machine.devices.block_multi_queue = true),
        ("service account", |machine| machine.scheduling.service_account = Some("admin".into())),
        ("node", |machine| machine.scheduling.hostname = Some("h".into())),
    ];
    for profile in PROFILES {
        let plain = machine_grants(&machine(), &surroundings(), profile);
        for (what, change) in changes {
            let mut changed = machine();
            change(&mut changed);
            assert_eq!(machine_grants(&changed, &surroundings(), profile), plain, "{what}");
        }
        let mut shown = rich();
        let before = machine_grants(&shown, &surroundings(), profile);
        for disk in &mut shown.disks {
            (disk.serial, disk.boot_order) = (Some("s".into()), Some(1));
        }
        for nic in &mut shown.interfaces {
            (nic.model, nic.mac) = (NicModel::E1000, Some([2; 6]));
            nic.ports = vec![Port { name: None, protocol: Protocol::Udp, port: 53 }];
        }
        assert_eq!(machine_grants(&shown, &surroundings(), profile), before);
    }
}

/// A device more never takes a right away from anybody, beside the name of the machine's type.
#[test]
fn rights_grow_with_the_machine() {
    let (full, around) = (rich(), &around_rich()[0]);
    for profile in PROFILES {
        let mut grown = machine();
        let mut before = machine_grants(&grown, around, profile);
        let disks = full.disks.iter().cloned().map(|disk| (Some(disk), None));
        let nics = full.interfaces.iter().cloned().map(|nic| (None, Some(nic)));
        for (disk, nic) in disks.chain(nics) {
            grown.disks.extend(disk);
            grown.interfaces.extend(nic);
            let after = machine_grants(&grown, around, profile);
            let lost = before.minus(&after);
            let lost: Vec<_> =
                lost.iter().filter(|(held, _)| held.right.surface() != Surface::Selinux).collect();
            assert!(lost.is_empty(), "{profile:?}: {lost:?}");
            assert!(after.len() > before.len() || grown.disks.is_empty(), "{profile:?}");
            before = after;
        }
    }
}

/// In the minimal profile nobody inside the pod makes a network, whatever the machine has.
#[test]
fn the_pod_of_the_minimal_profile_makes_no_network() {
    for around in around_rich() {
        let all = machine_grants(&rich(), &around, ferrovirt_model::Profile::Minimal);
        for subject in [Subject::Qemu, Subject::Launcher] {
            for right in all.of(subject) {
                let text = right.to_string();
                assert!(
                    !text.contains("create a TAP") && !text.contains("create further TAP"),
                    "{subject}: {text}"
                );
                assert!(
                    !matches!(right, Right::Capability(_) | Right::Host { .. } | Right::Sysctl { .. }),
                    "{subject}: {text}"
                );
            }
        }
    }
}
