//! Volumes, mounts and block devices of the compute container, from the grants.

use ferrovirt_privilege::{Access, DeviceSource, GrantSet, Right, Surface, VolumeSource};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, KeyToPath,
    PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeDevice, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a pod mounts.
#[derive(Default)]
pub(super) struct Storage {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) devices: Vec<VolumeDevice>,
}

/// In order of the mount paths, so that a parent is mounted before what is inside it.
pub(super) fn storage(grants: &GrantSet) -> Storage {
    let mut rights: Vec<_> = grants.on(Surface::Pod).into_iter().collect();
    rights.sort_by(|a, b| path(a).cmp(path(b)));
    let mut out = Storage::default();
    for right in rights {
        match right {
            Right::Mount { volume, path, source, access } => {
                out.volumes.push(self::volume(&volume, &source, access));
                out.mounts.push(VolumeMount {
                    name: volume,
                    mount_path: path,
                    read_only: (access == Access::Read).then_some(true),
                    ..Default::default()
                });
            }
            Right::Device { path, source: DeviceSource::Claim(claim), access } => {
                let name = path.trim_start_matches("/dev/").to_owned();
                out.volumes.push(volume(&name, &VolumeSource::Claim(claim), access));
                out.devices.push(VolumeDevice { name, device_path: path });
            }
            _ => {}
        }
    }
    out
}

/// What a launcher keeps beside disks: sockets, seeds of some MiB, its last state. Anyone who evicts pods for their scratch
/// space, a kubelet or our node agent, need not wait for the limit of all of it.
const SMALL: &str = "64Mi";

/// Whether a volume of the launcher's own is for small files alone.
fn is_small(volume: &str) -> bool {
    matches!(volume, "public" | "private" | "sockets" | super::images::SOCKETS)
}

fn path(right: &Right<String>) -> &str {
    match right {
        Right::Mount { path, .. } | Right::Device { path, .. } => path,
        _ => "",
    }
}

fn volume(name: &str, source: &VolumeSource<String>, access: Access) -> Volume {
    let mut volume = Volume { name: name.to_owned(), ..Default::default() };
    match source {
        VolumeSource::Scratch => {
            let size_limit = is_small(name).then(|| Quantity(SMALL.to_owned()));
            volume.empty_dir = Some(EmptyDirVolumeSource { size_limit, ..Default::default() });
        }
        VolumeSource::HugePages => {
            volume.empty_dir =
                Some(EmptyDirVolumeSource { medium: Some("HugePages".to_owned()), ..Default::default() });
        }
        VolumeSource::Image(reference) => {
            volume.image = Some(ImageVolumeSource {
                reference: Some(reference.clone()),
                pull_policy: Some("IfNotPresent".to_owned()),
            });
        }
        VolumeSource::HostPath { path, create } => {
            let kind = if *create { "DirectoryOrCreate" } else { "Directory" };
            volume.host_path =
                Some(HostPathVolumeSource { path: path.clone(), type_: Some(kind.to_owned()) });
        }
        VolumeSource::Claim(claim) => {
            volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: (access == Access::Read).then_some(true),
            });
        }
        VolumeSource::Secret { name, keys } => {
            let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None };
            volume.secret = Some(SecretVolumeSource {
                secret_name: Some(name.clone()),
                items: Some(keys.split(',').map(item).collect()),
                // One of the keys is enough; who needs it says what is missing.
                optional: Some(true),
                ..Default::default()
            });
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_small_files_has_a_limit_of_its_own_and_disks_have_that_of_the_pod() {
        let limit = |name: &str| {
            let volume = volume(name, &VolumeSource::Scratch, Access::ReadWrite);
            volume.empty_dir.and_then(|source| source.size_limit).map(|limit| limit.0)
        };
        for name in ["public", "private", "sockets"] {
            assert_eq!(limit(name).as_deref(), Some(SMALL), "{name}");
        }
        assert_eq!(limit("ephemeral-disks"), None);
    }
}
