//! VirtualMachines, updates and hostile input.
// The helpers of tests may fail like tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use ferrovirt_api::{
    ClusterDefaults, default_vm, default_vmi,
    kubevirt::{VirtualMachine, VirtualMachineInstance},
    machine, rejection, validate_vm, validate_vmi, validate_vmi_update,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn vm(spec: Value) -> VirtualMachine {
    let mut vm: VirtualMachine =
        serde_json::from_value(json!({"metadata": {"name": "vm", "namespace": "a"}, "spec": spec})).unwrap();
    default_vm(&mut vm, &ClusterDefaults::default(), None);
    vm
}

fn causes(spec: Value) -> Vec<(String, String)> {
    let causes = validate_vm(&vm(spec), &ClusterDefaults::default(), false);
    causes.into_iter().map(|cause| (cause.field, cause.message)).collect()
}

fn template() -> Value {
    json!({"spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}}})
}

#[test]
fn run_strategies() {
    let cause = |field: &str, message: &str| vec![(field.to_owned(), message.to_owned())];
    assert!(causes(json!({"runStrategy": "Always", "template": template()})).is_empty());
    assert!(causes(json!({"running": true, "template": template()})).is_empty());
    assert_eq!(
        causes(json!({"template": template()})),
        cause("spec.running", "RunStrategy must be specified")
    );
    assert_eq!(
        causes(json!({"running": true, "runStrategy": "Always", "template": template()})),
        cause(
            "spec.running",
            "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead"
        )
    );
    assert_eq!(
        causes(json!({"runStrategy": "Sometimes", "template": template()})),
        cause("spec.runStrategy", "Invalid RunStrategy (Sometimes)")
    );
    assert_eq!(causes(json!({"runStrategy": "WaitAsReceiver", "template": template()})).len(), 1);
}

#[test]
fn templates_have_their_own_prefix() {
    let mut template = template();
    template["spec"]["domain"]["cpu"] = json!({"isolateEmulatorThread": true});
    let found = causes(json!({"runStrategy": "Halted", "template": template}));
    assert_eq!(found[0].0, "spec.template.spec.domain.cpu.isolateEmulatorThread");

    let mut labelled = self::template();
    labelled["metadata"] = json!({"labels": {"kubevirt.io/nodeName": "n"}});
    let found = causes(json!({"runStrategy": "Halted", "template": labelled}));
    assert_eq!(found[0].0, "spec.template.metadata.labels");
}

#[test]
fn data_volume_templates() {
    let found = |templates: Value| {
        causes(json!({"runStrategy": "Halted", "dataVolumeTemplates": templates, "template": template()}))
    };
    let storage = json!({"storage": {}, "source": {"blank": {}}});
    assert_eq!(found(json!([{"spec": storage}]))[0].0, "spec.dataVolumeTemplate[0].name");
    assert_eq!(
        found(json!([{"metadata": {"name": "d"}, "spec": storage}]))[0].1,
        "DataVolumeTemplate entry spec.dataVolumeTemplate[0] must be referenced in the VMI template's 'volumes' list"
    );
    assert_eq!(
        found(json!([{"metadata": {"name": "d"}, "spec": {}}]))[0].1,
        "Missing Data volume PVC or Storage"
    );
}

#[test]
fn a_machine_that_goes_is_not_held_back() {
    let mut vm = vm(json!({"template": template()}));
    assert!(!validate_vm(&vm, &ClusterDefaults::default(), false).is_empty());
    vm.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(validate_vm(&vm, &ClusterDefaults::default(), false).is_empty());
}

#[test]
fn updates_of_instances() {
    let mut old = VirtualMachineInstance {
        spec: vm(json!({"template": template()})).spec.template.spec,
        ..Default::default()
    };
    default_vmi(&mut old, &ClusterDefaults::default());
    let messages = |new: &VirtualMachineInstance, kubevirt: bool| {
        validate_vmi_update(&old, new, kubevirt).into_iter().map(|cause| cause.message).collect::<Vec<_>>()
    };
    assert!(messages(&old, false).is_empty());
    let mut changed = old.clone();
    changed.spec.hostname = Some("other".into());
    assert_eq!(messages(&changed, false), ["update of VMI object is restricted"]);
    assert!(messages(&changed, true).is_empty());
    let mut raised = old.clone();
    raised.spec.domain.cpu.as_mut().unwrap().max_sockets = Some(64);
    assert_eq!(messages(&raised, true), ["CPU topology maxSockets changed"]);
    let mut labelled = old.clone();
    labelled.metadata.labels = Some([("kubevirt.io/nodeName".to_owned(), "n".to_owned())].into());
    assert_eq!(messages(&labelled, false).len(), 1);
    assert!(messages(&labelled, true).is_empty());
}

#[test]
fn rejections_are_cut_after_ten() {
    let mut vmi: VirtualMachineInstance = serde_json::from_value(json!({
        "metadata": {"name": "vm"},
        "spec": {"domain": {"memory": {"guest": "64Mi"},
            "devices": {"disks": (0..12).map(|i| json!({"name": format!("d{i}")})).collect::<Vec<_>>()}}},
    }))
    .unwrap();
    default_vmi(&mut vmi, &ClusterDefaults::default());
    let causes = validate_vmi(&vmi, &ClusterDefaults::default(), false);
    assert_eq!(causes.len(), 12);
    assert!(rejection(&causes).ends_with(", and 2 more validation errors"));
}

/// What is written is read back as the same object.
#[test]
fn wire_form_is_stable() {
    let object = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "vm"},
        "spec": {
            "domain": {
                "cpu": {"dedicatedCpuPlacement": true, "cores": 2},
                "devices": {"autoattachVSOCK": true, "networkInterfaceMultiqueue": true,
                    "disks": [{"name": "d", "cdrom": {"readonly": true}, "dedicatedIOThread": true}]},
                "memory": {"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}},
            },
            "networks": [{"name": "n", "pod": {"vmIPv6NetworkCIDR": "fd10:0:2::/120", "vmNetworkCIDR": "10.0.2.0/24"}}],
            "volumes": [{"name": "d", "cloudInitNoCloud": {"secretRef": {"name": "s"}, "userDataBase64": "aGk="}}],
        },
        "status": {"VSOCKCID": 3, "currentCPUTopology": {"cores": 2}, "guestOSInfo": {"id": "x"},
            "phase": "Running", "phaseTransitionTimestamps": [{"phase": "Running", "phaseTransitionTimestamp": "2026-01-01T00:00:00Z"}]},
    });
    let vmi: VirtualMachineInstance = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(&vmi).unwrap(), object);
}

