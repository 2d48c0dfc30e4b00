//! Whole manifests: strict decoding, defaulting, validation, conversion.
// The helpers of tests may fail like tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::BTreeMap, fs, path::Path};

use ferrovirt_api::{
    ClusterDefaults, default_vm, default_vmi,
    kubevirt::{VirtualMachine, VirtualMachineInstance},
    machine, rejection, validate_vm, validate_vmi,
};
use ferrovirt_model::{
    Bytes, Machine,
    machine::{Binding, Bus, NicModel, Payload, Source},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What becomes of one object.
#[derive(Debug)]
enum Outcome {
    Machine(Box<Machine>),
    Refused(String),
    /// Strict decoding refuses it: kubectl's default.
    Undecodable(String),
}

fn strict<T: DeserializeOwned>(object: Value) -> Result<T, String> {
    let mut unknown = Vec::new();
    let decoded = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    let decoded = decoded.map_err(|error: serde_json::Error| error.to_string())?;
    if unknown.is_empty() { Ok(decoded) } else { Err(format!("unknown fields {unknown:?}")) }
}

fn admit(object: Value, config: &ClusterDefaults) -> Outcome {
    let mut vmi = if object["kind"] == "VirtualMachine" {
        let mut vm: VirtualMachine = match strict(object) {
            Ok(vm) => vm,
            Err(error) => return Outcome::Undecodable(error),
        };
        default_vm(&mut vm, config, None);
        let causes = validate_vm(&vm, config, false);
        if !causes.is_empty() {
            return Outcome::Refused(rejection(&causes));
        }
        let mut vmi = VirtualMachineInstance { spec: vm.spec.template.spec, ..Default::default() };
        vmi.metadata.name = vm.metadata.name;
        vmi
    } else {
        match strict(object) {
            Ok(vmi) => vmi,
            Err(error) => return Outcome::Undecodable(error),
        }
    };
    default_vmi(&mut vmi, config);
    let causes = validate_vmi(&vmi, config, false);
    if !causes.is_empty() {
        return Outcome::Refused(rejection(&causes));
    }
    match machine(&vmi) {
        Ok(machine) => Outcome::Machine(Box::new(machine)),
        Err(causes) => panic!("admitted but no machine: {causes:?}"),
    }
}

fn documents(path: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml_files(directory: &str) -> BTreeMap<String, Vec<Value>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), documents(&path)))
        .collect()
}

/// `verdicts.tsv` says of each manifest what happens and why; every manifest has a row and every row a manifest.
#[test]
fn verdicts() {
    let mut files = yaml_files("tests/manifests");
    for row in include_str!("manifests/verdicts.tsv").lines().skip(1) {
        let mut columns = row.split('\t');
        let (file, verdict) = (columns.next().unwrap(), columns.next().unwrap());
        let why = columns.next().unwrap_or_default();
        for object in files.remove(file).unwrap_or_else(|| panic!("{file} is missing")) {
            let mut config = ClusterDefaults::default();
            let outcome = admit(object.clone(), &config);
            match (verdict, &outcome) {
                ("yes", Outcome::Machine(_)) => {}
                ("no", Outcome::Refused(message)) => assert!(message.contains(why), "{file}: {message}"),
                ("strict", Outcome::Undecodable(message)) => {
                    assert!(message.contains(why), "{file}: {message}")
                }
                ("unsupported", Outcome::Refused(message)) => {
                    assert!(message.starts_with("not supported yet: "), "{file}: {message}");
                    assert!(message.contains(why), "{file}: {message}");
                }
                (gate, Outcome::Refused(message)) if gate.starts_with("gate:") => {
                    assert!(message.contains("feature gate is not enabled"), "{file}: {message}");
                    config.feature_gates.insert(gate.trim_start_matches("gate:").to_owned());
                    let with_gate = admit(object, &config);
                    assert!(matches!(with_gate, Outcome::Machine(_)), "{file}: {with_gate:?}");
                }
                _ => panic!("{file}: {verdict} expected, {outcome:?}"),
            }
        }
    }
    assert!(files.is_empty(), "no verdict for {:?}", files.keys());
}

#[test]
fn examples_become_machines() {
    let mut config = ClusterDefaults::default();
    config.feature_gates.insert("HostDisk".to_owned());
    let mut machines = BTreeMap::new();
    for (file, objects) in yaml_files("../../examples") {
        for object in objects.into_iter().filter(|object| object["apiVersion"] == "kubevirt.io/v1") {
            match admit(object, &config) {
                Outcome::Machine(machine) => machines.insert(machine.name.clone(), *machine),
                other => panic!("{file}: {other:?}"),
            };
        }
    }
    let big = &machines["multiqueue-hugepages"];
    assert_eq!(big.cpu.vcpus(), 4);
    assert_eq!(big.memory.guest, Bytes::mib(256));
    assert_eq!(big.memory.huge_pages.map(|page| page.pages(big.memory.guest)), Some(128));
    assert_eq!(
        big.interfaces.iter().map(|nic| (nic.queues, nic.binding)).collect::<Vec<_>>(),
        [(4, Binding::Masquerade)]
    );
    assert!(!big.devices.graphics && big.devices.serial_console);
    let plain = &machines["plain"];
    assert_eq!((plain.interfaces[0].queues, plain.interfaces[0].binding), (1, Binding::Masquerade));
    assert_eq!(machines["emptydisk"].disks[0].source, Source::EmptyDisk { capacity: Bytes::mib(64) });
    let host =
        Source::HostDisk { path: "/var/lib/ferrovirt-disks/data.img".into(), create: Some(Bytes::mib(64)) };
    assert_eq!(machines["hostdisk"].disks[0].source, host);
    let claim = Source::Claim { claim: "pvc-example".into(), read_only: false, ephemeral: false };
    assert_eq!(machines["pvc"].disks[0].source, claim);
}

