//! Orders that must not reach QEMU, and strings that must not become options.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

use ferrovirt_qemu::{
    Descriptors, OrderError, command_line,
    order::{Backing, Bus, Kernel, Order},
};

fn order(case: &str) -> Order {
    let file = format!("{}/tests/golden/{case}/order.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn descriptors() -> Descriptors {
    Descriptors {
        qmp: 3,
        serial: Some(4),
        taps: [("default".into(), vec![5, 6, 7, 8])].into(),
        vnc: Some("/run/v,nc".into()),
        ..Descriptors::default()
    }
}

type Change = fn(&mut Order);

#[test]
fn each_bad_field_is_named() {
    let cases: Vec<(&str, Change)> = vec![
        ("order version 2", |o| o.version = 2),
        ("name", |o| o.name = "a,process=b".into()),
        ("name", |o| o.name.clear()),
        ("name", |o| o.name = "n".repeat(318)),
        ("kernel.args", |o| {
            o.kernel =
                Some(Kernel { kernel: Some("/k".into()), initrd: None, args: "a\nb".into(), image: None });
        }),
        ("memory", |o| o.memory.bytes = 1),
        ("uuid", |o| o.uuid = "5d307ca9-b3ef-428c-8861-06e72d69f22,".into()),
        ("serialNumber", |o| o.serial_number = Some("a\nb".into())),
        ("machine", |o| o.machine = "q35,accel=kvm".into()),
        ("machine", |o| o.machine = "microvm".into()),
        ("cpuModel", |o| o.cpu_model = "max,+vmx".into()),
        ("needs KVM", |o| o.cpu_model = "host".into()),
        ("vCPUs", |o| o.cores = 0),
        ("vCPUs", |o| o.sockets = u32::MAX),
        ("memory", |o| o.memory.bytes = 0),
        ("memory", |o| o.memory.bytes = u64::MAX),
        ("multiple of the huge page size", |o| o.memory.bytes += 4096),
        ("do not exist", |o| o.memory.backing = Backing::HugeMemfd { page_bytes: 0 }),
        ("memory.backing.path", |o| o.memory.backing = Backing::HugeDirectory { path: "../x".into() }),
        ("need a kernel", |o| {
            o.kernel = Some(Kernel { kernel: None, initrd: None, args: "x".into(), image: None });
        }),
        ("kernel.kernel", |o| {
            o.kernel = Some(Kernel {
                kernel: Some("-device".into()),
                initrd: None,
                args: String::new(),
                image: None,
            });
        }),
        ("disks.name", |o| o.disks[0].name = "a,b".into()),
        ("disks.path", |o| o.disks[0].path = "json:{}".into()),
        ("disks.path", |o| o.disks[0].path = "/a\0b".into()),
        ("disks.serial", |o| o.disks[0].serial = Some("a,b".into())),
        ("nics.name", |o| o.nics[0].name = "a,b".into()),
        ("two devices", |o| o.disks = vec![o.disks[0].clone(), o.disks[0].clone()]),
        ("virtio bus", |o| o.disks[0].cdrom = true),
        ("SATA disk cannot be read-only", |o| {
            o.disks[0].bus = Bus::Sata;
            o.disks[0].read_only = true;
            o.disks[0].queues = 1;
        }),
        ("only a virtio device", |o| o.disks[0].bus = Bus::Scsi),
        ("bootOrder", |o| o.disks[0].boot_order = Some(0)),
        ("must be 1 to 256", |o| o.nics[0].queues = 257),
        ("only a virtio device", |o| o.nics[0].model = "e1000".into()),
        ("nics.model", |o| o.nics[0].model = "virtio-net-pci,id=x".into()),
        ("nics.mac", |o| o.nics[0].mac = "02:00:00:00:00:01,x".into()),
        ("4 descriptors passed, 3 needed", |o| o.nics[0].queues = 3),
    ];
    assert!(command_line(&order("minimal"), &descriptors()).is_ok());
    for (words, change) in cases {
        let mut bad = order("minimal");
        change(&mut bad);
        let message = command_line(&bad, &descriptors()).unwrap_err().to_string();
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
}

#[test]
fn missing_descriptors_are_named() {
    let without = Descriptors { serial: None, ..descriptors() };
    assert!(matches!(
        command_line(&order("minimal"), &without),
        Err(OrderError::Descriptors { what, .. }) if what == "serial port"
    ));
    let mut graphics = order("minimal");
    graphics.graphics = true;
    let without = Descriptors { vnc: None, ..descriptors() };
    assert!(command_line(&graphics, &without).is_err());
}

#[test]
fn too_many_devices_are_refused() {
    let mut many = order("minimal");
    let disk = many.disks[0].clone();
    many.disks = (0..500)
        .map(|n| {
            let mut disk = disk.clone();
            disk.name = format!("d{n}");
            disk
        })
        .collect();
    assert!(matches!(command_line(&many, &descriptors()), Err(OrderError::TooManyDevices(_))));
}

#[test]
fn commas_in_what_people_name_stay_in_their_option() {
    let mut odd = order("minimal");
    odd.graphics = true;
    odd.serial_number = Some("1,uuid=x".into());
    odd.disks[0].path = "/a,snapshot=off".into();
    let line = command_line(&odd, &descriptors()).unwrap();
    let text: Vec<&str> = line.iter().map(|arg| arg.to_str().unwrap()).collect();
    assert!(text.iter().any(|arg| arg.ends_with("serial=1,,uuid=x")));
    assert!(text.iter().any(|arg| arg.starts_with("if=none,") && arg.contains("/a,,snapshot=off")));
    assert!(text.contains(&"unix:/run/v,,nc"));
}
