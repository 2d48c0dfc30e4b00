//! The volumes of a launcher's pod, as the API server looks at them: for every machine that validation accepts.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

use std::collections::BTreeSet;

use ferrovirt_api::{ClusterDefaults, default_vmi, kubevirt::VirtualMachineInstance, machine, validate_vmi};
use ferrovirt_kubernetes::names::label_errors;
use ferrovirt_model::Profile;
use ferrovirt_privilege::{DeviceSource, Right, Surface, Surroundings, grants, machine_grants};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Names of volumes that the table gives a machine's pod, whatever the machine's own are called.
fn own_names() -> BTreeSet<String> {
    let all = ferrovirt_privilege::Feature::ALL
        .into_iter()
        .flat_map(|feature| [Profile::Minimal, Profile::Documented].map(|profile| grants(feature, profile)))
        .flatten()
        .filter(|grant| {
            [ferrovirt_privilege::Subject::Qemu, ferrovirt_privilege::Subject::Launcher]
                .contains(&grant.subject)
        })
        .flat_map(|grant| grant.rights);
    let names = all.filter_map(|right| match right {
        Right::Mount { volume, .. } if !volume.contains('{') => Some((*volume).to_owned()),
        _ => None,
    });
    names.collect()
}

/// A machine with these volumes, huge pages, a kernel of its own and whatever else brings volumes.
fn instance(volumes: &[Value]) -> VirtualMachineInstance {
    let disks: Vec<Value> =
        volumes.iter().map(|volume| json!({"name": volume["name"], "disk": {"bus": "virtio"}})).collect();
    let domain = json!({
        "devices": {"disks": disks},
        "memory": {"guest": "64Mi", "hugepages": {"pageSize": "2Mi"}},
        "firmware": {"kernelBoot": {"container": {"image": "k", "kernelPath": "/k"}}},
    });
    let object = json!({
        "metadata": {"name": "vm", "namespace": "a"},
        "spec": {"domain": domain, "volumes": volumes},
    });
    serde_json::from_value(object).unwrap()
}

/// Names of the volumes of the pod, or none where the machine is refused.
fn pod(volumes: &[Value], profile: Profile) -> Option<Vec<String>> {
    let mut config = ClusterDefaults::default();
    config.feature_gates.insert("HostDisk".into());
    let mut vmi = instance(volumes);
    default_vmi(&mut vmi, &config);
    if !validate_vmi(&vmi, &config, false).is_empty() {
        return None;
    }
    let around = Surroundings { slot: true, block_claims: ["block".to_owned()].into(), ..Default::default() };
    let rights = machine_grants(&machine(&vmi).unwrap(), &around, profile).on(Surface::Pod);
    let names = rights.into_iter().filter_map(|right| match right {
        Right::Mount { volume, .. } => Some(volume),
        Right::Device { path, source: DeviceSource::Claim(_), .. } => {
            Some(path.strip_prefix("/dev/").unwrap().to_owned())
        }
        _ => None,
    });
    Some(names.collect())
}

fn source() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"containerDisk": {"image": "x"}}),
        json!({"hostDisk": {"path": "/srv/a.img", "type": "Disk"}}),
        json!({"persistentVolumeClaim": {"claimName": "c"}}),
        json!({"persistentVolumeClaim": {"claimName": "block"}}),
        json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}),
        json!({"emptyDisk": {"capacity": "1Mi"}}),
        json!({"cloudInitNoCloud": {"userData": "x"}}),
        json!({"cloudInitNoCloud": {"secretRef": {"name": "s"}, "networkDataSecretRef": {"name": "n"}}}),
    ])
}

fn name() -> impl Strategy<Value = String> {
    let mut names: Vec<String> = own_names().into_iter().collect();
    names.extend(["a", "a-udata", "a-ndata", "A", "a.b", "-a", ""].map(str::to_owned));
    names.extend([57, 58, 63, 64].map(|length| "x".repeat(length)));
    prop::sample::select(names)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The API server refuses a pod with two volumes of one name, or one whose name is no label: its machine would be accepted and
    /// never start.
    #[test]
    fn the_pod_of_a_machine_that_is_accepted_is_accepted(
        volumes in prop::collection::vec((name(), source()), 1..4),
    ) {
        let volumes: Vec<Value> = volumes
            .into_iter()
            .map(|(name, mut source)| {
                source["name"] = json!(name);
                source
            })
            .collect();
        for profile in [Profile::Minimal, Profile::Documented] {
            let Some(names) = pod(&volumes, profile) else { continue };
            let mut seen = BTreeSet::new();
            for name in names {
                prop_assert!(label_errors(&name).is_empty(), "{name}: {volumes:?}");
                prop_assert!(seen.insert(name.clone()), "two volumes {name}: {volumes:?}");
            }
        }
    }
}

/// The machines that are tried are accepted at all, and the names of the table are refused.
#[test]
fn names_of_the_table_are_refused_and_others_are_not() {
    let own = own_names();
    assert!(own.len() > 3, "{own:?}");
    let disk = |name: &str| [json!({"name": name, "containerDisk": {"image": "x"}})];
    assert!(pod(&disk("root"), Profile::Minimal).is_some_and(|names| names.contains(&"root".to_owned())));
    for name in own {
        assert_eq!(pod(&disk(&name), Profile::Minimal), None, "{name}");
    }
}
