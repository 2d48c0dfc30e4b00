//! Interfaces and the networks behind them.

use std::{collections::HashSet, net::Ipv4Addr};

use super::{Rules, text};
use crate::{
    cause::{Path, Reason},
    kubevirt::{Interface, Network, Port, PortRange},
};

/// The address of the bridge in the pod.
const RESERVED_MAC: &str = "02:00:00:00:00:00";
const MODELS: [&str; 7] = ["e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"];

fn in_port_range(port: i32) -> bool {
    (1..65536).contains(&port)
}

impl<'a> Rules<'a> {
    fn interface_path(&self, index: usize) -> Path {
        self.domain("devices.interfaces").index(index)
    }

    /// The network of an interface; the last of that name, as upstream's index by name has it.
    fn network_of(&self, interface: &Interface) -> Option<&'a Network> {
        self.spec.networks.iter().rev().find(|network| network.name == interface.name)
    }

    fn on_pod_network(&self, interface: &Interface) -> bool {
        self.network_of(interface).is_some_and(|network| network.pod.is_some())
    }

    pub(super) fn discontinued_bindings(&mut self) {
        for (index, interface) in self.spec.domain.devices.interfaces.iter().enumerate() {
            let path = self.interface_path(index);
            if interface.slirp.is_some() {
                self.report
                    .invalid(path.child("slirp"), "Slirp interface support has been discontinued since v1.3");
            }
            if interface.passt.is_some() {
                self.report
                    .invalid(path.child("passt"), "Passt network binding has been discontinued since v1.3");
            }
            if interface.macvtap.is_some() {
                self.report.invalid(
                    path.child("macvtap"),
                    "Macvtap network binding has been discontinued since v1.3",
                );
            }
        }
    }

    pub(super) fn networks(&mut self) {
        self.network_sources();
        let interfaces = &self.spec.domain.devices.interfaces;
        for (index, interface) in interfaces.iter().enumerate() {
            self.state(index, interface);
        }
        for (index, interface) in interfaces.iter().enumerate() {
            self.binding(index, interface);
        }
        self.network_names();
        for (index, interface) in interfaces.iter().enumerate() {
            self.interface(index, interface);
        }
    }

    fn network_sources(&mut self) {
        let networks = &self.spec.networks;
        let pods = networks.iter().filter(|network| network.pod.is_some()).count();
        let is_default =
            |network: &&Network| network.multus.as_ref().is_some_and(|m| m.default == Some(true));
        let defaults = networks.iter().filter(is_default).count();
        if pods > 1 {
            let path = self.path.child("interfaces");
            self.report
                .duplicate(&path, format!("more than one interface is connected to a pod network in {path}"));
        }
        if defaults > 1 {
            self.report
                .invalid(self.path.child("networks"), "Multus CNI should only have one default network");
        }
        if pods > 0 && defaults > 0 {
            self.report.invalid(
                self.path.child("networks"),
                "Pod network cannot be defined when Multus default network is defined",
            );
        }
        for (index, network) in networks.iter().enumerate() {
            let path = self.path.child("networks").index(index);
            let sources = [network.pod.is_some(), network.multus.is_some(), network.resource_claim.is_some()];
            match sources.into_iter().filter(|given| *given).count() {
                0 => self.report.required(path, "should have a network type"),
                1 => {}
                _ => self.report.required(path, "should have only one network type"),
            }
        }
        let unnamed = networks
            .iter()
            .position(|network| network.multus.as_ref().is_some_and(|m| m.network_name.is_empty()));
        if let Some(index) = unnamed {
            let path = self.path.child("networks").index(index);
            self.report.required(path, "CNI delegating plugin must have a networkName");
        }
    }

    fn state(&mut self, index: usize, interface: &Interface) {
        let state = interface.state.as_deref().unwrap_or_default();
        let path = self.interface_path(index).child("state");
        let name = &interface.name;
        if !["", "absent", "down", "up"].contains(&state) {
            self.report
                .invalid(&path, format!("logical {name} interface state value is unsupported: {state}"));
        }
        if interface.sriov.is_some() && ["down", "up"].contains(&state) {
            let message = format!("{name:?} interface's state {state:?} is not supported for SR-IOV NICs");
            self.report.invalid(&path, message);
        }
        if state != "absent" {
            return;
        }
        if interface.bridge.is_none() {
            let message =
                format!("{name:?} interface's state {state:?} is supported only for bridge binding");
            self.report.invalid(&path, message);
        }
        let default = self.spec.networks.iter().find(|network| {
            network.pod.is_some() || network.multus.as_ref().is_some_and(|m| m.default == Some(true))
        });
        if default.is_some_and(|network| network.name == *name) {
            let message =
                format!("{name:?} interface's state {state:?} is not supported on default networks");
            self.report.invalid(&path, message);
        }
    }

    fn binding(&mut self, index: usize, interface: &Interface) {
        let path = self.interface_path(index);
        let bindings = [
            interface.bridge.is_some(),
            interface.masquerade.is_some(),
            interface.sriov.is_some(),
            interface.passt_binding.is_some(),
            interface.binding.is_some(),
        ];
        if bindings.into_iter().filter(|given| *given).count() != 1 {
            let message = format!(
                "logical {} interface must have exactly one binding method or binding plugin",
                interface.name
            );
            self.report.invalid(&path, message);
        }
        let on_pod_network = self.on_pod_network(interface);
        if interface.masquerade.is_some() && !on_pod_network {
            self.report.invalid(path.child("name"), "Masquerade interface only implemented with pod network");
        }
        if interface.masquerade.is_some() && interface.mac_address.as_deref() == Some(RESERVED_MAC) {
            self.report.invalid(
                path.child("macAddress"),
                "The requested MAC address is reserved for the in-pod bridge. Please choose another one.",
            );
        }
        if interface.bridge.is_some() && on_pod_network && !self.config.bridge_on_pod_network {
            self.report.invalid(
                path.child("name"),
                "Bridge on pod network configuration is not enabled under kubevirt-config",
            );
        }
        if interface.passt_binding.is_some() && !self.config.gate("PasstBinding") {
            self.report.invalid(path.child("name"), "PasstBinding feature gate is not enabled");
        }
        if interface.passt_binding.is_some() && !on_pod_network {
            self.report
                .invalid(path.child("name"), "PasstBinding interface only implemented with pod network");
        }
    }

    fn network_names(&mut self) {
        let interfaces = &self.spec.domain.devices.interfaces;
        let networks = &self.spec.networks;
        let mut seen = HashSet::new();
        for (index, network) in networks.iter().enumerate() {
            if !seen.insert(&network.name) {
                let path = self.path.child("networks").index(index).child("name");
                let message = format!(
                    "Network with name {:?} already exists, every network must have a unique name",
                    network.name
                );
                self.report.duplicate(path, message);
            }
        }
        for (index, network) in networks.iter().enumerate() {
            if !interfaces.iter().any(|interface| interface.name == network.name) {
                let path = self.path.child("networks").index(index).child("name");
                self.report.add(
                    Reason::FieldValueRequired,
                    &path,
                    format!("{path} '{}' not found.", network.name),
                );
            }
        }
        let mut seen = HashSet::new();
        for (index, interface) in interfaces.iter().enumerate() {
            if !seen.insert(&interface.name) {
                let path = self.interface_path(index).child("name");
                self.report.duplicate(path, "Only one interface can be connected to one specific network");
            }
        }
        for (index, interface) in interfaces.iter().enumerate() {
            if self.network_of(interface).is_none() {
                let path = self.interface_path(index).child("name");
                self.report.invalid(&path, format!("{path} '{}' not found.", interface.name));
            }
        }
    }

    fn interface(&mut self, index: usize, interface: &Interface) {
        let path = self.interface_path(index);
        let name = path.child("name");
        let charset = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if interface.name.is_empty() || !interface.name.bytes().all(charset) {
            self.report.invalid(
                &name,
                "Network interface name can only contain alphabetical characters, numbers, dashes (-) or underscores (_)",
            );
        }
        let model = interface.model.as_deref().unwrap_or_default();
        if !model.is_empty() && !MODELS.contains(&model) {
            let message = format!("interface {name} uses model {model} that is not supported.");
            self.report.unsupported(path.child("model"), message);
        }
        let address = interface.mac_address.as_deref().unwrap_or_default();
        if !address.is_empty()
            && let Err(error) = text::mac(address)
        {
            let problem = match error {
                text::MacError::Malformed => "malformed",
                text::MacError::TooLong => "too long",
            };
            let message = format!("interface {name} has {problem} MAC address ({address}).");
            self.report.invalid(path.child("macAddress"), message);
        }
        let pci = interface.pci_address.as_deref().unwrap_or_default();
        if !pci.is_empty() && !text::is_pci_address(pci) {
            let message = format!("interface {name} has malformed PCI address ({pci}).");
            self.report.invalid(path.child("pciAddress"), message);
        }
        if self.on_pod_network(interface) {
            self.ports(&path, &interface.ports);
        }
        if !interface.port_ranges.is_empty() && !self.config.gate("PortRangesSpec") {
            self.report.invalid(
                &name,
                "portRanges is specified on interface but the PortRangesSpec feature gate is not enabled",
            );
        } else if !interface.port_ranges.is_empty() && self.on_pod_network(interface) {
            if !interface.ports.is_empty() {
                self.report.invalid(&name, "Cannot define both ports and portRanges on interface");
            }
            if interface.masquerade.is_none() {
                self.report.invalid(&name, "portRanges are only supported on masquerade interfaces");
            }
            self.port_ranges(&path.child("portRanges"), &interface.port_ranges);
        }
        self.dhcp(index, interface);
    }

    fn ports(&mut self, path: &Path, ports: &[Port]) {
        let mut names = HashSet::new();
        for (index, port) in ports.iter().enumerate() {
            let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let path = path.child("ports").index(index).child("name");
            if !names.insert(name) {
                self.report.duplicate(&path, format!("Duplicate name of the port: {name}"));
            }
            if !text::is_port_name(name) {
                self.report.invalid(&path, format!("Invalid name of the port: {name}"));
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let path = path.child("ports").index(index);
            if port.port == 0 {
                self.report.required(path.child("port"), "Port field is mandatory.");
            } else if !in_port_range(port.port) {
                self.report.invalid(path.child("port"), "Port field must be in range 0 < x < 65536.");
            }
            if !["", "TCP", "UDP"].contains(&port.protocol.as_deref().unwrap_or_default()) {
                self.report.invalid(path.child("protocol"), "Unknown protocol, only TCP or UDP allowed");
            }
        }
    }

    fn port_ranges(&mut self, path: &Path, ranges: &[PortRange]) {
        if ranges.len() > 10 {
            self.report.invalid(path, "No more than 10 portRanges are allowed");
            return;
        }
        let mut good: Vec<&PortRange> = Vec::new();
        for (index, range) in ranges.iter().enumerate() {
            let path = path.index(index);
            if !["TCP", "UDP"].contains(&range.protocol.as_str()) {
                self.report.invalid(path.child("protocol"), "Unknown protocol, only TCP or UDP allowed");
            } else if !in_port_range(range.start) {
                self.report.invalid(path.child("start"), "Start must be a valid port number, 0 < x < 65536");
            } else if !in_port_range(range.end) {
                self.report.invalid(path.child("end"), "End must be a valid port number, 0 < x < 65536");
            } else if range.start > range.end {
                self.report.invalid(path.child("start"), "Start must be less than or equal to end");
            } else {
                good.push(range);
            }
        }
        good.sort_by_key(|range| (range.protocol.clone(), range.start, range.end));
        for (previous, next) in good.iter().zip(good.iter().skip(1)) {
            if previous.protocol == next.protocol && next.start <= previous.end {
                let message = format!(
                    "{} portRanges [{}-{}] and [{}-{}] overlap",
                    next.protocol, previous.start, previous.end, next.start, next.end
                );
                self.report.invalid(path, message);
            }
        }
    }

    fn dhcp(&mut self, index: usize, interface: &Interface) {
        let Some(options) = &interface.dhcp_options else { return };
        let mut seen = HashSet::new();
        let unique = options.private_options.iter().filter(|option| seen.insert(option.option)).count();
        let path = self.path.clone();
        if unique < options.private_options.len() {
            self.report.invalid(&path, "Found Duplicates: you have provided duplicate DHCPPrivateOptions");
        }
        for option in &options.private_options {
            if !(224..=254).contains(&option.option) {
                self.report.invalid(
                    &path,
                    "provided DHCPPrivateOptions are out of range, must be in range 224 to 254",
                );
            }
        }
        for (server_index, server) in options.ntp_servers.iter().enumerate() {
            if server.parse::<Ipv4Addr>().is_err() {
                let path = self.interface_path(index).child("dhcpOptions.ntpServers").index(server_index);
                self.report.invalid(path, "NTP servers must be a list of valid IPv4 addresses.");
            }
        }
    }
}
