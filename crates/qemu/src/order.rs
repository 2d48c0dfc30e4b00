//! The order: everything that a launcher needs to know to run one guest, decided elsewhere.
//!
//! `ferrovirt-plan` renders it, the node agent sends it together with open descriptors, the launcher obeys. All
//! paths are paths inside the launcher's container.

use crate::seed;
use serde::{Deserialize, Serialize};

/// Version of [`Order`]; a launcher refuses every other.
pub const VERSION: u32 = 1;

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Order {
    /// Always [`VERSION`].
    pub version: u32,
    /// `namespace_name`, shown as the guest's name by QEMU.
    pub name: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// SMBIOS serial.
    pub serial_number: Option<String>,
    /// QEMU machine type.
    pub machine: String,
    /// Accelerator.
    pub accelerator: Accelerator,
    /// QEMU CPU model (`max`, `host`, or a named one).
    pub cpu_model: String,
    /// Sockets, each with `cores` cores.
    pub sockets: u32,
    /// Cores, each with `threads` threads.
    pub cores: u32,
    /// Threads of one core.
    pub threads: u32,
    /// Guest memory.
    pub memory: Memory,
    /// Direct kernel boot; firmware boots the disks otherwise.
    pub kernel: Option<Kernel>,
    /// Disks in order.
    pub disks: Vec<Disk>,
    /// Network interfaces in order.
    pub nics: Vec<Nic>,
    /// A serial port.
    pub serial: bool,
    /// A VGA adapter with VNC.
    pub graphics: bool,
    /// A memory balloon.
    pub balloon: bool,
    /// A virtio random number generator.
    pub rng: bool,
    /// ACPI is offered to the guest.
    pub acpi: bool,
    /// Leave the guest paused after start.
    pub start_paused: bool,
    /// Seconds that a graceful shutdown may take.
    pub grace_seconds: u32,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Accelerator {
    /// The host's virtualization extensions, through /dev/kvm.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// Guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Memory {
    /// Size in bytes.
    pub bytes: u64,
    /// What backs it.
    pub backing: Backing,
}

/// What backs guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Backing {
    /// Ordinary pages.
    Anonymous,
    /// An anonymous file of huge pages: needs no mount and no permission on a directory.
    HugeMemfd {
        /// Bytes of a page.
        page_bytes: u64,
    },
    /// A file that QEMU creates and unlinks in a hugetlbfs directory, as the documented profile's rules describe.
    HugeDirectory {
        /// The directory.
        path: String,
    },
}

/// Direct kernel boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Kernel {
    /// Kernel image.
    pub kernel: Option<String>,
    /// Initial RAM file system.
    pub initrd: Option<String>,
    /// Kernel command line.
    pub args: String,
    /// Where both are, for the launcher to look whether they are there; it does not look where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// An image in the launcher's pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Image {
    /// Where it is.
    pub root: String,
    /// Its reference, for messages.
    pub reference: String,
    /// A socket is in the place of the image's files, at which a container of the image gives out descriptors of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Disk {
    /// Name, a DNS label, unique in the order.
    pub name: String,
    /// File or block device.
    pub path: String,
    /// Format of the bytes.
    pub format: Format,
    /// Opened read-only.
    pub read_only: bool,
    /// Writes go to a temporary overlay that ends with QEMU.
    pub overlay: bool,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// The bus.
    pub bus: Bus,
    /// Serial number shown to the guest.
    pub serial: Option<String>,
    /// Boot position, from 1.
    pub boot_order: Option<u32>,
    /// Cache mode.
    pub cache: Cache,
    /// Queues of a virtio disk; 1 for one queue.
    pub queues: u32,
    /// What the launcher does about the file before QEMU opens it. Orders of earlier agents, which did it themselves,
    /// have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare: Option<Prepare>,
}

