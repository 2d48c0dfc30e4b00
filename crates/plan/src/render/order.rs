//! From a machine and what the node found out to the order that its launcher obeys.

use super::seed;
use crate::{
    config::{ClusterConfig, World},
    paths,
};
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_model::{
    Machine, Profile,
    machine::{self, Binding, Cache, DiskTarget, NicModel, Source},
};
use ferrovirt_qemu::order::{self, Accelerator, Backing, Format, Image, Lease, Order, Prepare, Tap};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use std::collections::{BTreeMap, BTreeSet};

/// What the node agent found out about one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// How the guest's instructions are executed here.
    pub accelerator: Accelerator,
    /// Claims of the machine's namespace that are in block mode.
    pub block_claims: BTreeSet<String>,
    /// For each disk, by name. A disk that is missing here has its fixed file.
    pub disks: BTreeMap<String, DiskFacts>,
    /// For each interface, by name.
    pub nics: BTreeMap<String, NicFacts>,
}

impl NodeFacts {
    /// Nothing known but the accelerator.
    pub fn new(accelerator: Accelerator) -> Self {
        Self { accelerator, block_claims: BTreeSet::new(), disks: BTreeMap::new(), nics: BTreeMap::new() }
    }
}

/// What is known about a disk beside the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFacts {
    /// Path in the pod, where it is not fixed by the machine: the only file of an image's `/disk`, where the node agent
    /// looks. On a cluster the launcher does.
    pub path: Option<String>,
    /// Bytes of the disk's claim: what its launcher makes on a cluster where the claim has no disk yet.
    pub bytes: Option<u64>,
}

/// What a cluster says of the disks that are on claims, whose objects are `claims` by name.
pub fn claim_facts(
    machine: &Machine,
    claims: &BTreeMap<String, PersistentVolumeClaim>,
) -> BTreeMap<String, DiskFacts> {
    let facts = |disk: &machine::Disk| match &disk.source {
        Source::Claim { claim, .. } => {
            let bytes = claims.get(claim).and_then(claim_bytes);
            Some((disk.name.clone(), DiskFacts { path: None, bytes }))
        }
        _ => None,
    };
    machine.disks.iter().filter_map(facts).collect()
}

/// The capacity that the cluster says a bound claim has, in bytes.
pub fn claim_bytes(claim: &PersistentVolumeClaim) -> Option<u64> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    Amount::parse(&capacity.0).and_then(Amount::bytes).ok().filter(|bytes| *bytes > 0)
}

/// What the node agent made for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicFacts {
    /// MAC address of the guest, `02:00:00:00:00:01` form.
    pub mac: String,
    /// What the guest gets by DHCP; nobody answers when absent.
    pub lease: Option<Lease>,
    /// Name of the TAP, at most 15 bytes; the launcher makes it in the documented profile.
    pub tap: String,
    /// Bridge in the pod.
    pub bridge: String,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
}

/// A fact that an order cannot do without.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MissingFact {
    /// Nobody looked which file of the image is the disk.
    #[error(
        "the file of container disk `{disk}` is not known: give volumes[].containerDisk.path, or let /disk of the image hold exactly one file"
    )]
    DiskFile {
        /// Name of the disk.
        disk: String,
    },
    /// The interface was not made.
    #[error("interface `{nic}` was not set up on this node")]
    Nic {
        /// Name of the interface.
        nic: String,
    },
}

/// The order for a machine.
///
/// # Errors
/// A fact that the machine needs is missing.
pub fn order(machine: &Machine, config: &ClusterConfig, facts: &NodeFacts) -> Result<Order, MissingFact> {
    let documented = config.profile == Profile::Documented;
    let backing = match machine.memory.huge_pages {
        None => Backing::Anonymous,
        Some(_) if documented => Backing::HugeDirectory { path: paths::HUGE_PAGES.to_owned() },
        Some(page) => Backing::HugeMemfd { page_bytes: page.bytes() },
    };
    let disks: Result<Vec<_>, _> = machine.disks.iter().map(|d| disk(d, machine, config, facts)).collect();
    let nics: Result<Vec<_>, _> =
        machine.interfaces.iter().map(|i| nic(i, facts, documented, config.world)).collect();
    Ok(Order {
        version: order::VERSION,
        name: format!("{}_{}", machine.namespace, machine.name),
        uuid: machine.firmware.uuid.clone(),
        serial_number: machine.firmware.serial.clone(),
        machine: machine.machine_type.clone(),
        accelerator: facts.accelerator,
        cpu_model: cpu_model(&machine.cpu.model, facts.accelerator),
        sockets: machine.cpu.sockets,
        cores: machine.cpu.cores,
        threads: machine.cpu.threads,
        memory: order::Memory { bytes: machine.memory.guest.0, backing },
        kernel: machine.firmware.kernel_boot.as_ref().map(|boot| kernel(boot, served(config))),
        disks: disks?,
        nics: nics?,
        serial: machine.devices.serial_console,
        graphics: machine.devices.graphics,
        balloon: machine.devices.balloon,
        rng: machine.devices.rng,
        acpi: machine.acpi,
        start_paused: machine.start_paused,
        grace_seconds: machine.grace_seconds,
    })
}

