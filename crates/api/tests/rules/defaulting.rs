//! What defaulting fills in, and what it leaves alone.

use ferrovirt_api::{
    ClusterDefaults, Identity, VMI_FINALIZER, default_vm, default_vmi,
    kubevirt::{KubeVirt, VirtualMachine, VirtualMachineInstance},
};
use serde_json::{Value, json};

use super::{cluster, instance, specification};

fn defaulted(over: Value) -> Value {
    let mut vmi = instance(specification(over));
    default_vmi(&mut vmi, &cluster(&[]));
    serde_json::to_value(vmi).unwrap()
}

fn domain(domain: Value) -> Value {
    defaulted(json!({"domain": domain}))["spec"]["domain"].clone()
}

#[test]
fn guest_memory() {
    let guest = |memory: Value, resources: Value| {
        let spec = json!({"domain": {"devices": {}, "memory": memory, "resources": resources}});
        let mut vmi = instance(spec);
        default_vmi(&mut vmi, &cluster(&[]));
        vmi.spec.domain.memory.unwrap().guest.map(|quantity| quantity.0)
    };
    let both = json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "3Gi"}});
    let page = json!({"hugepages": {"pageSize": "2Mi"}});
    assert_eq!(guest(json!({"guest": "1Gi"}), both.clone()).as_deref(), Some("1Gi"));
    assert_eq!(guest(page.clone(), both).as_deref(), Some("2Gi"));
    assert_eq!(guest(page.clone(), json!({"limits": {"memory": "3Gi"}})).as_deref(), Some("3Gi"));
    assert_eq!(guest(page.clone(), json!({"requests": {"memory": "0"}})).as_deref(), Some("2Mi"));
    assert_eq!(guest(page, json!({})).as_deref(), Some("2Mi"));
    assert_eq!(guest(json!({}), json!({})), None);
}

/// A topology follows from the limit, else the request, rounded up; one that is given in part is only completed.
#[test]
fn topology() {
    let topology = |cpu: Value, resources: Value| {
        let cpu = domain(json!({"cpu": cpu, "resources": resources}))["cpu"].clone();
        ["sockets", "cores", "threads"].map(|name| cpu[name].as_u64().unwrap())
    };
    let both = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2500m"}});
    assert_eq!(topology(json!({}), both.clone()), [3, 1, 1]);
    assert_eq!(topology(json!({}), json!({"requests": {"cpu": "2"}})), [2, 1, 1]);
    assert_eq!(topology(json!({}), json!({})), [1, 1, 1]);
    assert_eq!(topology(json!({"sockets": 0, "cores": 0}), both.clone()), [3, 1, 1]);
    assert_eq!(topology(json!({"cores": 2}), both.clone()), [1, 2, 1]);
    assert_eq!(topology(json!({"threads": 2}), both), [1, 1, 2]);
}

#[test]
fn the_request_for_processors() {
    let with = |default: Option<&str>, domain: Value| {
        let mut config = cluster(&[]);
        config.cpu_request = default.map(|text| serde_json::from_value(json!(text)).unwrap());
        let mut vmi = instance(specification(json!({"domain": domain})));
        default_vmi(&mut vmi, &config);
        vmi.spec
            .domain
            .resources
            .and_then(|mut resources| resources.requests.remove("cpu"))
            .map(|quantity| quantity.0)
    };
    let limits = |limit: &str| json!({"resources": {"limits": {"cpu": limit}}});
    assert_eq!(with(None, limits("2")).as_deref(), Some("2"));
    assert_eq!(with(Some("300m"), limits("2")).as_deref(), Some("2"));
    assert_eq!(with(Some("300m"), limits("0")).as_deref(), Some("300m"));
    assert_eq!(with(Some("300m"), json!({})).as_deref(), Some("300m"));
    assert_eq!(with(None, json!({})), None);
    let zero = json!({"resources": {"requests": {"cpu": "0"}, "limits": {"cpu": "2"}}});
    assert_eq!(with(None, zero).as_deref(), Some("2"));
    let given = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}});
    assert_eq!(with(Some("300m"), given).as_deref(), Some("1"));
    for resources in [json!({}), json!({"resources": {"requests": {"memory": "1Gi"}}})] {
        let mut dedicated = resources;
        dedicated["cpu"] = json!({"dedicatedCpuPlacement": true});
        assert_eq!(with(Some("300m"), dedicated), None);
    }
}

#[test]
fn images_that_move_are_pulled() {
    let policy = |source: Value| {
        let spec = defaulted(json!({"volumes": [{"name": "a", "containerDisk": source}]}))["spec"].clone();
        spec["volumes"][0]["containerDisk"]["imagePullPolicy"].as_str().unwrap().to_owned()
    };
    for (image, expected) in [
        ("fedora", "Always"),
        ("a/fedora:latest", "Always"),
        ("a/fedora:40", "IfNotPresent"),
        ("a/fedora@sha256:00", "IfNotPresent"),
    ] {
        assert_eq!(policy(json!({"image": image})), expected, "{image}");
    }
    assert_eq!(policy(json!({"image": "fedora", "imagePullPolicy": "Never"})), "Never");
}

