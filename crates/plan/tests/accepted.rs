//! What validation accepts, the writer of QEMU's command line accepts: whatever people write into a machine.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

use ferrovirt_api::{ClusterDefaults, default_vmi, kubevirt::VirtualMachineInstance, machine, validate_vmi};
use ferrovirt_model::{Machine, Profile};
use ferrovirt_plan::{
    config::ClusterConfig,
    render::order::{DiskFacts, NicFacts, NodeFacts, order},
};
use ferrovirt_qemu::{Descriptors, command_line, order::Accelerator, rules};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What people could write where a text belongs: much of it is wrong somewhere.
fn text() -> impl Strategy<Value = String> {
    let known = [
        "q35",
        "q35,kernel_irqchip=off",
        "q35x",
        "pc-q35-7.2",
        "pc-q35-",
        "host",
        "host,+vmx",
        "host-model",
        "qemu64",
        "-x",
        "a,b=c",
        "a\nb",
        "a\0b",
        "\u{1b}[2J",
        "virtio",
        "sata",
        "scsi",
        "usb",
        "e1000",
        "../x",
        "/disk/a\nb",
        "/k",
        "UPPER_case",
        "e\u{301}",
        "2Mi",
        "4Ki",
        "3Mi",
        "1",
        "1Mi",
        "64Mi",
        "9Ei",
    ];
    let long = [257, 2049, 4097].map(|length| "x".repeat(length));
    prop_oneof![
        8 => prop::sample::select(known.map(str::to_owned).to_vec()),
        1 => prop::sample::select(long.to_vec()),
        1 => "\\PC{0,12}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => text().prop_map(Value::String),
        2 => any::<bool>().prop_map(Value::Bool),
        4 => prop::sample::select(vec![0_i64, 1, 2, 16, 255, 256, 2_147_483_647, 2_147_483_648, -1])
            .prop_map(|number| json!(number)),
        1 => Just(json!({})),
        1 => Just(Value::Null),
    ]
}

/// A machine with something of every kind, all of it right.
fn rich(disks: usize, bus: &str) -> Value {
    let mut list = vec![
        json!({"name": "a", "bootOrder": 1, "serial": "s", "cache": "none", "disk": {"bus": "virtio"}}),
        json!({"name": "b", "cdrom": {"bus": "sata"}}),
        json!({"name": "c", "disk": {"bus": "scsi"}}),
        json!({"name": "d", "disk": {"bus": "virtio", "readonly": true}}),
        json!({"name": "e", "disk": {"bus": "sata"}}),
    ];
    let mut volumes = vec![
        json!({"name": "a", "hostDisk": {"path": "/d/x.img", "type": "Disk"}}),
        json!({"name": "b", "cloudInitNoCloud": {"userDataBase64": "aGk="}}),
        json!({"name": "c", "emptyDisk": {"capacity": "1Gi"}}),
        json!({"name": "d", "containerDisk": {"image": "i", "path": "/disk/x.img"}}),
        json!({"name": "e", "persistentVolumeClaim": {"claimName": "c", "readOnly": false}}),
    ];
    for index in 0..disks {
        list.push(json!({"name": format!("n{index}"), "disk": {"bus": bus}}));
        volumes.push(json!({"name": format!("n{index}"), "emptyDisk": {"capacity": "1Gi"}}));
    }
    json!({
        "metadata": {"name": "vm", "namespace": "n"},
        "spec": {
            "architecture": "amd64", "hostname": "h", "startStrategy": "Paused",
            "domain": {
                "cpu": {"sockets": 1, "cores": 2, "threads": 1, "model": "host-model"},
                "memory": {"guest": "64Mi", "hugepages": {"pageSize": "2Mi"}},
                "machine": {"type": "q35"},
                "resources": {"requests": {"memory": "64Mi"}},
                "firmware": {"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223", "serial": "s",
                    "kernelBoot": {"kernelArgs": "a", "container": {"image": "i", "kernelPath": "/k", "initrdPath": "/i"}}},
                "features": {"acpi": {"enabled": true}},
                "devices": {
                    "networkInterfaceMultiqueue": true, "blockMultiQueue": true, "rng": {},
                    "disks": list,
                    "interfaces": [{"name": "net", "masquerade": {}, "bootOrder": 2, "model": "virtio",
                        "macAddress": "de:ad:00:00:be:af", "ports": [{"name": "http", "port": 80}]}],
                },
            },
            "networks": [{"name": "net", "pod": {}}],
            "volumes": volumes,
        },
    })
}

fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| paths(value, &format!("{path}/{key}"), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| paths(value, &format!("{path}/{i}"), found));
        }
        _ => found.push(path.to_owned()),
    }
}