fn machine_of(spec: Value) -> Machine {
    let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "vm"}, "spec": spec});
    match admit(object, &ClusterDefaults::default()) {
        Outcome::Machine(machine) => *machine,
        other => panic!("{other:?}"),
    }
}

/// One queue for each vCPU, for virtio only, and only where it is asked for.
#[test]
fn queues() {
    let nic = |cpu: Value, multiqueue: bool, model: &str| {
        let machine = machine_of(json!({
            "domain": {
                "cpu": cpu, "memory": {"guest": "64Mi"},
                "devices": {
                    "networkInterfaceMultiqueue": multiqueue,
                    "interfaces": [{"name": "default", "masquerade": {}, "model": model}],
                },
            },
            "networks": [{"name": "default", "pod": {}}],
        }));
        (machine.interfaces[0].model, machine.interfaces[0].queues)
    };
    assert_eq!(nic(json!({"cores": 2}), true, ""), (NicModel::Virtio, 2));
    assert_eq!(nic(json!({"cores": 2}), false, "virtio"), (NicModel::Virtio, 1));
    assert_eq!(nic(json!({"sockets": 2, "cores": 3, "threads": 2}), true, "virtio"), (NicModel::Virtio, 12));
    assert_eq!(nic(json!({"sockets": 2, "maxSockets": 8}), true, ""), (NicModel::Virtio, 2));
    assert_eq!(nic(json!({"cores": 255}), true, ""), (NicModel::Virtio, 255));
    assert_eq!(nic(json!({"cores": 4}), true, "e1000"), (NicModel::E1000, 1));
    assert_eq!(nic(json!({}), true, ""), (NicModel::Virtio, 1));
}

#[test]
fn defaults_fill_the_gaps() {
    let machine = machine_of(json!({
        "domain": {"cpu": {"model": "EPYC"}, "resources": {"requests": {"cpu": "2200m", "memory": "1Gi"}}, "devices": {}},
        "volumes": [
            {"name": "root", "containerDisk": {"image": "a/b:1"}},
            {"name": "seed", "cloudInitNoCloud": {"userDataBase64": "aGk=", "networkDataSecretRef": {"name": "net"}}},
        ],
    }));
    assert_eq!((machine.cpu.sockets, machine.cpu.cores, machine.cpu.threads), (3, 1, 1));
    assert_eq!((machine.cpu.model.as_str(), machine.cpu.request_millis), ("EPYC", Some(2200)));
    assert_eq!((machine.memory.guest, machine.memory.request), (Bytes::mib(1024), Some(Bytes::mib(1024))));
    assert_eq!((machine.machine_type.as_str(), machine.grace_seconds, machine.acpi), ("q35", 30, true));
    assert!(machine.disks.iter().all(|disk| disk.bus == Bus::Sata));
    let seed = Source::CloudInit {
        user_data: Some(Payload::Inline(b"hi".to_vec())),
        network_data: Some(Payload::Secret("net".into())),
    };
    assert_eq!(machine.disks[1].source, seed);

    let page = json!({"domain": {"memory": {"hugepages": {"pageSize": "2Mi"}}, "devices": {"autoattachPodInterface": false}}});
    let mut vmi =
        VirtualMachineInstance { spec: serde_json::from_value(page).unwrap(), ..Default::default() };
    default_vmi(&mut vmi, &ClusterDefaults::default());
    assert_eq!(vmi.spec.domain.memory.unwrap().guest.unwrap().0, "2Mi");
    assert!(vmi.spec.networks.is_empty());
    let status = vmi.status.unwrap();
    assert_eq!((status.phase.as_deref(), status.runtime_user), (Some("Pending"), Some(107)));
    assert_eq!(vmi.metadata.finalizers.unwrap(), ["kubevirt.io/foregroundDeleteVirtualMachine"]);
}

/// The cluster's configuration is followed.
#[test]
fn configuration() {
    let kubevirt = json!({"spec": {"configuration": {
        "cpuModel": "Haswell", "machineType": "pc-q35-8.2", "vmRolloutStrategy": "Stage", "evictionStrategy": "None",
        "network": {"defaultNetworkInterface": "bridge"},
        "developerConfiguration": {"featureGates": ["HostDisk"], "disabledFeatureGates": ["PasstBinding"]},
    }}});
    let kubevirt: ferrovirt_api::kubevirt::KubeVirt = serde_json::from_value(kubevirt).unwrap();
    let config = ClusterDefaults::from(&kubevirt);
    assert!(config.gate("HostDisk") && !config.gate("PasstBinding") && config.gate("RebootPolicy"));
    let spec = json!({"domain": {"devices": {}, "memory": {"guest": "2Gi"}, "resources": {"limits": {"memory": "1Gi"}}}});
    let mut vmi =
        VirtualMachineInstance { spec: serde_json::from_value(spec).unwrap(), ..Default::default() };
    default_vmi(&mut vmi, &config);
    assert!(vmi.spec.domain.devices.interfaces[0].bridge.is_some());
    assert_eq!(vmi.spec.domain.cpu.as_ref().unwrap().model.as_deref(), Some("Haswell"));
    let causes = validate_vmi(&vmi, &config, false);
    assert_eq!(causes.len(), 1);
    assert_eq!(
        causes[0].message,
        "spec.domain.memory.guest '2Gi' must be equal to or less than the memory limit spec.domain.resources.limits.memory '1Gi'"
    );
}
