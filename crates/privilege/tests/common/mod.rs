//! Machines and the whole table, for every test of this crate.
// Each test binary uses its part.
#![allow(dead_code, unreachable_pub)]

use ferrovirt_model::{
    Bytes, Machine, Profile,
    machine::{
        Binding, Bus, Cpu, Devices, Disk, DiskTarget, Firmware, Interface, Memory, NicModel, Scheduling,
        Source,
    },
};
use ferrovirt_privilege::{Feature, Grant, grants};

pub const PROFILES: [Profile; 2] = [Profile::Minimal, Profile::Documented];

/// Every entry of the table, those of both profiles twice.
pub fn table() -> Vec<(Feature, &'static Grant)> {
    let all = Feature::ALL.into_iter().flat_map(|feature| PROFILES.map(|profile| (feature, profile)));
    all.flat_map(|(feature, profile)| grants(feature, profile).map(move |grant| (feature, grant))).collect()
}

/// A machine without any device.
pub fn machine() -> Machine {
    Machine {
        namespace: "demo".into(),
        name: "small".into(),
        uid: String::new(),
        cpu: Cpu {
            sockets: 1,
            cores: 1,
            threads: 1,
            model: "host-model".into(),
            request_millis: None,
            limit_millis: None,
        },
        memory: Memory { guest: Bytes::mib(128), huge_pages: None, request: None, limit: None },
        machine_type: "q35".into(),
        firmware: Firmware { uuid: String::new(), serial: None, kernel_boot: None },
        disks: vec![],
        interfaces: vec![],
        devices: Devices {
            graphics: false,
            serial_console: false,
            balloon: false,
            rng: false,
            block_multi_queue: false,
        },
        acpi: true,
        grace_seconds: 0,
        start_paused: false,
        scheduling: Scheduling::default(),
    }
}

/// A virtio disk that is written.
pub fn disk(name: &str, source: Source) -> Disk {
    Disk {
        name: name.into(),
        target: DiskTarget::Disk,
        bus: Bus::Virtio,
        read_only: false,
        serial: None,
        boot_order: None,
        cache: None,
        source,
    }
}

/// A virtio interface.
pub fn interface(name: &str, binding: Binding, queues: u32) -> Interface {
    Interface {
        name: name.into(),
        model: NicModel::Virtio,
        mac: None,
        boot_order: None,
        binding,
        ports: vec![],
        queues,
    }
}

/// A claim.
pub fn claim(read_only: bool, ephemeral: bool) -> Source {
    Source::Claim { claim: "claim-1".into(), read_only, ephemeral }
}
