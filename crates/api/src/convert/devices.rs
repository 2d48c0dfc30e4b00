//! Network interfaces, and the rule for their queues.

use ferrovirt_model::machine::{Binding, Interface, MAX_TAP_QUEUES, NicModel, Port, Protocol};

use crate::{
    cause::{Path, Report},
    kubevirt::{self, Network},
    validate::text,
};

/// The interfaces of a machine. This is the only place where queues are counted: as many as the guest has vCPUs,
/// at most what one TAP can have, and only for virtio; everything else has one.
pub(super) fn interfaces(
    path: &Path,
    devices: &kubevirt::Devices,
    networks: &[Network],
    vcpus: u32,
    report: &mut Report,
) -> Vec<Interface> {
    let kubevirt::Devices {
        autoattach_graphics_device: _,
        autoattach_input_device: _,
        autoattach_mem_balloon: _,
        autoattach_pod_interface: _,
        autoattach_serial_console: _,
        autoattach_vsock: _,
        block_multi_queue: _,
        client_passthrough: _,
        disable_hotplug: _,
        disks: _,
        downward_metrics: _,
        filesystems: _,
        gpus: _,
        host_devices: _,
        inputs: _,
        interfaces,
        log_serial_console: _,
        network_interface_multiqueue,
        panic_devices: _,
        rng: _,
        sound: _,
        tpm: _,
        use_virtio_transitional: _,
        video: _,
        watchdog: _,
    } = devices;
    let queues = if *network_interface_multiqueue == Some(true) { vcpus.clamp(1, MAX_TAP_QUEUES) } else { 1 };
    let list = path.child("domain.devices.interfaces");
    let convert = |(index, interface)| interface_of(&list.index(index), interface, networks, queues, report);
    interfaces.iter().enumerate().filter_map(convert).collect()
}

fn interface_of(
    path: &Path,
    interface: &kubevirt::Interface,
    networks: &[Network],
    queues: u32,
    report: &mut Report,
) -> Option<Interface> {
    let kubevirt::Interface {
        acpi_index: _,
        binding: _,
        boot_order,
        bridge,
        dhcp_options: _,
        mac_address,
        macvtap: _,
        masquerade,
        model,
        name,
        passt: _,
        passt_binding: _,
        pci_address: _,
        port_ranges: _,
        ports,
        slirp: _,
        sriov: _,
        state: _,
        tag: _,
    } = interface;
    let on_pod_network = networks.iter().any(|network| {
        let Network { multus: _, name: network_name, pod, resource_claim: _ } = network;
        network_name == name && pod.is_some()
    });
    if !on_pod_network && report.causes.is_empty() {
        let path = path.child("name");
        report.invalid(&path, format!("{path} '{name}' is not connected to the pod network"));
    }
    let binding = match (masquerade, bridge) {
        (Some(_), None) => Binding::Masquerade,
        (None, Some(_)) => Binding::Bridge,
        _ => {
            if report.causes.is_empty() {
                report.invalid(path, format!("{path} must have one binding: masquerade or bridge"));
            }
            return None;
        }
    };
    let model = match model.as_deref().unwrap_or_default() {
        "" | "virtio" => NicModel::Virtio,
        "e1000" => NicModel::E1000,
        "e1000e" => NicModel::E1000e,
        "rtl8139" => NicModel::Rtl8139,
        // Reported by `support`.
        _ => return None,
    };
    let mac = match mac_address.as_deref().filter(|text| !text.is_empty()).map(text::mac) {
        None => None,
        Some(Ok([first, ..])) if first & 1 == 1 => {
            let path = path.child("macAddress");
            report
                .invalid(&path, format!("{path} is a group address: clear the lowest bit of its first byte"));
            None
        }
        Some(Ok(mac)) => Some(mac),
        Some(Err(_)) => {
            let path = path.child("macAddress");
            report.invalid(&path, format!("{path} is not a MAC address"));
            None
        }
    };
    Some(Interface {
        name: name.clone(),
        model,
        mac,
        boot_order: *boot_order,
        binding,
        ports: ports
            .iter()
            .enumerate()
            .filter_map(|(index, port)| port_of(path, index, port, report))
            .collect(),
        queues: if model == NicModel::Virtio { queues } else { 1 },
    })
}

fn port_of(path: &Path, index: usize, port: &kubevirt::Port, report: &mut Report) -> Option<Port> {
    let kubevirt::Port { name, port, protocol } = port;
    let path = path.child("ports").index(index);
    let protocol = match protocol.as_deref().unwrap_or_default() {
        "" | "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => {
            report.invalid(path.child("protocol"), "Unknown protocol, only TCP or UDP allowed");
            return None;
        }
    };
    match u16::try_from(*port) {
        Ok(port) if port != 0 => {
            Some(Port { name: name.clone().filter(|name| !name.is_empty()), protocol, port })
        }
        _ => {
            report.invalid(path.child("port"), "Port field must be in range 0 < x < 65536.");
            None
        }
    }
}