#[test]
fn disks() {
    let disks = |disks: Value, volumes: Value| {
        defaulted(json!({"domain": {"devices": {"disks": disks}}, "volumes": volumes}))["spec"]["domain"]["devices"]["disks"].clone()
    };
    let volume = |name: &str| json!({"name": name, "emptyDisk": {"capacity": "1Mi"}});
    let sata = json!({"bus": "sata"});
    assert_eq!(
        disks(json!([{"name": "b", "lun": {}}]), json!([volume("a"), volume("b")])),
        json!([{"name": "b", "lun": sata}, {"name": "a", "disk": sata}])
    );
    assert_eq!(
        disks(json!([{"name": "a", "disk": {"bus": "virtio"}}]), json!([volume("a")]))[0]["disk"]["bus"],
        "virtio"
    );
    let cdrom = json!({"bus": "sata", "readonly": true, "tray": "closed"});
    assert_eq!(disks(json!([{"name": "a", "cdrom": {"bus": ""}}]), json!([volume("a")]))[0]["cdrom"], cdrom);
    let kept = json!({"bus": "scsi", "readonly": false, "tray": "open"});
    assert_eq!(disks(json!([{"name": "a", "cdrom": kept}]), json!([volume("a")]))[0]["cdrom"], kept);
    // What is no disk of the guest, or already one of its file systems.
    let others = json!([{"name": "a", "memoryDump": {"claimName": "c"}}, {"name": "b", "containerPath": {"path": "/p"}}]);
    assert_eq!(disks(json!([]), others), json!(null));
    let shared = defaulted(json!({
        "domain": {"devices": {"filesystems": [{"name": "a", "virtiofs": {}}]}}, "volumes": [volume("a")],
    }));
    assert!(shared["spec"]["domain"]["devices"]["disks"].is_null());
    let arm = defaulted(json!({"architecture": "arm64", "volumes": [volume("a")]}));
    assert_eq!(arm["spec"]["domain"]["devices"]["disks"][0]["disk"]["bus"], "virtio");
}

#[test]
fn architecture_and_machine_type() {
    let machine = |architecture: &str| {
        let spec = defaulted(json!({"architecture": architecture}))["spec"].clone();
        (spec["architecture"].clone(), spec["domain"]["machine"]["type"].clone())
    };
    assert_eq!(machine(""), (json!("amd64"), json!("q35")));
    assert_eq!(machine("arm64"), (json!("arm64"), json!("virt")));
    assert_eq!(machine("s390x"), (json!("s390x"), json!("s390-ccw-virtio")));
    assert_eq!(domain(json!({"machine": {"type": ""}}))["machine"]["type"], "q35");
    assert_eq!(domain(json!({"machine": {"type": "pc-q35-8.2"}}))["machine"]["type"], "pc-q35-8.2");
}

#[test]
fn the_pod_network() {
    let network = |over: Value| {
        let spec = defaulted(over)["spec"].clone();
        (spec["domain"]["devices"]["interfaces"].clone(), spec["networks"].clone())
    };
    let own = (json!([{"name": "default", "masquerade": {}}]), json!([{"name": "default", "pod": {}}]));
    assert_eq!(network(json!({})), own);
    assert_eq!(network(json!({"domain": {"devices": {"autoattachPodInterface": true}}})), own);
    let none = (json!(null), json!(null));
    assert_eq!(network(json!({"domain": {"devices": {"autoattachPodInterface": false}}})), none);
    let given = json!([{"name": "net", "pod": {}}]);
    assert_eq!(network(json!({"networks": given})), (json!(null), given));
    let given = json!([{"name": "net", "bridge": {}}]);
    assert_eq!(network(json!({"domain": {"devices": {"interfaces": given}}})), (given, json!(null)));
}

#[test]
fn features_and_the_rest() {
    let features =
        domain(json!({"features": {"smm": {}, "pvspinlock": {"enabled": false}, "acpi": {}}}))["features"]
            .clone();
    let expected =
        json!({"smm": {"enabled": true}, "pvspinlock": {"enabled": false}, "acpi": {"enabled": true}});
    assert_eq!(features, expected);
    assert_eq!(domain(json!({}))["features"], json!({"acpi": {"enabled": true}}));
    let cpu = domain(json!({"cpu": {"features": [{"name": "a"}, {"name": "b", "policy": "forbid"}]}}))["cpu"]
        .clone();
    assert_eq!(
        cpu["features"],
        json!([{"name": "a", "policy": "require"}, {"name": "b", "policy": "forbid"}])
    );
    let dog = domain(json!({"devices": {"watchdog": {"name": "w", "i6300esb": {}}}}))["devices"]["watchdog"]
        .clone();
    assert_eq!(dog["i6300esb"]["action"], "reset");
    assert_eq!(defaulted(json!({}))["spec"]["terminationGracePeriodSeconds"], 30);
    assert_eq!(
        defaulted(json!({"terminationGracePeriodSeconds": 0}))["spec"]["terminationGracePeriodSeconds"],
        0
    );
}

