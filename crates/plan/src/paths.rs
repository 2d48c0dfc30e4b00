//! Paths inside a virt-launcher pod, shared by rendering, orders and the node agent.

use ferrovirt_model::machine::{Disk, Source};

/// What clients and the node agent see of the pod.
pub const PUBLIC: &str = "/var/run/kubevirt";
/// Sockets of launcher and QEMU.
pub const SOCKETS: &str = "/var/run/kubevirt/sockets";
/// What only launcher and node agent see.
pub const PRIVATE: &str = "/var/run/kubevirt-private";
/// Scratch space: overlays and empty disks.
pub const EPHEMERAL: &str = "/var/run/kubevirt-ephemeral-disks";
/// Below it is a directory for each volume of type image.
pub const IMAGES: &str = "/var/run/kubevirt-image-volume";
/// Name of the volume that holds the kernel of a direct boot.
pub const KERNEL_VOLUME: &str = "kernel-boot-volume";
/// The hugetlbfs of the documented profile.
pub const HUGE_PAGES: &str = "/dev/hugepages";

/// The directory that holds the kernel and initial RAM file system of a direct boot.
pub fn kernel_directory() -> String {
    format!("{IMAGES}/{KERNEL_VOLUME}")
}

/// The directory, or the block device, that holds the bytes of a disk. `block` says that its claim is in block mode.
pub fn disk_root(disk: &Disk, block: bool) -> String {
    let name = &disk.name;
    match &disk.source {
        Source::ContainerDisk { .. } => format!("{IMAGES}/{name}"),
        Source::HostDisk { .. } => format!("{PRIVATE}/vmi-disks/{name}"),
        Source::EmptyDisk { .. } => format!("{EPHEMERAL}/disk-data/{name}"),
        Source::Claim { .. } if block => format!("/dev/{name}"),
        Source::Claim { .. } => format!("{PRIVATE}/vmi-disks/{name}"),
        Source::CloudInit { .. } => format!("{PRIVATE}/cloud-init/{name}"),
    }
}

/// The file of a disk where its name is fixed: everything but the file of a container disk whose path is not given,
/// which the node agent finds in `/disk` of the image.
pub fn disk_file(disk: &Disk, block: bool) -> Option<String> {
    let root = disk_root(disk, block);
    match &disk.source {
        Source::ContainerDisk { path, .. } => path.as_ref().map(|path| join(&root, path)),
        Source::HostDisk { path, .. } => path.rsplit_once('/').map(|(_, file)| join(&root, file)),
        Source::EmptyDisk { .. } => Some(join(&root, "disk.img")),
        Source::Claim { .. } if block => Some(root),
        Source::Claim { .. } => Some(join(&root, "disk.img")),
        Source::CloudInit { .. } => Some(join(&root, "seed.iso")),
    }
}

/// `path`, absolute or not, below `root`.
pub fn join(root: &str, path: &str) -> String {
    format!("{root}/{}", path.trim_start_matches('/'))
}