/// `host-model` and `host-passthrough` are the host's processor where guests run on it, and all that can be
/// emulated where they do not.
fn cpu_model(model: &str, accelerator: Accelerator) -> String {
    match (model, accelerator) {
        ("host-model" | "host-passthrough" | "host", Accelerator::Kvm) => "host",
        ("host-model" | "host-passthrough" | "host", Accelerator::Tcg) => "max",
        (named, _) => named,
    }
    .to_owned()
}

/// Whether containers give out what is in images.
fn served(config: &ClusterConfig) -> bool {
    config.serves_images && config.world == World::Cluster
}

fn kernel(boot: &machine::KernelBoot, served: bool) -> order::Kernel {
    let inside =
        |path: &Option<String>| path.as_ref().map(|path| paths::join(&paths::kernel_directory(), path));
    order::Kernel {
        kernel: inside(&boot.kernel_path),
        initrd: inside(&boot.initrd_path),
        args: boot.args.clone(),
        image: Some(Image { root: paths::kernel_directory(), reference: boot.image.clone(), served }),
    }
}

fn disk(
    disk: &machine::Disk,
    machine: &Machine,
    config: &ClusterConfig,
    facts: &NodeFacts,
) -> Result<order::Disk, MissingFact> {
    let block = matches!(&disk.source, Source::Claim { claim, .. } if facts.block_claims.contains(claim));
    // There nobody but the launcher sees the pod's files.
    let cluster = config.world == World::Cluster;
    let known = facts.disks.get(&disk.name);
    let fixed = known.and_then(|facts| facts.path.clone()).or_else(|| paths::disk_file(disk, block));
    let path = match &fixed {
        Some(path) => path.clone(),
        None if cluster => paths::join(&paths::disk_root(disk, block), paths::IMAGE_DISKS),
        None => return Err(MissingFact::DiskFile { disk: disk.name.clone() }),
    };
    let cdrom = disk.target == DiskTarget::Cdrom;
    let read_only = disk.read_only || cdrom;
    let (overlay, read_only) = match &disk.source {
        // The image is shared: what the guest writes never reaches it.
        Source::ContainerDisk { .. } => (!read_only, read_only),
        Source::HostDisk { .. } | Source::EmptyDisk { .. } => (false, read_only),
        Source::Claim { ephemeral, read_only: claim_read_only, .. } => {
            (*ephemeral && !read_only, read_only || (*claim_read_only && !*ephemeral))
        }
        // A SATA disk cannot be read-only: its guest writes to an overlay.
        Source::CloudInit { .. } if disk.bus == machine::Bus::Sata && !cdrom => (true, false),
        Source::CloudInit { .. } => (false, true),
    };
    let virtio = disk.bus == machine::Bus::Virtio;
    Ok(order::Disk {
        name: disk.name.clone(),
        path,
        // Of an image the launcher finds it out. Whatever a guest can write is raw: it would choose the format.
        format: Format::Raw,
        read_only,
        overlay,
        cdrom,
        bus: match disk.bus {
            machine::Bus::Virtio => order::Bus::Virtio,
            machine::Bus::Sata => order::Bus::Sata,
            machine::Bus::Scsi => order::Bus::Scsi,
            machine::Bus::Usb => order::Bus::Usb,
        },
        serial: disk.serial.clone(),
        boot_order: disk.boot_order,
        cache: match disk.cache {
            None => order::Cache::Auto,
            Some(Cache::None) => order::Cache::None,
            Some(Cache::Writethrough) => order::Cache::Writethrough,
            Some(Cache::Writeback) => order::Cache::Writeback,
        },
        queues: if machine.devices.block_multi_queue && virtio { machine.cpu.vcpus() } else { 1 },
        prepare: match &disk.source {
            Source::CloudInit { .. } if cluster => {
                Some(Prepare::SeedOf { files: seed::inline(machine, disk), mounted: seed::mounted(disk) })
            }
            Source::CloudInit { .. } => Some(Prepare::Seed),
            Source::EmptyDisk { capacity } => Some(Prepare::Empty { bytes: order::whole_blocks(capacity.0) }),
            Source::ContainerDisk { image, .. } => {
                let (root, reference) = (paths::disk_root(disk, false), image.clone());
                let image = Image { root, reference, served: served(config) };
                Some(if fixed.is_some() { Prepare::Image(image) } else { Prepare::OnlyFile(image) })
            }
            Source::Claim { claim, .. } if cluster && block => {
                Some(Prepare::ClaimDevice { claim: claim.clone() })
            }
            Source::Claim { claim, .. } if cluster => {
                // What the guest cannot write stays as it is.
                let bytes = known.and_then(|facts| facts.bytes).filter(|_| !read_only && !overlay);
                Some(Prepare::ClaimFile { claim: claim.clone(), bytes })
            }
            Source::HostDisk { create, .. } if cluster => {
                // What the guest cannot write is not made for it.
                let bytes = create.filter(|_| !read_only).map(|capacity| order::whole_blocks(capacity.0));
                Some(Prepare::HostFile { bytes })
            }
            Source::HostDisk { .. } | Source::Claim { .. } => None,
        },
    })
}

