//! What the rights of one machine must be to each other: a pod in which QEMU finds what its order says, and nothing twice.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use common::{PROFILES, claim, disk, interface, machine};
use ferrovirt_model::{
    Bytes, Machine, PageSize, Profile,
    machine::{Binding, Disk, DiskTarget, KernelBoot, Payload, Source},
};
use ferrovirt_privilege::{
    Access, DeviceSource, GrantSet, Label, Right, Surface, Surroundings, VolumeSource, machine_grants,
};

/// One source of each kind, all of them about a thing of this name.
fn sources(name: &str) -> Vec<Source> {
    let claim = |read_only, ephemeral| Source::Claim { claim: name.into(), read_only, ephemeral };
    let host = |create| Source::HostDisk { path: format!("/srv/{name}/disk.img"), create };
    let secret = |part: &str| Some(Payload::Secret(format!("{name}-{part}")));
    vec![
        Source::ContainerDisk { image: format!("registry/{name}"), path: None },
        host(None),
        host(Some(Bytes::mib(1))),
        Source::EmptyDisk { capacity: Bytes::mib(1) },
        claim(false, false),
        claim(true, false),
        claim(false, true),
        Source::CloudInit { user_data: secret("user"), network_data: secret("network") },
    ]
}

/// Where a machine may be: with and without places, with claims that are files or devices, with images that are mounted and
/// served.
fn surroundings() -> Vec<Surroundings> {
    let mut all = Vec::new();
    let (mounted, served) = (None, Some("registry/launcher".to_owned()));
    for (slot, block, helper) in [
        (false, false, &mounted),
        (false, true, &mounted),
        (true, false, &mounted),
        (true, true, &mounted),
        (true, false, &served),
    ] {
        let block_claims = if block { ["one", "two"].map(String::from).into() } else { BTreeSet::new() };
        let label = slot.then(|| Label { kind: "some.type".into(), level: "s0:c1,c2".into() });
        all.push(Surroundings {
            emulation: false,
            block_claims,
            label,
            user_namespace: slot,
            slot,
            volume_group: Some(107),
            image_helper: helper.clone(),
        });
    }
    all
}

/// Machines with two disks of one kind, in each way in which a disk can be used, and otherwise with everything.
fn machines() -> Vec<Machine> {
    let mut all = Vec::new();
    for (first, second) in sources("one").into_iter().zip(sources("two")) {
        for read_only in [false, true] {
            for target in [DiskTarget::Disk, DiskTarget::Cdrom] {
                let mut machine = machine();
                let used = |name: &str, source: &Source| Disk {
                    read_only,
                    target,
                    ..disk(&format!("disk-{name}"), source.clone())
                };
                machine.disks = vec![used("one", &first), used("two", &second)];
                machine.memory.huge_pages = PageSize::new(2 << 20);
                machine.interfaces = vec![interface("net", Binding::Masquerade, 2)];
                machine.firmware.kernel_boot = Some(KernelBoot {
                    image: "registry/kernel".into(),
                    kernel_path: None,
                    initrd_path: None,
                    args: String::new(),
                });
                all.push(machine);
            }
        }
    }
    all
}

/// Every machine in every place and profile, with its rights.
static ALL: LazyLock<Vec<(Machine, Surroundings, Profile, GrantSet)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for machine in machines() {
        for around in surroundings() {
            for profile in PROFILES {
                let grants = machine_grants(&machine, &around, profile);
                all.push((machine.clone(), around.clone(), profile, grants));
            }
        }
    }
    all
});

fn for_each(check: impl Fn(&Machine, &Surroundings, Profile, &GrantSet)) {
    for (machine, around, profile, grants) in ALL.iter() {
        check(machine, around, *profile, grants);
    }
}

/// Mounts of a pod as (volume, path, source, access).
fn mounts(grants: &GrantSet) -> Vec<(String, String, VolumeSource<String>, Access)> {
    let rights = grants.on(Surface::Pod).into_iter();
    rights
        .filter_map(|right| match right {
            Right::Mount { volume, path, source, access } => Some((volume, path, source, access)),
            _ => None,
        })
        .collect()
}

/// Device nodes of a pod as (path, source, access).
fn devices(grants: &GrantSet) -> Vec<(String, DeviceSource<String>, Access)> {
    let rights = grants.on(Surface::Pod).into_iter();
    rights
        .filter_map(|right| match right {
            Right::Device { path, source, access } => Some((path, source, access)),
            _ => None,
        })
        .collect()
}

/// Files that QEMU opens, as (path, access).
fn opened(grants: &GrantSet) -> Vec<(String, Access)> {
    let rights = grants.on(Surface::Order).into_iter();
    rights
        .filter_map(|right| match right {
            Right::Open { path, access } => Some((path, access)),
            _ => None,
        })
        .collect()
}

