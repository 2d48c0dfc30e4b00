//! Where a launcher's container has volumes and devices.

use super::devices::DEVICES;
use ferrovirt_node::oci::bundle::{Device, Mount};
use ferrovirt_plan::paths;

/// A mount or device where a launcher pod has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no place where a launcher pod has a volume: leave its pod to the controller")]
pub struct Elsewhere(String);

/// Refuses mounts and devices in other places than launcher pods have them: the runtime makes what is missing on the way to
/// a mount point, as root.
///
/// # Errors
/// The first of them.
pub fn check(volumes: &[Mount], devices: &[Device]) -> Result<(), Elsewhere> {
    let known = |path: &str| paths::is_claim_device(path) || DEVICES.iter().any(|(_, node)| *node == path);
    let volume =
        volumes.iter().map(|mount| mount.destination.as_str()).find(|path| !paths::is_mount_point(path));
    let device = || devices.iter().map(Device::path).find(|path| !known(path));
    volume.or_else(device).map_or(Ok(()), |path| Err(Elsewhere(path.to_owned())))
}