/// What a launcher does about a disk's file before QEMU opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Prepare {
    /// Makes the image of a NoCloud seed at the disk's path, of the files that came for this disk before the order.
    Seed,
    /// Looks for the disk's file in an image, on a path below its root without any link, and sets the disk's format by the
    /// file's first bytes. Only where the guest cannot write: of what it can, it would choose the format.
    Image(Image),
    /// Looks for the one regular file of the directory at the disk's path, sets the path to it, and goes on as for
    /// [`Prepare::Image`]: a machine need not say what the file in `/disk` of an image is called.
    OnlyFile(Image),
    /// Makes an empty, sparse file at the disk's path, in place of any other.
    Empty {
        /// Its size.
        bytes: u64,
    },
    /// Makes the image of a NoCloud seed at the disk's path, of what is here and of secrets that the pod has mounted:
    /// nothing has to come before the order.
    SeedOf {
        /// Files that stand in the order.
        files: Vec<Inline>,
        /// Files that are keys of secrets.
        mounted: Vec<Mounted>,
    },
    /// Looks whether the file of a claim is there and can be opened, and makes it where there is none.
    ClaimFile {
        /// Name of the claim, for messages.
        claim: String,
        /// Bytes of the claim: the size of a new file, or up to a tenth less where the file system has less room.
        /// Where it is absent, no file is made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// Looks whether the block device of a claim is there and can be opened.
    ClaimDevice {
        /// Name of the claim, for messages.
        claim: String,
    },
    /// Looks whether a file of the node is there and can be opened.
    HostFile {
        /// Size of a new file where there is none. Where it is absent, no file is made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
}

/// The size of a new raw disk: `bytes`, up to whole blocks of 4096, since QEMU refuses to open a file whose end lies within a
/// block of its file system (`O_DIRECT`), as 10M would.
pub fn whole_blocks(bytes: u64) -> u64 {
    const BLOCK: u64 = 4096;
    bytes.checked_next_multiple_of(BLOCK).unwrap_or(bytes)
}

/// A file of a seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Inline {
    /// Name in the root of the seed.
    pub name: String,
    /// What is in it.
    pub content: seed::Content,
}

/// A file of a seed that is a key of a secret, mounted as the kubelet does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mounted {
    /// Name in the root of the seed.
    pub name: String,
    /// Where the volume is mounted.
    pub directory: String,
    /// Keys, of which the first one that is there is taken.
    pub keys: Vec<String>,
    /// The secret, for messages.
    pub secret: String,
}

/// Format of a disk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// As they are.
    Raw,
    /// QEMU copy-on-write.
    Qcow2,
}

/// Bus of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cache {
    /// Direct, with native asynchronous I/O, where the file system can; writethrough otherwise. The launcher
    /// finds out by opening the file.
    Auto,
    /// O_DIRECT.
    None,
    /// Host page cache for reads, writes go through.
    Writethrough,
    /// Host page cache.
    Writeback,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Nic {
    /// Name, a DNS label, unique in the order.
    pub name: String,
    /// MAC address, `02:00:00:00:00:01` form.
    pub mac: String,
    /// QEMU device model: virtio, e1000, e1000e, rtl8139.
    pub model: String,
    /// Queues of the TAP; 1 means a TAP without the multi-queue flag.
    pub queues: u32,
    /// Where the TAP comes from.
    pub tap: Tap,
    /// Boot position, from 1.
    pub boot_order: Option<u32>,
    /// What the guest gets by DHCP; nobody answers when absent.
    pub dhcp: Option<Lease>,
}

/// Where a TAP comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tap {
    /// The node agent opened every queue and sends the descriptors with the order (minimal profile).
    Passed,
    /// The launcher opened every queue and sent copies ([`crate::protocol::Request::Network`]), and the handler has made
    /// them queues. The launcher also opens the socket for DHCP (minimal profile, on nodes with device plug-ins).
    Opened {
        /// Bridge in the pod's network namespace, on which DHCP is answered.
        bridge: String,
        /// The guest's name servers and search domains are those of the container's own `/etc/resolv.conf`, which nobody
        /// outside can read.
        #[serde(default)]
        resolver: bool,
    },
    /// The launcher creates it, opens every queue, attaches it to the bridge and sets it up, with the
    /// capability NET_ADMIN and /dev/net/tun (documented profile).
    Created {
        /// Interface name, at most 15 bytes.
        interface: String,
        /// Bridge in the pod's network namespace.
        bridge: String,
        /// Maximum transmission unit in bytes.
        mtu: u32,
    },
}

/// The one DHCP lease that an interface's guest gets. Addresses in dotted form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Lease {
    /// Address of the guest.
    pub address: std::net::Ipv4Addr,
    /// Prefix length of the guest's network.
    pub prefix: u8,
    /// Address of the server, on the pod's bridge.
    pub server: std::net::Ipv4Addr,
    /// Default gateway.
    pub gateway: Option<std::net::Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<std::net::Ipv4Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Host name.
    pub hostname: String,
    /// MTU in bytes.
    pub mtu: u16,
}
