//! Paths inside a virt-launcher pod, shared by rendering, orders and the node agent.

use ferrovirt_model::machine::{Disk, Source};

/// Where a device plug-in has the directory of a launcher's place mounted, on a cluster.
pub const SLOT: &str = "/run/ferrovirt";
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
/// Where containers of images find the program that gives out what is in them.
pub const IMAGE_HELPER: &str = "/var/run/kubevirt-image-helper";
/// Directory of an image in which its disk is.
pub const IMAGE_DISKS: &str = "disk";
/// Below it is a directory for each secret of a seed.
pub const SECRETS: &str = "/var/run/kubevirt-private/secret";
/// Name of the volume that holds the kernel of a direct boot.
pub const KERNEL_VOLUME: &str = "kernel-boot-volume";
/// The hugetlbfs of the documented profile.
pub const HUGE_PAGES: &str = "/dev/hugepages";

/// The directory that holds the kernel and initial RAM file system of a direct boot.
pub fn kernel_directory() -> String {
    format!("{IMAGES}/{KERNEL_VOLUME}")
}

/// Nodes in a container's `/dev` that are its runtime's or a plug-in's, which no claim takes the place of.
const SYSTEM_DEVICES: [&str; 20] = [
    "console",
    "core",
    "fd",
    "full",
    "hugepages",
    "kvm",
    "mqueue",
    "net",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "vhost-net",
    "zero",
];

/// Whether a launcher pod may have something mounted here: the directories above, and in them one for each volume. All of
/// them lie in file systems of the container's own, in which its runtime makes what is missing.
pub fn is_mount_point(path: &str) -> bool {
    let volumes = [IMAGES, SECRETS, &format!("{PRIVATE}/vmi-disks")];
    let of_a_volume = |root: &&str| path.strip_prefix(*root).and_then(|rest| rest.strip_prefix('/'));
    [PUBLIC, SOCKETS, PRIVATE, EPHEMERAL, HUGE_PAGES].contains(&path)
        || volumes.iter().find_map(of_a_volume).is_some_and(is_volume)
}

/// Whether a claim in block mode may be a device node of this path.
pub fn is_claim_device(path: &str) -> bool {
    let name = path.strip_prefix("/dev/").filter(|name| is_volume(name));
    name.is_some_and(|name| !SYSTEM_DEVICES.contains(&name))
}

/// Names of volumes are DNS labels.
fn is_volume(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

/// The directory that holds the file of a disk, or the file or block device itself: what the launcher makes lies beside the
/// other things of a volume, so that it makes no directories. `block` says that its claim is in block mode.
pub fn disk_root(disk: &Disk, block: bool) -> String {
    let name = &disk.name;
    match &disk.source {
        Source::ContainerDisk { .. } => format!("{IMAGES}/{name}"),
        Source::HostDisk { .. } => format!("{PRIVATE}/vmi-disks/{name}"),
        Source::EmptyDisk { .. } => format!("{EPHEMERAL}/disk-data-{name}.img"),
        Source::Claim { .. } if block => format!("/dev/{name}"),
        Source::Claim { .. } => format!("{PRIVATE}/vmi-disks/{name}"),
        Source::CloudInit { .. } => format!("{PRIVATE}/cloud-init-{name}.iso"),
    }
}

/// The file of a disk where its name is fixed: everything but the file of a container disk whose path is not given,
/// which is found in `/disk` of the image.
pub fn disk_file(disk: &Disk, block: bool) -> Option<String> {
    let root = disk_root(disk, block);
    match &disk.source {
        Source::ContainerDisk { path, .. } => path.as_ref().map(|path| join(&root, path)),
        Source::HostDisk { path, .. } => path.rsplit_once('/').map(|(_, file)| join(&root, file)),
        Source::EmptyDisk { .. } | Source::CloudInit { .. } => Some(root),
        Source::Claim { .. } if block => Some(root),
        Source::Claim { .. } => Some(join(&root, "disk.img")),
    }
}

/// `path`, absolute or not, below `root`.
pub fn join(root: &str, path: &str) -> String {
    format!("{root}/{}", path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ClusterConfig, render, samples};
    use ferrovirt_api::kubevirt::VirtualMachineInstance;
    use ferrovirt_model::Profile;

    #[test]
    fn whatever_is_rendered_is_mounted_in_one_of_the_fixed_places() {
        for profile in [Profile::Minimal, Profile::Documented] {
            let config = ClusterConfig { profile, ..ClusterConfig::default() };
            let owner = VirtualMachineInstance::default();
            let pod =
                render::pod::pod_with_claims(&samples::full(), &owner, &config, &["block".to_owned()].into());
            let container = pod.spec.unwrap().containers.remove(0);
            let mounts = container.volume_mounts.unwrap();
            assert!(mounts.len() > 5);
            for mount in mounts {
                assert!(is_mount_point(&mount.mount_path), "{}", mount.mount_path);
            }
            for device in container.volume_devices.unwrap() {
                assert!(is_claim_device(&device.device_path), "{}", device.device_path);
            }
        }
    }

    #[test]
    fn other_places_are_nobodys() {
        for path in [
            "",
            "/",
            "/usr/local/share/x",
            "/attack",
            "/etc",
            "/proc",
            "/dev",
            "/dev/hugepages/x",
            "/var/run/kubevirt/",
            "/var/run/kubevirt/x",
            "/var/run/kubevirt-image-volume",
            "/var/run/kubevirt-image-volume/a/b",
            "/var/run/kubevirt-image-volume/..",
            "/var/run/kubevirt-image-volume/",
            "/var/run/kubevirt-private/x",
            "/var/run/../usr",
            "var/run/kubevirt",
            "/var/run/kubevirt-image-volume/kernel-boot-volume/z",
        ] {
            assert!(!is_mount_point(path), "{path}");
        }
        for path in [
            "/dev/",
            "/dev/kvm",
            "/dev/zero",
            "/dev/net/tun",
            "/dev/a/b",
            "/dev/..",
            "/usr/local/zero",
            "/dev/A",
        ] {
            assert!(!is_claim_device(path), "{path}");
        }
    }
}