/// Values of every shape, to be put anywhere in a machine.
fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just(String::new()),
        Just("virtio".to_owned()),
        Just("-1".to_owned()),
        Just("0".to_owned()),
        Just("99999999999999999999Ei".to_owned()),
        Just("../..".to_owned()),
        ".{0,12}",
    ];
    prop_oneof![
        text.prop_map(Value::String),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        Just(json!(0)),
        Just(json!(u32::MAX)),
        Just(json!({})),
        Just(json!([])),
        Just(Value::Null),
    ]
}

/// A machine with a bit of everything, to be broken.
fn rich() -> Value {
    json!({
        "metadata": {"name": "vm"},
        "spec": {
            "architecture": "amd64", "hostname": "h", "subdomain": "s", "startStrategy": "Paused", "terminationGracePeriodSeconds": 5,
            "domain": {
                "cpu": {"sockets": 1, "cores": 1, "threads": 1, "maxSockets": 4, "model": "m", "features": [{"name": "f", "policy": "require"}]},
                "memory": {"guest": "64Mi", "maxGuest": "1Gi", "hugepages": {"pageSize": "2Mi"}},
                "machine": {"type": "q35"},
                "resources": {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
                "firmware": {"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223", "serial": "s",
                    "kernelBoot": {"kernelArgs": "a", "container": {"image": "i", "kernelPath": "/k", "initrdPath": "/i"}}},
                "features": {"acpi": {"enabled": true}, "smm": {}},
                "devices": {
                    "networkInterfaceMultiqueue": true,
                    "disks": [{"name": "a", "bootOrder": 1, "serial": "s", "cache": "none", "disk": {"bus": "virtio", "pciAddress": ""},
                        "blockSize": {"custom": {"logical": 512, "physical": 512, "discardGranularity": 512}}},
                        {"name": "b", "cdrom": {"bus": "sata"}}, {"name": "c"}],
                    "interfaces": [{"name": "net", "masquerade": {}, "macAddress": "de:ad:00:00:be:af", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
                        "dhcpOptions": {"privateOptions": [{"option": 240, "value": "v"}], "ntpServers": ["10.0.0.1"]}}],
                },
            },
            "networks": [{"name": "net", "pod": {"vmNetworkCIDR": "10.0.2.0/24"}}],
            "volumes": [{"name": "a", "hostDisk": {"path": "/d", "type": "Disk", "capacity": "0"}},
                {"name": "b", "cloudInitNoCloud": {"userDataBase64": "aGk="}}, {"name": "c", "emptyDisk": {"capacity": "1Gi"}}],
        },
    })
}

fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| paths(value, &format!("{path}/{key}"), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| paths(value, &format!("{path}/{i}"), found))
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No value anywhere makes defaulting, validation or conversion panic, and what is admitted is a machine.
    #[test]
    fn nothing_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..6)) {
        let mut object = rich();
        for (index, value) in changes {
            let mut all = Vec::new();
            paths(&object["spec"], "/spec", &mut all);
            let path: &String = index.get(&all);
            if let Some(place) = object.pointer_mut(path) {
                *place = value;
            }
        }
        let mut config = ClusterDefaults::default();
        config.feature_gates.insert("HostDisk".to_owned());
        if let Ok(mut vmi) = serde_json::from_value::<VirtualMachineInstance>(object) {
            let _ = machine(&vmi);
            let _ = validate_vmi(&vmi, &config, false);
            default_vmi(&mut vmi, &config);
            let admitted = validate_vmi(&vmi, &config, false).is_empty();
            prop_assert!(!admitted || machine(&vmi).is_ok());
        }
    }
}