/// An instance that is already on its way stays there.
#[test]
fn the_first_status_is_made_once() {
    let mut vmi: VirtualMachineInstance = serde_json::from_value(json!({
        "metadata": {"name": "vm", "finalizers": ["a/b", VMI_FINALIZER],
            "annotations": {"kubevirt.io/pci-topology-version": "v2"}},
        "spec": specification(json!({"domain": {"cpu": {"cores": 2}}})),
        "status": {"phase": "Running", "currentCPUTopology": {"cores": 9}},
    }))
    .unwrap();
    default_vmi(&mut vmi, &cluster(&[]));
    let status = vmi.status.unwrap();
    assert_eq!(vmi.metadata.finalizers.unwrap(), ["a/b", VMI_FINALIZER]);
    assert_eq!(vmi.metadata.annotations.unwrap()["kubevirt.io/pci-topology-version"], "v2");
    assert_eq!((status.phase.as_deref(), status.phase_transition_timestamps.len()), (Some("Running"), 0));
    assert_eq!(status.current_cpu_topology.unwrap().cores, Some(9));

    let mut new = instance(specification(json!({"domain": {"cpu": {"cores": 2, "threads": 3}}})));
    default_vmi(&mut new, &cluster(&[]));
    let status = serde_json::to_value(new.status.unwrap()).unwrap();
    assert_eq!(status["currentCPUTopology"], json!({"cores": 2, "sockets": 1, "threads": 3}));
    assert_eq!(
        status["memory"],
        json!({"guestAtBoot": "64Mi", "guestCurrent": "64Mi", "guestRequested": "64Mi"})
    );
    assert_eq!(status["phaseTransitionTimestamps"], json!([{"phase": "Pending"}]));
}

/// A machine keeps the firmware identity that it has; only a new one is given one.
#[test]
fn identity() {
    let vm = |firmware: Value, identity: Option<&str>| {
        let template = json!({"spec": specification(json!({"domain": {"firmware": firmware}}))});
        let mut vm: VirtualMachine =
            serde_json::from_value(json!({"metadata": {"name": "vm"}, "spec": {"template": template}}))
                .unwrap();
        let identity =
            identity.map(|text| Identity { uuid: format!("{text}-uuid"), serial: format!("{text}-serial") });
        default_vm(&mut vm, &ClusterDefaults::default(), identity);
        let template = vm.spec.template;
        let annotated = template.metadata.annotations.is_some();
        (serde_json::to_value(template.spec.domain.firmware).unwrap(), annotated)
    };
    assert_eq!(vm(json!(null), Some("new")), (json!({"uuid": "new-uuid", "serial": "new-serial"}), true));
    assert_eq!(
        vm(json!({"uuid": "old"}), Some("new")),
        (json!({"uuid": "old", "serial": "new-serial"}), true)
    );
    assert_eq!(vm(json!(null), None), (json!(null), false));
}

#[test]
fn the_clusters_configuration() {
    let config = |configuration: Value| {
        let object: KubeVirt =
            serde_json::from_value(json!({"spec": {"configuration": configuration}})).unwrap();
        ClusterDefaults::from(&object)
    };
    assert_eq!(config(json!({})), ClusterDefaults::default());
    assert_eq!(config(json!({"cpuRequest": "100m"})).cpu_request, None);
    assert_eq!(config(json!({"cpuRequest": "200m"})).cpu_request.unwrap().0, "200m");
    let amd64 = |own: Value, general: Value| {
        let mut all = json!({"architectureConfiguration": {"amd64": own}});
        super::lay_over(&mut all, general);
        config(all)
    };
    let both = amd64(
        json!({"machineType": "q35", "emulatedMachines": ["a*"]}),
        json!({"machineType": "pc-q35-8.2", "emulatedMachines": ["b*"]}),
    );
    assert_eq!((both.machine_type.as_str(), both.emulated_machines), ("pc-q35-8.2", vec!["a*".to_owned()]));
    let own = amd64(json!({"machineType": "pc-q35-9.0"}), json!({"emulatedMachines": ["b*"]}));
    assert_eq!((own.machine_type.as_str(), own.emulated_machines), ("pc-q35-9.0", vec!["b*".to_owned()]));
    assert!(config(json!({"vmRolloutStrategy": "LiveUpdate"})).live_update);
    assert!(!config(json!({"vmRolloutStrategy": "Stage"})).live_update);
    assert!(!config(json!({"network": {"permitBridgeInterfaceOnPodNetwork": false}})).bridge_on_pod_network);
    assert_eq!(config(json!({"evictionStrategy": ""})).eviction_strategy, None);
    let gates = json!({"featureGates": ["A", "B"], "disabledFeatureGates": ["B", "RebootPolicy"]});
    let gates = config(json!({"developerConfiguration": gates}));
    assert!(gates.gate("A") && !gates.gate("B") && !gates.gate("RebootPolicy") && gates.gate("PasstBinding"));
}
