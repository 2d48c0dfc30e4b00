//! Machines for tests.

use ferrovirt_model::{
    Bytes, Machine, PageSize,
    machine::{
        Binding, Bus, Cpu, Devices, Disk, DiskTarget, Firmware, Interface, KernelBoot, Memory, NicModel,
        Payload, Scheduling, Source,
    },
};

pub(crate) fn plain() -> Machine {
    Machine {
        namespace: "demo".into(),
        name: "small".into(),
        uid: "6e4a8b1c-0000-4000-8000-000000000001".into(),
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
        firmware: Firmware {
            uuid: "5d307ca9-b3ef-428c-8861-06e72d69f223".into(),
            serial: None,
            kernel_boot: None,
        },
        disks: vec![],
        interfaces: vec![],
        devices: Devices {
            graphics: false,
            serial_console: true,
            balloon: true,
            rng: false,
            block_multi_queue: false,
        },
        acpi: true,
        grace_seconds: 30,
        start_paused: false,
        scheduling: Scheduling::default(),
    }
}

pub(crate) fn disk(name: &str, source: Source) -> Disk {
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

pub(crate) fn interface(name: &str, binding: Binding, queues: u32) -> Interface {
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

/// Every source of a disk.
pub(crate) fn sources() -> Vec<Source> {
    let claim = |read_only, ephemeral| Source::Claim { claim: "data".into(), read_only, ephemeral };
    vec![
        Source::ContainerDisk { image: "guests/alpine:3".into(), path: Some("/disk/alpine.qcow2".into()) },
        Source::HostDisk { path: "/srv/disks/a.img".into(), create: None },
        Source::HostDisk { path: "/srv/disks/b.img".into(), create: Some(Bytes::mib(64)) },
        Source::EmptyDisk { capacity: Bytes::mib(64) },
        claim(false, false),
        claim(true, false),
        claim(false, true),
        Source::Claim { claim: "block".into(), read_only: false, ephemeral: false },
        Source::Claim { claim: "block".into(), read_only: true, ephemeral: false },
        Source::CloudInit {
            user_data: Some(Payload::Inline(b"#cloud-config".to_vec())),
            network_data: Some(Payload::Secret("net".into())),
        },
    ]
}

/// A machine with everything.
pub(crate) fn full() -> Machine {
    let mut machine = plain();
    machine.name = "full".into();
    machine.cpu.cores = 4;
    machine.memory.huge_pages = PageSize::new(2 << 20);
    machine.devices.graphics = true;
    machine.interfaces = vec![interface("default", Binding::Masquerade, 4)];
    machine.firmware.kernel_boot = Some(KernelBoot {
        image: "guests/kernel:6".into(),
        kernel_path: Some("/boot/vmlinuz".into()),
        initrd_path: Some("/boot/initrd".into()),
        args: "console=ttyS0".into(),
    });
    machine.disks = sources().into_iter().enumerate().map(|(n, s)| disk(&format!("d{n}"), s)).collect();
    machine
}
