//! What a pod asks of the scheduler and how it is found.

use super::*;
use crate::{
    config::{ClusterConfig, World},
    samples,
};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_model::{Bytes, Machine, PageSize, Profile};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;

const MI: u64 = 1 << 20;

fn render(machine: &Machine, config: &ClusterConfig) -> Pod {
    let mut owner = VirtualMachineInstance::default();
    owner.metadata.uid = Some(machine.uid.clone());
    owner.metadata.labels =
        Some([("app".to_owned(), "web".to_owned()), ("kubevirt.io".to_owned(), "mine".to_owned())].into());
    owner.metadata.annotations = Some(
        [
            ("example.com/note", "kept"),
            ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
            ("kubevirt.io/latest-observed-api-version", "v1"),
            ("openshift.io/required-scc", "privileged"),
            ("run.oci.seccomp_bpf_data", "AAAA"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    );
    pod(machine, &owner, config)
}

/// Requests and limits as texts.
fn asked(machine: &Machine, config: &ClusterConfig) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let resources = render(machine, config).spec.unwrap().containers.remove(0).resources.unwrap();
    let texts = |map: Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        map.unwrap_or_default().into_iter().map(|(name, quantity)| (name, quantity.0)).collect()
    };
    (texts(resources.requests), texts(resources.limits))
}

fn emulated() -> ClusterConfig {
    ClusterConfig { use_emulation: true, ..ClusterConfig::default() }
}

#[test]
fn memory_is_the_guests_and_the_overhead() {
    let mut machine = samples::plain();
    machine.memory.guest = Bytes::mib(512);
    let config = emulated();
    let over = |request| overhead(&machine, request, true).0;
    let (requests, limits) = asked(&machine, &config);
    assert_eq!(requests["memory"], Bytes(512 * MI + over(Bytes::mib(512))).to_string());
    assert!(limits.is_empty());
    assert_eq!(requests["cpu"], "100m");
    assert_eq!(requests["ephemeral-storage"], "50000000");

    let half = ClusterConfig { memory_overcommit: 200, ..emulated() };
    let (requests, _) = asked(&machine, &half);
    assert_eq!(requests["memory"], Bytes(256 * MI + over(Bytes::mib(256))).to_string());

    machine.memory.limit = Some(Bytes::mib(640));
    machine.cpu.limit_millis = Some(2000);
    let over = overhead(&machine, Bytes::mib(640), true).0;
    let (requests, limits) = asked(&machine, &config);
    assert_eq!(requests["memory"], Bytes(640 * MI + over).to_string());
    assert_eq!(limits["memory"], requests["memory"]);
    assert_eq!((requests["cpu"].as_str(), limits["cpu"].as_str()), ("2000m", "2000m"));
}

#[test]
fn huge_pages_hold_the_guest_and_memory_the_rest() {
    let mut machine = samples::plain();
    machine.memory.guest = Bytes::mib(64);
    machine.memory.huge_pages = PageSize::new(2 * MI);
    machine.memory.request = Some(Bytes::mib(80));
    let (requests, limits) = asked(&machine, &emulated());
    assert_eq!(requests["hugepages-2Mi"], "64Mi");
    assert_eq!(limits["hugepages-2Mi"], "64Mi");
    let over = overhead(&machine, Bytes::mib(80), true).0;
    assert_eq!(requests["memory"], Bytes(16 * MI + over).to_string());
    assert!(!limits.contains_key("memory"));
}

#[test]
fn devices_are_asked_for_where_they_are_used() {
    let machine = samples::full();
    let devices = |config: &ClusterConfig| {
        let (requests, limits) = asked(&machine, config);
        let devices = |map: &BTreeMap<String, String>| {
            map.keys().filter(|name| name.contains("kubevirt.io/")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(devices(&requests), devices(&limits));
        devices(&requests)
    };
    assert_eq!(devices(&ClusterConfig::default()), ["devices.kubevirt.io/kvm"]);
    assert!(devices(&emulated()).is_empty());
    let documented = ClusterConfig { profile: Profile::Documented, ..emulated() };
    assert_eq!(devices(&documented), ["devices.kubevirt.io/tun"]);
}

#[test]
fn a_pod_is_found_by_its_machine_and_owned_by_it() {
    let machine = samples::plain();
    let pod = render(&machine, &emulated());
    let labels = pod.metadata.labels.unwrap();
    assert_eq!(labels["kubevirt.io"], "virt-launcher");
    assert_eq!(labels["app"], "web");
    assert_eq!(labels["kubevirt.io/created-by"], machine.uid);
    assert_eq!(labels["vm.kubevirt.io/name"], "small");
    let annotations: Vec<_> = pod.metadata.annotations.unwrap().into_keys().collect();
    assert_eq!(
        annotations,
        [
            "example.com/note",
            "kubectl.kubernetes.io/default-container",
            "kubevirt.io/domain",
            "kubevirt.io/memory-overhead-bytes",
            "openshift.io/required-scc",
        ]
    );
    let owner = &pod.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.controller), ("VirtualMachineInstance", Some(true)));
    assert_eq!(pod.spec.unwrap().termination_grace_period_seconds, Some(60));
}

