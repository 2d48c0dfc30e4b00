//! The devices that a launcher's container asks for.

use ferrovirt_node::oci::bundle::{Device, Error, amount};
use k8s_openapi::api::core::v1::Container;
use std::path::Path;

/// The extended resources that are devices, and their nodes.
pub const DEVICES: [(&str, &str); 3] = [
    ("devices.kubevirt.io/kvm", "/dev/kvm"),
    ("devices.kubevirt.io/tun", "/dev/net/tun"),
    ("devices.kubevirt.io/vhost-net", "/dev/vhost-net"),
];

/// The devices that a container's resources ask for.
///
/// # Errors
/// When the node lacks one.
pub fn devices(container: &Container) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for (resource, node) in DEVICES {
        if amount(container, resource)?.is_some_and(|amount| !amount.is_zero()) {
            devices.push(Device::of(Path::new(node), node, true)?);
        }
    }
    Ok(devices)
}