/// A file that the order names is in the pod, below the nearest mount or as a device node, and can be opened that way there.
#[test]
fn what_is_opened_is_there_and_can_be_opened_so() {
    for_each(|machine, around, profile, grants| {
        let files = opened(grants);
        assert!(files.len() >= machine.disks.len(), "{machine:?}");
        let (mounts, devices) = (mounts(grants), devices(grants));
        for (file, access) in files {
            let below = |path: &str| {
                file == path || file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
            };
            let device = devices.iter().find(|(path, ..)| *path == file).map(|(.., access)| *access);
            let mount = mounts
                .iter()
                .filter(|(_, path, ..)| below(path))
                .max_by_key(|(_, path, ..)| path.len())
                .map(|(.., access)| *access);
            let offered = device.or(mount);
            assert!(
                offered.is_some_and(|offered| offered >= access),
                "{profile:?}: {file} is opened for {access}, the pod offers {offered:?}: {:?} {around:?}",
                machine.disks
            );
        }
    });
}

/// A disk that is only read is offered for reading only, wherever its bytes are: what QEMU does not open for writing, a guest that
/// has taken QEMU over cannot open either. Scratch space is the pod's own.
#[test]
fn what_is_only_read_is_not_offered_for_writing() {
    for_each(|machine, _, profile, grants| {
        let written: BTreeSet<_> = opened(grants)
            .into_iter()
            .filter_map(|(path, access)| (access == Access::ReadWrite).then_some(path))
            .collect();
        for (_, path, source, access) in mounts(grants) {
            let scratch = matches!(source, VolumeSource::Scratch | VolumeSource::HugePages);
            assert!(
                scratch || access == Access::Read || written.contains(&path),
                "{profile:?}: {path} can be written: {:?}",
                machine.disks
            );
        }
        for (path, source, access) in devices(grants) {
            let claim = matches!(source, DeviceSource::Claim(_));
            assert!(
                !claim || access == Access::Read || written.contains(&path),
                "{profile:?}: {path}: {:?}",
                machine.disks
            );
        }
    });
}

/// Two disks are two files: none of them is opened in place of the other.
#[test]
fn each_disk_has_a_file_of_its_own() {
    for_each(|machine, _, profile, grants| {
        for disk in &machine.disks {
            let own: Vec<_> =
                opened(grants).into_iter().filter(|(path, _)| path.contains(&disk.name)).collect();
            assert_eq!(own.len(), 1, "{profile:?}: {}: {own:?}", disk.name);
        }
    });
}

/// The kubelet refuses a pod that has a volume of one name twice, or two at one path, and takes one value of a field.
#[test]
fn nothing_is_in_a_pod_twice() {
    for_each(|machine, _, profile, grants| {
        let mut volumes = BTreeMap::new();
        let mut paths = BTreeSet::new();
        for (volume, path, source, access) in mounts(grants) {
            let first = volumes.entry(volume.clone()).or_insert_with(|| (source.clone(), access));
            assert_eq!(*first, (source, access), "{profile:?}: volume {volume}: {:?}", machine.disks);
            assert!(paths.insert(path.clone()), "{profile:?}: two volumes at {path}");
        }
        for (path, source, _) in devices(grants) {
            if let DeviceSource::Claim(_) = source {
                assert!(paths.insert(path.clone()), "{profile:?}: {path}");
                let name = path.trim_start_matches("/dev/");
                assert!(!volumes.contains_key(name), "{profile:?}: {name} is mounted and a device");
            }
        }
        let mut fields = BTreeMap::new();
        for right in grants.on(Surface::Pod) {
            let (field, value) = match right {
                Right::PodField { field, value } => (field, value),
                Right::Resource { name, quantity } => (name, quantity),
                _ => continue,
            };
            let first = fields.entry(field.clone()).or_insert(value.clone());
            assert_eq!(*first, value, "{profile:?}: {field}");
        }
    });
}

/// A mount below another volume's is below one of the pod's own scratch space, in which the runtime makes what is missing: never in
/// a claim, an image or a directory of the node, where it would leave an entry behind or fail.
#[test]
fn nothing_is_mounted_inside_what_is_a_strangers() {
    for_each(|_, _, profile, grants| {
        let mounts = mounts(grants);
        for (_, inner, ..) in &mounts {
            for (_, outer, source, _) in &mounts {
                let inside = inner.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with('/'));
                assert!(!inside || *source == VolumeSource::Scratch, "{profile:?}: {inner} in {outer}");
            }
        }
    });
}

/// A claim is a mount or a device, as its mode says, and its group is asked for where it is a mount that is not root's alone.
#[test]
fn claims_are_used_in_their_mode() {
    for_each(|machine, around, profile, grants| {
        let mounted = mounts(grants).iter().any(|(_, _, source, _)| matches!(source, VolumeSource::Claim(_)));
        let device = devices(grants).iter().any(|(_, source, _)| matches!(source, DeviceSource::Claim(_)));
        let claims = machine.disks.iter().any(|disk| matches!(disk.source, Source::Claim { .. }));
        let block = !around.block_claims.is_empty();
        assert_eq!((mounted, device), (claims && !block, claims && block), "{:?}", machine.disks);
        let group = grants.on(Surface::Pod).iter().any(|right| right.to_string() == "pod fsGroup=107");
        assert_eq!(group, mounted || profile == Profile::Documented, "{profile:?}: {:?}", machine.disks);
    });
}