/// The command line that a node would write for a machine, with everything that it needs at hand.
fn written(machine: &Machine, accelerator: Accelerator, profile: Profile) -> Result<(), String> {
    let config = ClusterConfig { profile, ..ClusterConfig::default() };
    let mut facts = NodeFacts::new(accelerator);
    for disk in &machine.disks {
        let path = ferrovirt_plan::paths::disk_file(disk, false).unwrap_or_else(|| "/disk.img".to_owned());
        facts.disks.insert(disk.name.clone(), DiskFacts { path: Some(path), ..DiskFacts::default() });
    }
    for interface in &machine.interfaces {
        let made = NicFacts {
            mac: "02:00:00:00:00:01".to_owned(),
            lease: None,
            tap: "tap0".to_owned(),
            bridge: "k6t-eth0".to_owned(),
            mtu: 1500,
        };
        facts.nics.insert(interface.name.clone(), made);
    }
    let order = order(machine, &config, &facts).map_err(|error| error.to_string())?;
    let descriptors = Descriptors {
        qmp: 3,
        serial: Some(4),
        vnc: Some("/run/vnc".to_owned()),
        taps: order
            .nics
            .iter()
            .map(|nic| (nic.name.clone(), (5..5 + i32::try_from(nic.queues).unwrap()).collect()))
            .collect(),
        ..Descriptors::default()
    };
    command_line(&order, &descriptors).map(drop).map_err(|error| error.to_string())
}

fn admitted(object: Value) -> Result<Machine, Vec<String>> {
    let mut config = ClusterDefaults::default();
    config.feature_gates.insert("HostDisk".to_owned());
    let mut vmi: VirtualMachineInstance =
        serde_json::from_value(object).map_err(|error| vec![error.to_string()])?;
    default_vmi(&mut vmi, &config);
    let causes = validate_vmi(&vmi, &config, false);
    if !causes.is_empty() {
        return Err(causes.into_iter().map(|cause| format!("{} {}", cause.field, cause.message)).collect());
    }
    machine(&vmi).map_err(|causes| causes.into_iter().map(|cause| cause.message).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_validation_accepts_the_command_line_accepts(
        changes in prop::collection::vec((any::<prop::sample::Index>(), value()), 0..4),
        namespace in "[a-z]{1,63}",
        name in prop_oneof![4 => "[a-z]{1,20}", 1 => "[a-z]{253}"],
        disks in prop_oneof![8 => 0usize..3, 1 => 100usize..300],
        bus in prop::sample::select(vec!["virtio", "sata", "scsi", "usb"]),
    ) {
        let mut object = rich(disks, bus);
        object["metadata"] = json!({"name": name, "namespace": namespace});
        let mut all = Vec::new();
        paths(&object["spec"], "/spec", &mut all);
        for (index, value) in changes {
            let path: &String = index.get(&all);
            if let Some(place) = object.pointer_mut(path) {
                *place = value;
            }
        }
        if let Ok(machine) = admitted(object.clone()) {
            for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
                for profile in [Profile::Minimal, Profile::Documented] {
                    let written = written(&machine, accelerator, profile);
                    prop_assert!(written.is_ok(), "{written:?} for {object}");
                }
            }
        }
    }
}

#[test]
fn values_at_the_limits_are_accepted_by_both_and_beyond_by_none() {
    let long = |length| json!("x".repeat(length));
    let rows = [
        ("/spec/domain/firmware/serial", long(rules::MAX_SERIAL), long(rules::MAX_SERIAL + 1)),
        ("/spec/domain/firmware/serial", json!("a,b=c"), json!("a\nb")),
        (
            "/spec/domain/firmware/kernelBoot/kernelArgs",
            long(rules::MAX_KERNEL_ARGS),
            long(rules::MAX_KERNEL_ARGS + 1),
        ),
        ("/spec/domain/firmware/kernelBoot/kernelArgs", json!("console=ttyS0"), json!("a\0b")),
        ("/spec/domain/machine/type", json!("pc-q35-7.2"), json!("q35,kernel_irqchip=off")),
        ("/spec/domain/cpu/model", json!("Skylake-Client"), json!("host,+vmx,x=y")),
        ("/spec/domain/cpu/cores", json!(255), json!(256)),
        ("/spec/domain/memory/guest", json!("2Mi"), json!("1")),
        ("/spec/domain/memory/hugepages/pageSize", json!("2Mi"), json!("3Mi")),
        ("/spec/domain/devices/disks/0/bootOrder", json!(2_147_483_647), json!(2_147_483_648_u32)),
        ("/spec/domain/devices/disks/0/serial", json!("-_x"), json!("a,b")),
        ("/spec/volumes/3/containerDisk/path", json!("/disk/a b"), json!("/disk/a\nb")),
        ("/spec/volumes/4/persistentVolumeClaim/claimName", json!("a.b"), json!("../other/c")),
        ("/spec/volumes/4/persistentVolumeClaim/readOnly", json!(false), json!(true)),
    ];
    for (path, good, bad) in rows {
        let mut object = rich(0, "virtio");
        *object.pointer_mut(path).unwrap() = good.clone();
        let machine = admitted(object.clone()).unwrap_or_else(|causes| panic!("{path} {good}: {causes:?}"));
        written(&machine, Accelerator::Tcg, Profile::Minimal).unwrap();
        *object.pointer_mut(path).unwrap() = bad.clone();
        let causes = admitted(object).expect_err(path);
        let field = path.trim_start_matches('/').replace('/', ".");
        let leaf = field.rsplit('.').next().unwrap();
        assert!(causes.iter().any(|cause| cause.contains(leaf) || leaf == "readOnly"), "{path}: {causes:?}");
    }
}