fn nic(
    interface: &machine::Interface,
    facts: &NodeFacts,
    documented: bool,
    world: World,
) -> Result<order::Nic, MissingFact> {
    let made =
        facts.nics.get(&interface.name).ok_or_else(|| MissingFact::Nic { nic: interface.name.clone() })?;
    // The node agent has already made what a binding needs; the guest sees no difference.
    match interface.binding {
        Binding::Masquerade | Binding::Bridge => {}
    }
    Ok(order::Nic {
        name: interface.name.clone(),
        mac: made.mac.clone(),
        model: match interface.model {
            NicModel::Virtio => "virtio",
            NicModel::E1000 => "e1000",
            NicModel::E1000e => "e1000e",
            NicModel::Rtl8139 => "rtl8139",
        }
        .to_owned(),
        queues: interface.queues.max(1),
        tap: match (world, documented) {
            (World::Cluster, _) => Tap::Opened { bridge: made.bridge.clone(), resolver: true },
            (World::Machine, true) => {
                Tap::Created { interface: made.tap.clone(), bridge: made.bridge.clone(), mtu: made.mtu }
            }
            (World::Machine, false) => Tap::Passed,
        },
        boot_order: interface.boot_order,
        dhcp: made.lease.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_missing_fact_is_named() {
        let config = ClusterConfig::default();
        let mut machine = samples::plain();
        machine.interfaces = vec![samples::interface("default", Binding::Masquerade, 1)];
        let error = order(&machine, &config, &NodeFacts::new(Accelerator::Tcg)).unwrap_err();
        assert_eq!(error, MissingFact::Nic { nic: "default".into() });
        machine = samples::plain();
        machine.disks =
            vec![samples::disk("root", Source::ContainerDisk { image: "a/b".into(), path: None })];
        let error = order(&machine, &config, &NodeFacts::new(Accelerator::Tcg)).unwrap_err();
        assert_eq!(error, MissingFact::DiskFile { disk: "root".into() });
    }

    #[test]
    fn new_disks_end_with_a_block_since_qemu_refuses_others() {
        let mut machine = samples::plain();
        machine.disks = [1, 4096, 10_000_000, u64::MAX]
            .map(|bytes| samples::disk("data", Source::EmptyDisk { capacity: ferrovirt_model::Bytes(bytes) }))
            .into();
        let order = order(&machine, &ClusterConfig::default(), &NodeFacts::new(Accelerator::Tcg)).unwrap();
        let made = order.disks.iter().map(|disk| match disk.prepare {
            Some(Prepare::Empty { bytes }) => bytes,
            _ => panic!("{disk:?}"),
        });
        assert_eq!(made.collect::<Vec<_>>(), [4096, 4096, 10_002_432, u64::MAX]);
    }

    #[test]
    fn on_a_cluster_the_launcher_does_what_needs_a_look_at_files() {
        let config = ClusterConfig { world: World::Cluster, ..ClusterConfig::default() };
        let mut machine = samples::plain();
        machine.disks = samples::full().disks;
        machine.disks.push(samples::disk("any", Source::ContainerDisk { image: "a/b".into(), path: None }));
        let claim = |capacity: &str| {
            let claim = serde_json::json!({"status": {"capacity": {"storage": capacity}}});
            serde_json::from_value(claim).unwrap()
        };
        let claims = [("data".to_owned(), claim("1Gi")), ("block".to_owned(), claim("1Gi"))].into();
        let mut facts = NodeFacts::new(Accelerator::Tcg);
        facts.block_claims.insert("block".into());
        facts.disks = claim_facts(&machine, &claims);
        let order = order(&machine, &config, &facts).unwrap();
        let of = |name: &str| order.disks.iter().find(|disk| disk.name == name).unwrap().clone();
        let file = |bytes| Some(Prepare::ClaimFile { claim: "data".into(), bytes });
        assert_eq!(of("d4").prepare, file(Some(1 << 30)));
        assert_eq!([of("d5").prepare, of("d6").prepare], [file(None), file(None)], "read-only and overlay");
        assert_eq!(
            [of("d1").prepare, of("d2").prepare],
            [None, Some(64 << 20)].map(|bytes| Some(Prepare::HostFile { bytes }))
        );
        assert_eq!(of("d7").prepare, Some(Prepare::ClaimDevice { claim: "block".into() }));
        let Some(Prepare::SeedOf { files, mounted }) = of("d9").prepare else { panic!("{:?}", of("d9")) };
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["user-data", "meta-data"]);
        assert_eq!(mounted[0].directory, "/var/run/kubevirt-private/secret/d9-ndata");
        let any = of("any");
        assert_eq!(any.path, "/var/run/kubevirt-image-volume/any/disk");
        assert!(matches!(any.prepare, Some(Prepare::OnlyFile(_))), "{any:?}");
        assert_eq!(claim_bytes(&claim("0")), None);
    }

    #[test]
    fn on_a_cluster_the_launcher_has_the_queues_and_the_resolver() {
        let mut machine = samples::plain();
        machine.interfaces = vec![samples::interface("default", Binding::Masquerade, 2)];
        let mut facts = NodeFacts::new(Accelerator::Tcg);
        let made = NicFacts {
            mac: "02:00:00:00:00:01".into(),
            lease: None,
            tap: "tap0".into(),
            bridge: "k6t-eth0".into(),
            mtu: 1400,
        };
        facts.nics.insert("default".into(), made);
        for profile in [Profile::Minimal, Profile::Documented] {
            let config = ClusterConfig { profile, world: World::Cluster, ..ClusterConfig::default() };
            let order = order(&machine, &config, &facts).unwrap();
            assert_eq!(order.nics[0].tap, Tap::Opened { bridge: "k6t-eth0".into(), resolver: true });
            assert_eq!(order.nics[0].queues, 2);
        }
    }

    #[test]
    fn what_the_guest_may_write_decides_overlay_and_mode() {
        let mut machine = samples::plain();
        machine.disks = samples::full().disks;
        let mut facts = NodeFacts::new(Accelerator::Tcg);
        facts.block_claims.insert("block".into());
        let order = order(&machine, &ClusterConfig::default(), &facts).unwrap();
        let seen: Vec<_> =
            order.disks.iter().map(|disk| (disk.path.as_str(), disk.read_only, disk.overlay)).collect();
        assert_eq!(
            seen,
            [
                ("/var/run/kubevirt-image-volume/d0/disk/alpine.qcow2", false, true),
                ("/var/run/kubevirt-private/vmi-disks/d1/a.img", false, false),
                ("/var/run/kubevirt-private/vmi-disks/d2/b.img", false, false),
                ("/var/run/kubevirt-ephemeral-disks/disk-data-d3.img", false, false),
                ("/var/run/kubevirt-private/vmi-disks/d4/disk.img", false, false),
                ("/var/run/kubevirt-private/vmi-disks/d5/disk.img", true, false),
                ("/var/run/kubevirt-private/vmi-disks/d6/disk.img", false, true),
                ("/dev/d7", false, false),
                ("/dev/d8", true, false),
                ("/var/run/kubevirt-private/cloud-init-d9.iso", true, false),
            ]
        );
    }
}
