//! Features of a machine: the left column of the table.

use ferrovirt_model::machine::{
    Binding, Bus, Cpu, Devices, Disk, DiskTarget, Firmware, Interface, KernelBoot, Machine, Memory, NicModel,
    Payload, Port, Protocol, Scheduling, Source,
};
use std::{collections::BTreeSet, fmt};

/// What a machine, or the system itself, can do that needs rights.
///
/// Options that change the rights are features of their own, so that a read-only disk cannot get write access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Every machine: a launcher with QEMU in a pod.
    BaseMachine,
    /// Hardware virtualization.
    Kvm,
    /// Software emulation in its place.
    Emulation,
    /// An interface with a TAP, of any binding.
    Tap,
    /// An interface behind NAT in the pod.
    Masquerade,
    /// An interface on a bridge with the pod's own.
    Bridge,
    /// More than one queue on an interface.
    MultiQueue,
    /// Addresses for guests by DHCP.
    Dhcp,
    /// Guest memory in huge pages.
    HugePages,
    /// A disk in a container image below a throw-away overlay.
    ContainerDisk,
    /// Direct kernel boot.
    KernelBoot,
    /// A disk or kernel in a container image on a cluster that mounts no images.
    ServedImage,
    /// What all images need on a cluster that mounts none.
    ServedImages,
    /// A file of the node that is only read.
    HostDiskRead,
    /// A file of the node that is written.
    HostDiskWrite,
    /// A file of the node that is made, with its directory, when it is missing, and written.
    HostDiskCreate,
    /// A claim in file-system mode that is only read.
    ClaimFileRead,
    /// A claim in file-system mode that is written.
    ClaimFileWrite,
    /// A claim in block mode that is only read.
    ClaimBlockRead,
    /// A claim in block mode that is written.
    ClaimBlockWrite,
    /// Throw-away overlays of disks.
    Overlay,
    /// Scratch disks that are written.
    EmptyDisk,
    /// Scratch disks that are only read.
    EmptyDiskRead,
    /// A NoCloud seed.
    CloudInit,
    /// A NoCloud seed whose contents are in a secret.
    CloudInitSecret,
    /// The same on a cluster, where the secret is mounted.
    CloudInitMounted,
    /// A VGA adapter with VNC.
    Graphics,
    /// A serial port with a console.
    SerialConsole,
    /// Virtual functions of network cards. Documented; machines cannot ask for it yet.
    Sriov,
    /// An SELinux type and an MCS pair of the machine's own.
    SelinuxLabel,
    /// A user namespace of the pod's own, on a cluster.
    UserNamespace,
    /// Claims that are used by a group, on a cluster.
    VolumeGroup,
    /// A place on a node of a cluster, where the parts of the handler meet the launcher.
    Slot,
    /// The controllers and the node agent.
    ControlPlane,
    /// SCC admission by webhook, where the cluster has none.
    SccWebhook,
    /// Defaults, validation and rights of machines by webhook, where the API server is not ours.
    MachineApi,
    /// People.
    UserRoles,
}

impl Feature {
    /// Every feature, in the order of the documents.
    pub const ALL: [Self; 37] = [
        Self::BaseMachine,
        Self::Kvm,
        Self::Emulation,
        Self::Tap,
        Self::Masquerade,
        Self::Bridge,
        Self::MultiQueue,
        Self::Dhcp,
        Self::HugePages,
        Self::ContainerDisk,
        Self::KernelBoot,
        Self::ServedImage,
        Self::ServedImages,
        Self::HostDiskRead,
        Self::HostDiskWrite,
        Self::HostDiskCreate,
        Self::ClaimFileRead,
        Self::ClaimFileWrite,
        Self::ClaimBlockRead,
        Self::ClaimBlockWrite,
        Self::Overlay,
        Self::EmptyDisk,
        Self::EmptyDiskRead,
        Self::CloudInit,
        Self::CloudInitSecret,
        Self::CloudInitMounted,
        Self::Graphics,
        Self::SerialConsole,
        Self::Sriov,
        Self::SelinuxLabel,
        Self::UserNamespace,
        Self::VolumeGroup,
        Self::Slot,
        Self::ControlPlane,
        Self::SccWebhook,
        Self::MachineApi,
        Self::UserRoles,
    ];