#[test]
fn names_are_deterministic_distinct_and_valid() {
    assert_eq!(pod_name("small", "a"), pod_name("small", "a"));
    assert_ne!(pod_name("small", "a"), pod_name("small", "b"));
    let name = pod_name(&"x".repeat(253), "a");
    assert_eq!(name.len(), 253);
    let many: std::collections::BTreeSet<_> = (0..1000).map(|n| pod_name("m", &format!("uid-{n}"))).collect();
    assert_eq!(many.len(), 1000);

    let mut machine = samples::plain();
    machine.name = format!("{}.long.example", "y".repeat(70));
    let pod = render(&machine, &emulated());
    assert_eq!(pod.spec.unwrap().hostname.unwrap(), "y".repeat(63));
    assert!(pod.metadata.labels.unwrap()["vmi.kubevirt.io/id"].len() <= 63);
}

#[test]
fn installation_has_one_object_of_a_name() {
    let config = ClusterConfig::default();
    let all = [install(&config), install::embedded(&config)].concat();
    let key = |manifest: &serde_json::Value| {
        [&manifest["kind"], &manifest["metadata"]["namespace"], &manifest["metadata"]["name"]]
            .map(ToString::to_string)
    };
    let keys: std::collections::BTreeSet<_> = all.iter().map(key).collect();
    assert_eq!(keys.len(), all.len());
    let sccs = all.iter().filter(|manifest| manifest["kind"] == "SecurityContextConstraints").count();
    assert_eq!(sccs, 15);
}

#[test]
fn records_are_looked_at_before_any_machine_can_be_stored() {
    for platform in [cluster::Platform::Kubernetes, cluster::Platform::Okd] {
        let all = cluster(&cluster::Options { platform, ..cluster::Options::default() });
        let kinds: Vec<&str> = all.iter().map(ferrovirt_kubernetes::object::kind).collect();
        assert_eq!(kinds[..2], ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]);
        assert!(all[..2].iter().all(|policy| policy["metadata"]["name"] == machine_rights::NAME));
        let names = all.iter().filter(|manifest| manifest["metadata"]["name"] == machine_rights::NAME);
        assert_eq!(names.count(), 2, "it is there once");
    }
}

#[test]
fn a_pod_is_bound_to_what_was_decided_about_its_machine() {
    let mut owner = VirtualMachineInstance::default();
    let recorded = |owner: &VirtualMachineInstance, world| {
        let config = ClusterConfig { world, ..emulated() };
        let pod = pod(&samples::plain(), owner, &config);
        pod.metadata.annotations.unwrap().remove(ferrovirt_scc::REQUIRED_SCC).unwrap()
    };
    let name = crate::scc::rights::POD_SCC.to_owned();
    for world in [World::Machine, World::Cluster] {
        assert_eq!(recorded(&owner, world), "restricted-v2", "nothing is recorded");
    }
    owner.metadata.annotations = Some([(name, "kubevirt-controller".to_owned())].into());
    for world in [World::Machine, World::Cluster] {
        assert_eq!(recorded(&owner, world), "kubevirt-controller");
    }
}

#[test]
fn webhooks_of_machines_are_asked_about_our_kinds_alone_and_never_about_a_deletion() {
    let configurations = api::configurations();
    let webhooks: Vec<_> = configurations
        .iter()
        .flat_map(|configuration| configuration["webhooks"].as_array().unwrap())
        .collect();
    assert_eq!(webhooks.len(), 7);
    for webhook in webhooks {
        let name = webhook["name"].as_str().unwrap();
        for rule in webhook["rules"].as_array().unwrap() {
            assert_eq!(rule["apiGroups"], serde_json::json!(["kubevirt.io"]), "{name}");
            let operations = rule["operations"].as_array().unwrap();
            assert!(
                operations.iter().all(|operation| operation == "CREATE" || operation == "UPDATE"),
                "{name}: {operations:?}"
            );
            // States of machines have a resource of their own, or come from our accounts.
            let resources = rule["resources"].as_array().unwrap();
            assert!(
                resources.iter().all(|resource| !resource.as_str().unwrap().contains(['/', '*'])),
                "{name}: {resources:?}"
            );
        }
        let conditions = webhook["matchConditions"].as_array().unwrap();
        for words in ["kubevirt-controller", "kubevirt-handler", "kubevirt-api"] {
            assert!(conditions[0]["expression"].as_str().unwrap().contains(words), "{name}: {words}");
        }
        assert_eq!(conditions[1]["name"], "decided", "{name}");
    }
}