/// Only a disk of the node brings a path of the node into a pod, and it is the file's directory.
#[test]
fn only_host_disks_bring_paths_of_the_node() {
    for_each(|machine, _, _, grants| {
        let found: BTreeSet<_> = mounts(grants)
            .into_iter()
            .filter_map(|(_, _, source, _)| match source {
                VolumeSource::HostPath { path, .. } => Some(path),
                _ => None,
            })
            .collect();
        let wanted: BTreeSet<_> = machine
            .disks
            .iter()
            .filter_map(|disk| match &disk.source {
                Source::HostDisk { path, .. } => Some(path.trim_end_matches("/disk.img").to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(found, wanted);
    });
}

/// Only a writable disk that may be made makes its directory.
#[test]
fn a_directory_is_made_only_for_a_disk_that_is_made() {
    for_each(|machine, _, _, grants| {
        let made = mounts(grants)
            .iter()
            .any(|(_, _, source, _)| matches!(source, VolumeSource::HostPath { create: true, .. }));
        let wanted = machine.disks.iter().any(|disk| {
            let asks = matches!(disk.source, Source::HostDisk { create: Some(_), .. });
            asks && !disk.read_only && disk.target == DiskTarget::Disk
        });
        assert_eq!(made, wanted, "{:?}", machine.disks);
    });
}

/// Huge pages are counted under the name that the kubelet counts them by, and for all of the guest's memory.
#[test]
fn huge_pages_are_named_and_counted_as_the_kubelet_does() {
    let rows = [
        (2 << 20, Bytes::mib(512), "resource hugepages-2Mi=512Mi"),
        (1 << 30, Bytes::mib(2048), "resource hugepages-1Gi=2Gi"),
        (64 << 10, Bytes::mib(1), "resource hugepages-64Ki=1Mi"),
    ];
    for (page, guest, wanted) in rows {
        let mut machine = machine();
        machine.memory.guest = guest;
        machine.memory.huge_pages = PageSize::new(page);
        // What is asked of the scheduler besides is ordinary memory.
        machine.memory.request = Some(Bytes::mib(64));
        for profile in PROFILES {
            let pod = machine_grants(&machine, &Surroundings::default(), profile).on(Surface::Pod);
            let found: Vec<_> = pod
                .iter()
                .filter(|right| matches!(right, Right::Resource { .. }))
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, [wanted], "{profile:?}");
        }
    }
}

/// Every interface has its own queues: a second one is not served by the first one's, and only the one with many has more.
#[test]
fn each_interface_has_its_steps() {
    let mut machine = machine();
    machine.interfaces = vec![
        interface("many", Binding::Masquerade, 4),
        interface("one", Binding::Bridge, 1),
        interface("zero", Binding::Bridge, 0),
    ];
    for profile in PROFILES {
        let order = machine_grants(&machine, &Surroundings::default(), profile).on(Surface::Order);
        let mut steps: BTreeMap<String, usize> = BTreeMap::new();
        for right in order {
            if let Right::Network { nic, step: _ } = right {
                *steps.entry(nic).or_default() += 1;
            }
        }
        let steps: Vec<_> = steps.iter().map(|(nic, count)| (nic.as_str(), *count)).collect();
        // A TAP and addresses for each, further queues for one.
        assert_eq!(steps, [("many", 3), ("one", 2), ("zero", 2)], "{profile:?}");
    }
}

/// A text of a machine that looks like a placeholder stays what it is, also in the name of a directory.
#[test]
fn texts_of_a_machine_are_not_placeholders() {
    let mut machine = machine();
    let path = "/srv/{volume}/{domain}/disk.img";
    machine.disks = vec![disk("data", Source::HostDisk { path: path.into(), create: None })];
    for profile in PROFILES {
        let grants = machine_grants(&machine, &Surroundings::default(), profile);
        let paths: Vec<_> = mounts(&grants)
            .into_iter()
            .filter_map(|(volume, _, source, _)| match source {
                VolumeSource::HostPath { path, .. } => Some((volume, path)),
                _ => None,
            })
            .collect();
        assert_eq!(paths, [("data".to_owned(), "/srv/{volume}/{domain}".to_owned())], "{profile:?}");
    }
}

/// A claim that two disks use is mounted for each of them, with the right that each has.
#[test]
fn a_claim_of_two_disks_keeps_both_rights() {
    let mut machine = machine();
    let mut reader = disk("reader", claim(false, false));
    reader.read_only = true;
    machine.disks = vec![reader, disk("writer", claim(false, false))];
    let grants = machine_grants(&machine, &Surroundings::default(), Profile::Minimal);
    let of_claim: Vec<_> = mounts(&grants)
        .into_iter()
        .filter(|(_, _, source, _)| *source == VolumeSource::Claim("claim-1".into()))
        .map(|(volume, _, _, access)| (volume, access))
        .collect();
    assert_eq!(of_claim, [("reader".to_owned(), Access::Read), ("writer".to_owned(), Access::ReadWrite)]);
}