    /// The name in texts and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::BaseMachine => "base machine",
            Self::Kvm => "KVM",
            Self::Emulation => "software emulation",
            Self::Tap => "TAP networking",
            Self::Masquerade => "masquerade binding",
            Self::Bridge => "bridge binding",
            Self::MultiQueue => "multi-queue",
            Self::Dhcp => "DHCP",
            Self::HugePages => "huge pages",
            Self::ContainerDisk => "container disk",
            Self::KernelBoot => "kernel boot",
            Self::ServedImage => "image without image volumes",
            Self::ServedImages => "what images without image volumes share",
            Self::HostDiskRead => "read-only host disk",
            Self::HostDiskWrite => "host disk",
            Self::HostDiskCreate => "host disk made when missing",
            Self::ClaimFileRead => "read-only file claim",
            Self::ClaimFileWrite => "file claim",
            Self::ClaimBlockRead => "read-only block claim",
            Self::ClaimBlockWrite => "block claim",
            Self::Overlay => "throw-away overlay",
            Self::EmptyDisk => "empty disk",
            Self::EmptyDiskRead => "read-only empty disk",
            Self::CloudInit => "cloud-init",
            Self::CloudInitSecret => "cloud-init from a secret",
            Self::CloudInitMounted => "cloud-init from a mounted secret",
            Self::Graphics => "graphics",
            Self::SerialConsole => "serial console",
            Self::Sriov => "SR-IOV",
            Self::SelinuxLabel => "SELinux label",
            Self::UserNamespace => "user namespace",
            Self::VolumeGroup => "group of claims",
            Self::Slot => "place on a node",
            Self::ControlPlane => "control plane",
            Self::SccWebhook => "SCC webhook",
            Self::MachineApi => "machine API",
            Self::UserRoles => "user roles",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the rights of a machine depend on beside the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The cluster allows software emulation instead of /dev/kvm.
    pub emulation: bool,
    /// Names of the claims in the machine's namespace that are in block mode.
    pub block_claims: BTreeSet<String>,
    /// The SELinux label of the machine's pod; none where launcher pods are not labelled.
    pub label: Option<Label>,
    /// The machine's pod has a user namespace of its own.
    pub user_namespace: bool,
    /// Kubelets run the pods, and launchers are met in places that a device plug-in offers.
    pub slot: bool,
    /// The group by which launchers use claims in file-system mode.
    pub volume_group: Option<u32>,
    /// The launcher's image, where the cluster mounts no images: a program of it gives out what is in others.
    pub image_helper: Option<String>,
}

/// The SELinux label of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The type of its processes.
    pub kind: String,
    /// Its MCS level, such as `s0:c12,c345`.
    pub level: String,
}

/// One use of a feature by a machine, with the texts that fill the placeholders of its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) feature: Feature,
    pub(crate) texts: Vec<(&'static str, String)>,
}

/// The features of a machine.
pub fn features(machine: &Machine, surroundings: &Surroundings) -> BTreeSet<Feature> {
    uses(machine, surroundings).into_iter().map(|used| used.feature).collect()
}

/// Every use of a feature by the machine. The whole model is taken apart here without a rest pattern: a field of
/// the model that no feature claims is bound to `_` with the reason beside it.
pub(crate) fn uses(machine: &Machine, surroundings: &Surroundings) -> Vec<Use> {
    let Machine {
        // Identity: every machine has it.
        namespace: _,
        name: _,
        uid: _,
        cpu,
        memory,
        // A type of QEMU's own emulation.
        machine_type: _,
        firmware,
        disks,
        interfaces,
        devices,
        // What the guest is shown.
        acpi: _,
        // When QEMU ends; the launcher ends its own child and needs no right for it.
        grace_seconds: _,
        // QMP between the launcher and its own child.
        start_paused: _,
        scheduling,
    } = machine;
    let mut out = vec![plain(Feature::BaseMachine)];
    out.push(plain(if surroundings.emulation { Feature::Emulation } else { Feature::Kvm }));
    cpu_uses(cpu);
    memory_uses(memory, &mut out);
    firmware_uses(firmware, surroundings, &mut out);
    for disk in disks {
        disk_uses(disk, surroundings, &mut out);
    }
    for interface in interfaces {
        interface_uses(interface, &mut out);
    }
    device_uses(devices, &mut out);
    scheduling_uses(scheduling);
    if let Some(Label { kind, level }) = &surroundings.label {
        out.push(with(Feature::SelinuxLabel, &[("{label-type}", kind), ("{label-level}", level)]));
    }
    if surroundings.user_namespace {
        out.push(plain(Feature::UserNamespace));
    }
    if surroundings.slot {
        out.push(plain(Feature::Slot));
    }
    out
}

