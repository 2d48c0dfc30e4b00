//! One machine, validated.

use crate::size::{Bytes, PageSize};

/// The kernel's limit of queues of one TAP device, and KubeVirt's cap (`MultiQueueMaxQueues`).
pub const MAX_TAP_QUEUES: u32 = 256;

/// A validated machine: a VirtualMachineInstance whose every field is known, supported and consistent.
///
/// Code that collects grants destructures this type without a rest pattern, so that a new field breaks the build
/// until someone says which feature claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Namespace of the machine and of its pod; a DNS label.
    pub namespace: String,
    /// Name of the machine; a DNS subdomain.
    pub name: String,
    /// UID of the VirtualMachineInstance; empty when the machine was read from a file.
    pub uid: String,
    /// Processors.
    pub cpu: Cpu,
    /// Guest memory.
    pub memory: Memory,
    /// QEMU machine type, such as `q35`.
    pub machine_type: String,
    /// Identity and boot.
    pub firmware: Firmware,
    /// Disks in the order of the manifest, each with the volume behind it.
    pub disks: Vec<Disk>,
    /// Network interfaces in order.
    pub interfaces: Vec<Interface>,
    /// The small devices.
    pub devices: Devices,
    /// ACPI is offered to the guest; without it a graceful shutdown is impossible.
    pub acpi: bool,
    /// Seconds between the request for an ACPI shutdown and the end of QEMU.
    pub grace_seconds: u32,
    /// The guest is not started until it is unpaused.
    pub start_paused: bool,
    /// What the pod asks of the scheduler and of its namespace, passed through as it is.
    pub scheduling: Scheduling,
}

/// Processor topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// At least 1.
    pub sockets: u32,
    /// Per socket, at least 1.
    pub cores: u32,
    /// Per core, at least 1.
    pub threads: u32,
    /// A QEMU CPU model, `host-model` or `host-passthrough`.
    pub model: String,
    /// CPU request in thousandths of a processor, where the user gave one.
    pub request_millis: Option<u64>,
    /// CPU limit in thousandths of a processor.
    pub limit_millis: Option<u64>,
}

impl Cpu {
    /// The product of the topology. Validation keeps it within `u32`.
    pub fn vcpus(&self) -> u32 {
        self.sockets.saturating_mul(self.cores).saturating_mul(self.threads)
    }
}

/// Guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the guest sees.
    pub guest: Bytes,
    /// Size of the pages that back all of it; `guest` is a multiple.
    pub huge_pages: Option<PageSize>,
    /// Memory request of the user, before overhead.
    pub request: Option<Bytes>,
    /// Memory limit of the user, before overhead.
    pub limit: Option<Bytes>,
}

/// Identity and boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// SMBIOS UUID, canonical form.
    pub uuid: String,
    /// SMBIOS serial.
    pub serial: Option<String>,
    /// Boot a kernel directly instead of a disk.
    pub kernel_boot: Option<KernelBoot>,
}

/// Direct kernel boot (`spec.domain.firmware.kernelBoot`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelBoot {
    /// Image that holds the files.
    pub image: String,
    /// Absolute path of the kernel in the image.
    pub kernel_path: Option<String>,
    /// Absolute path of the initial RAM file system in the image.
    pub initrd_path: Option<String>,
    /// Kernel command line.
    pub args: String,
}

/// A disk of the guest and the volume behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Name of disk and volume; a DNS label.
    pub name: String,
    /// How the guest sees it.
    pub target: DiskTarget,
    /// The bus.
    pub bus: Bus,
    /// The guest cannot write it.
    pub read_only: bool,
    /// Serial number shown to the guest.
    pub serial: Option<String>,
    /// Boot position, from 1.
    pub boot_order: Option<u32>,
    /// QEMU cache mode; chosen by the launcher's command line when absent.
    pub cache: Option<Cache>,
    /// Where the bytes are.
    pub source: Source,
}

/// How the guest sees a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskTarget {
    /// A hard disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
}

/// The bus of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// AHCI.
    Sata,
    /// virtio-scsi.
    Scsi,
    /// USB storage.
    Usb,
}

/// Cache mode of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// O_DIRECT.
    None,
    /// Host page cache for reads, writes go through.
    Writethrough,
    /// Host page cache.
    Writeback,
}

/// Where the bytes of a disk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of a container image below a throw-away overlay.
    ContainerDisk {
        /// Image reference, resolved by the node.
        image: String,
        /// Path in the image; the only file of `/disk` when absent.
        path: Option<String>,
    },
    /// A file of the node.
    HostDisk {
        /// Absolute path of the file on the node.
        path: String,
        /// Made with this capacity when it is missing (`DiskOrCreate`).
        create: Option<Bytes>,
    },
    /// Scratch space that ends with the machine.
    EmptyDisk {
        /// Size that the guest sees.
        capacity: Bytes,
    },
    /// A claim in file-system or block mode; the mode is the claim's.
    Claim {
        /// Name of the PersistentVolumeClaim in the machine's namespace.
        claim: String,
        /// The claim is mounted read-only.
        read_only: bool,
        /// Writes go to a throw-away overlay.
        ephemeral: bool,
    },
    /// A NoCloud seed (`cloudInitNoCloud`).
    CloudInit {
        /// User data: text or the name of a secret.
        user_data: Option<Payload>,
        /// Network data: text or the name of a secret.
        network_data: Option<Payload>,
    },
}

/// Bytes given in the machine or kept in a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The bytes themselves (base64 already decoded).
    Inline(Vec<u8>),
    /// Name of a secret in the machine's namespace.
    Secret(String),
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of interface and network: letters, digits, `-` and `_`, of any length. Not fit for a device name as it is.
    pub name: String,
    /// Device model of the guest.
    pub model: NicModel,
    /// Fixed MAC address; derived from the machine's UID by the node agent when absent.
    pub mac: Option<[u8; 6]>,
    /// Boot position, from 1.
    pub boot_order: Option<u32>,
    /// How it reaches the pod network.
    pub binding: Binding,
    /// Ports forwarded to the guest; every port when empty.
    pub ports: Vec<Port>,
    /// Queues: the number of vCPUs, at most [`MAX_TAP_QUEUES`], where multi-queue is asked for and the model is
    /// virtio; otherwise 1. With 1 the TAP is made without the multi-queue flag.
    pub queues: u32,
}

/// Device model of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicModel {
    /// virtio-net.
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// RTL8139.
    Rtl8139,
}

/// How an interface reaches the pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Behind NAT in the pod.
    Masquerade,
    /// On a bridge with the pod's interface; the guest takes over the pod's address.
    Bridge,
}

/// A forwarded port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name, where given.
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number; never zero.
    pub port: u16,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The small devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// A VGA adapter with VNC.
    pub graphics: bool,
    /// A serial port with a console socket.
    pub serial_console: bool,
    /// A memory balloon.
    pub balloon: bool,
    /// A virtio random number generator.
    pub rng: bool,
    /// One queue for each vCPU on virtio disks.
    pub block_multi_queue: bool,
}

/// Passed through to the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Node labels that are required.
    pub node_selector: std::collections::BTreeMap<String, String>,
    /// Host name of the guest and pod; a DNS label.
    pub hostname: Option<String>,
    /// Subdomain of the pod.
    pub subdomain: Option<String>,
    /// Service account of the pod.
    pub service_account: Option<String>,
    /// Priority class of the pod.
    pub priority_class: Option<String>,
    /// Scheduler of the pod.
    pub scheduler: Option<String>,
}