fn plain(feature: Feature) -> Use {
    Use { feature, texts: Vec::new() }
}

fn with(feature: Feature, texts: &[(&'static str, &str)]) -> Use {
    Use { feature, texts: texts.iter().map(|(name, text)| (*name, (*text).to_owned())).collect() }
}

/// Processors are threads of QEMU; time is a share, not a right. Nothing claims a field of this type.
fn cpu_uses(cpu: &Cpu) {
    let Cpu { sockets: _, cores: _, threads: _, model: _, request_millis: _, limit_millis: _ } = cpu;
}

fn memory_uses(memory: &Memory, out: &mut Vec<Use>) {
    // Ordinary memory is a share, counted by the pod's cgroup.
    let Memory { guest, huge_pages, request: _, limit: _ } = memory;
    if let Some(page) = huge_pages {
        let quantity = guest.to_string();
        out.push(with(Feature::HugePages, &[("{page}", &page.to_string()), ("{size}", &quantity)]));
    }
}

fn firmware_uses(firmware: &Firmware, surroundings: &Surroundings, out: &mut Vec<Use>) {
    // Texts in SMBIOS tables.
    let Firmware { uuid: _, serial: _, kernel_boot } = firmware;
    if let Some(KernelBoot { image, kernel_path: _, initrd_path: _, args: _ }) = kernel_boot {
        image_uses(Feature::KernelBoot, KERNEL_VOLUME, image, surroundings, out);
    }
}

/// The volume of a kernel's image.
const KERNEL_VOLUME: &str = "kernel-boot-volume";

/// An image that is mounted, or served where none is.
fn image_uses(mounted: Feature, volume: &str, image: &str, surroundings: &Surroundings, out: &mut Vec<Use>) {
    let texts = [("{volume}", volume), ("{image}", image)];
    match &surroundings.image_helper {
        None => out.push(with(mounted, &texts)),
        Some(helper) => {
            out.push(with(Feature::ServedImage, &texts));
            out.push(with(Feature::ServedImages, &[("{helper}", helper)]));
        }
    }
}

fn disk_uses(disk: &Disk, surroundings: &Surroundings, out: &mut Vec<Use>) {
    let Disk {
        name,
        target,
        bus,
        read_only,
        // Shown to the guest.
        serial: _,
        boot_order: _,
        // O_DIRECT is a flag of open, not a right.
        cache: _,
        source,
    } = disk;
    // Emulated controllers.
    match bus {
        Bus::Virtio | Bus::Sata | Bus::Scsi | Bus::Usb => {}
    }
    let read_only = *read_only
        || match target {
            DiskTarget::Cdrom => true,
            DiskTarget::Disk => false,
        };
    match source {
        Source::ContainerDisk { image, path: _ } => {
            image_uses(Feature::ContainerDisk, name, image, surroundings, out);
            if !read_only {
                out.push(plain(Feature::Overlay));
            }
        }
        Source::HostDisk { path, create } => {
            let directory = parent(path);
            let feature = match (read_only, create) {
                (true, _) => Feature::HostDiskRead,
                (false, None) => Feature::HostDiskWrite,
                (false, Some(_capacity)) => Feature::HostDiskCreate,
            };
            out.push(with(feature, &[("{volume}", name), ("{directory}", directory)]));
        }
        Source::EmptyDisk { capacity: _ } => {
            let feature = if read_only { Feature::EmptyDiskRead } else { Feature::EmptyDisk };
            out.push(with(feature, &[("{volume}", name)]));
        }
        Source::Claim { claim, read_only: claim_read_only, ephemeral } => {
            let written = !(read_only || *claim_read_only || *ephemeral);
            let feature = match (surroundings.block_claims.contains(claim), written) {
                (false, false) => Feature::ClaimFileRead,
                (false, true) => Feature::ClaimFileWrite,
                (true, false) => Feature::ClaimBlockRead,
                (true, true) => Feature::ClaimBlockWrite,
            };
            out.push(with(feature, &[("{volume}", name), ("{claim}", claim)]));
            let files = matches!(feature, Feature::ClaimFileRead | Feature::ClaimFileWrite);
            if let Some(group) = surroundings.volume_group.filter(|_| files) {
                out.push(with(Feature::VolumeGroup, &[("{group}", &group.to_string())]));
            }
            if *ephemeral && !read_only {
                out.push(plain(Feature::Overlay));
            }
        }
        Source::CloudInit { user_data, network_data } => {
            out.push(with(Feature::CloudInit, &[("{volume}", name)]));
            // QEMU has no read-only SATA disks: the guest writes to an overlay of the seed.
            if *bus == Bus::Sata && *target == DiskTarget::Disk {
                out.push(plain(Feature::Overlay));
            }
            for (payload, suffix, keys) in [
                (user_data, "udata", "userdata,userData"),
                (network_data, "ndata", "networkdata,networkData"),
            ] {
                let Some(Payload::Secret(secret)) = payload else { continue };
                out.push(if surroundings.slot {
                    let texts = [
                        ("{mount}", format!("{name}-{suffix}")),
                        ("{secret}", secret.clone()),
                        ("{keys}", keys.to_owned()),
                    ];
                    Use { feature: Feature::CloudInitMounted, texts: texts.into() }
                } else {
                    with(Feature::CloudInitSecret, &[("{volume}", name), ("{secret}", secret)])
                });
            }
        }
    }
}

fn interface_uses(interface: &Interface, out: &mut Vec<Use>) {
    let Interface {
        name,
        model,
        // Shown to the guest.
        mac: _,
        boot_order: _,
        binding,
        ports,
        queues,
    } = interface;
    // Emulated devices.
    match model {
        NicModel::Virtio | NicModel::E1000 | NicModel::E1000e | NicModel::Rtl8139 => {}
    }
    // Which ports are forwarded is a line of the pod's own address translation, part of the binding.
    for Port { name: _, protocol, port: _ } in ports {
        match protocol {
            Protocol::Tcp | Protocol::Udp => {}
        }
    }
    let nic = [("{nic}", name.as_str())];
    out.push(with(Feature::Tap, &nic));
    out.push(match binding {
        Binding::Masquerade => with(Feature::Masquerade, &nic),
        Binding::Bridge => with(Feature::Bridge, &nic),
    });
    out.push(with(Feature::Dhcp, &nic));
    if *queues > 1 {
        out.push(with(Feature::MultiQueue, &nic));
    }
}

fn device_uses(devices: &Devices, out: &mut Vec<Use>) {
    let Devices {
        graphics,
        serial_console,
        // QEMU gives memory of its own back.
        balloon: _,
        // The system call getrandom, part of the base profile.
        rng: _,
        // Threads of QEMU.
        block_multi_queue: _,
    } = devices;
    if *graphics {
        out.push(plain(Feature::Graphics));
    }
    if *serial_console {
        out.push(plain(Feature::SerialConsole));
    }
}

/// What the scheduler and the namespace are asked, with their own checks. Nothing claims a field of this type: the
/// pod gets no token even where a service account is named.
fn scheduling_uses(scheduling: &Scheduling) {
    let Scheduling {
        node_selector: _,
        hostname: _,
        subdomain: _,
        service_account: _,
        priority_class: _,
        scheduler: _,
    } = scheduling;
}

/// The directory of an absolute path.
fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_path() {
        assert_eq!(parent("/disk.img"), "/");
        assert_eq!(parent("/var/lib/disk.img"), "/var/lib");
    }
}
