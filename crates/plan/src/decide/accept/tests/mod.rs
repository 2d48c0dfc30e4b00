//! What the node accepts beside the rendered pod, row by row, and what it refuses.

mod attacks;
mod rows;

use super::*;
use crate::{
    config::{LauncherRights, World},
    samples,
    scc::admission,
};
use ferrovirt_model::{Machine, Profile};
use ferrovirt_privilege::{Label, cluster_grants};
use k8s_openapi::api::core::v1::{Affinity, Toleration};
use serde_json::json;
use std::collections::BTreeMap;
use table::TABLE;

pub(super) const NODE: &str = "node-1";

pub(super) fn namespace() -> Value {
    json!({"metadata": {"annotations": {
        "openshift.io/sa.scc.uid-range": "1000620000/10000",
        "openshift.io/sa.scc.mcs": "s0:c25,c10",
        "openshift.io/sa.scc.supplemental-groups": "1000620000/10000",
        "openshift.io/node-selector": "zone=a, tier=gold",
    }}})
}

pub(super) fn rendered_of(machine: &Machine, config: &ClusterConfig) -> Pod {
    let mut owner = VirtualMachineInstance::default();
    owner.metadata.uid = Some(machine.uid.clone());
    owner.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
    render::pod::pod_with_claims(machine, &owner, config, &["block".to_owned()].into())
}

fn rendered() -> Value {
    untyped(&rendered_of(&samples::full(), &ClusterConfig::default()))
}

fn found_at(actual: &Value, should: &Value, step: Step) -> Vec<String> {
    let namespace = namespace();
    let place = Place { node: NODE, namespace: &namespace };
    differences(actual, should, &place, step).into_iter().map(|found| found.field).collect()
}

fn found(actual: &Value) -> Vec<String> {
    found_at(actual, &rendered(), Step::Start)
}

/// The pod with a value at a path; missing objects on the way are made, `-` appends to a list.
pub(super) fn with(pod: &Value, path: &[&str], value: Value) -> Value {
    let mut pod = pod.clone();
    let mut place = &mut pod;
    for part in path {
        place = match place {
            Value::Array(list) => {
                if *part == "-" {
                    list.push(Value::Null);
                    list.last_mut().unwrap()
                } else {
                    list.get_mut(part.parse::<usize>().unwrap()).unwrap()
                }
            }
            place => {
                if place.is_null() {
                    *place = if *part == "-" { json!([]) } else { json!({}) };
                }
                if *part == "-" {
                    let list = place.as_array_mut().unwrap();
                    list.push(Value::Null);
                    list.last_mut().unwrap()
                } else {
                    place.as_object_mut().unwrap().entry((*part).to_owned()).or_insert(Value::Null)
                }
            }
        };
    }
    *place = value;
    pod
}

/// What the embedded API server and a scheduler make of a pod; the SCC is the same crate's as there.
pub(super) fn admitted(pod: &Pod) -> Value {
    let grants = cluster_grants(Profile::Documented);
    let own = [render::scc::controller(&grants), render::scc::machine(&grants)];
    let mut pod = admission::admit(pod, &own).unwrap().pod;
    for (path, value) in [
        (vec!["spec", "dnsPolicy"], json!("ClusterFirst")),
        (vec!["spec", "schedulerName"], json!("default-scheduler")),
        (vec!["spec", "priority"], json!(0)),
        (vec!["spec", "preemptionPolicy"], json!("PreemptLowerPriority")),
        (vec!["spec", "serviceAccountName"], json!("default")),
        (vec!["spec", "serviceAccount"], json!("default")),
        (vec!["spec", "nodeName"], json!(NODE)),
        (vec!["spec", "containers", "0", "terminationMessagePath"], json!("/dev/termination-log")),
        (vec!["metadata", "uid"], json!("u")),
        (vec!["metadata", "resourceVersion"], json!("7")),
        (vec!["metadata", "creationTimestamp"], json!("2026-01-01T00:00:00Z")),
        (vec!["metadata", "annotations", "k8s.ovn.org/pod-networks"], json!("{}")),
        (vec!["metadata", "labels", "team"], json!("blue")),
        (vec!["status"], json!({"phase": "Pending", "qosClass": "Burstable"})),
    ] {
        pod = with(&pod, &path, value);
    }
    for index in 0..json::list(&pod["spec"], "initContainers").count() {
        let path = ["spec", "initContainers", &index.to_string(), "terminationMessagePath"];
        pod = with(&pod, &path, json!("/dev/termination-log"));
    }
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let toleration =
            json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        pod = with(&pod, &["spec", "tolerations", "-"], toleration);
    }
    pod
}

/// A cluster that mounts no images.
fn served(profile: Profile) -> ClusterConfig {
    let image = "registry.example/launcher:1".to_owned();
    let config = ClusterConfig::on_cluster(profile, image, None);
    ClusterConfig { serves_images: true, launcher_rights: Some(LauncherRights::Controller), ..config }
}

#[test]
fn containers_of_images_are_those_that_the_controller_makes() {
    let pod = rendered_of(&samples::full(), &served(Profile::Minimal));
    let (should, actual) = (untyped(&pod), admitted(&pod));
    let names: Vec<&Value> =
        json::list(&should["spec"], "initContainers").map(|container| &container["name"]).collect();
    let status = |name: &str| json!([{"name": name, "restartCount": 3, "state": {"running": {}}}]);
    let known = names.last().unwrap().as_str().unwrap();
    assert!(
        found_at(&with(&actual, &["status", "initContainerStatuses"], status(known)), &should, Step::Serve)
            .is_empty()
    );
    for (path, value, field) in [
        (vec!["status", "initContainerStatuses"], status("another"), "status.initContainerStatuses"),
        (vec!["spec", "initContainers", "1", "image"], json!("x"), "spec.initContainers[1].image"),
        (
            vec!["spec", "initContainers", "1", "command", "0"],
            json!("sh"),
            "spec.initContainers[1].command[0]",
        ),
        (vec!["spec", "initContainers", "0", "env"], json!([{"name": "x"}]), "spec.initContainers[0].env"),
        (
            vec!["spec", "initContainers", "1", "securityContext", "runAsUser"],
            json!(0),
            "spec.initContainers[1].securityContext.runAsUser",
        ),
    ] {
        assert_eq!(found_at(&with(&actual, &path, value), &should, Step::Start), [field]);
    }
}

#[test]
fn images_as_volumes_and_as_containers_are_the_controllers_on_a_cluster_alone() {
    let vmi: VirtualMachineInstance = serde_json::from_value(json!({
        "metadata": {"name": "m", "namespace": "demo", "uid": "u"},
        "spec": {
            "domain": {"memory": {"guest": "64Mi"}, "devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}]}},
            "volumes": [{"name": "root", "containerDisk": {"image": "team/guest:1"}}],
        },
    }))
    .unwrap();
    let forms = |config: &ClusterConfig| {
        let all = candidates(&vmi, config, &BTreeSet::new(), false).unwrap();
        all.iter().map(|pod| pod.pointer("/spec/initContainers").is_some()).collect::<Vec<_>>()
    };
    assert_eq!(forms(&ClusterConfig::default()), [false]);
    assert_eq!(forms(&ClusterConfig { world: World::Cluster, ..ClusterConfig::default() }), [false, true]);
    assert_eq!(forms(&served(Profile::Minimal)), [true, false]);
    let mut plain = vmi.clone();
    plain.spec.volumes.clear();
    plain.spec.domain.devices.disks.clear();
    let all = candidates(&plain, &served(Profile::Minimal), &BTreeSet::new(), false).unwrap();
    assert_eq!(all.len(), 1, "there is no image");
}

/// Machines of both profiles, with and without label and with what their author may set.
fn all() -> Vec<Pod> {
    let config = |profile| ClusterConfig {
        profile,
        // Admission decides by the SCC alone here.
        launcher_rights: Some(LauncherRights::Controller),
        ..ClusterConfig::default()
    };
    let mut pods = Vec::new();
    for profile in [Profile::Minimal, Profile::Documented] {
        for machine in [samples::plain(), samples::full()] {
            pods.push(rendered_of(&machine, &config(profile)));
            pods.push(rendered_of(&machine, &served(profile)));
            let surroundings = ferrovirt_privilege::Surroundings {
                label: Some(Label { kind: "virt_launcher.process".to_owned(), level: "s0:c1,c2".to_owned() }),
                ..config(profile).surroundings(&BTreeSet::new())
            };
            let mut owner = VirtualMachineInstance::default();
            owner.metadata.uid = Some(machine.uid.clone());
            owner.spec.tolerations = vec![Toleration {
                key: Some("gpu".to_owned()),
                operator: Some("Exists".to_owned()),
                ..Toleration::default()
            }];
            owner.spec.affinity = Some(Affinity::default());
            pods.push(render::pod::pod_in(&machine, &owner, &config(profile), &surroundings));
        }
    }
    pods
}

#[test]
fn every_rendered_pod_is_accepted_as_admission_and_scheduler_leave_it() {
    for pod in all() {
        let (should, actual) = (untyped(&pod), admitted(&pod));
        for step in [Step::Start, Step::Serve] {
            assert_eq!(found_at(&actual, &should, step), [""; 0], "{actual}");
            assert_eq!(found_at(&actual, &essence(&actual), step), [""; 0], "the same pod, later");
        }
        // A watch brings the typed pod.
        let typed: Pod = serde_json::from_value(actual.clone()).unwrap();
        assert_eq!(found_at(&untyped(&typed), &essence(&actual), Step::Serve), [""; 0]);
    }
}

#[test]
fn a_label_is_asked_for_where_the_controller_recorded_a_level() {
    let vmi = |level: Option<&str>| -> VirtualMachineInstance {
        let mut vmi: VirtualMachineInstance = serde_json::from_value(json!({
            "metadata": {"name": "m", "namespace": "demo", "uid": "u"},
            "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}},
        }))
        .unwrap();
        vmi.status.get_or_insert_default().selinux_level = level.map(str::to_owned);
        vmi
    };
    let labels = |level, label_pods, knows| {
        let config = ClusterConfig { label_pods, ..ClusterConfig::default() };
        let pods = candidates(&vmi(level), &config, &BTreeSet::new(), knows).unwrap();
        pods.iter()
            .map(|pod| pod.pointer("/spec/securityContext/seLinuxOptions").is_some())
            .collect::<Vec<_>>()
    };
    let level = Some("s0:c1,c2");
    assert_eq!(labels(None, LabelPods::Auto, true), [false]);
    assert_eq!(labels(level, LabelPods::Auto, true), [true]);
    assert_eq!(labels(level, LabelPods::Auto, false), [true, false]);
    assert_eq!(labels(level, LabelPods::Always, false), [true]);
    assert_eq!(labels(level, LabelPods::Never, true), [false]);
}

#[test]
fn a_pod_that_is_deleted_is_served_to_its_end_but_not_started() {
    let deleted = with(&rendered(), &["metadata", "deletionTimestamp"], json!("2026-01-01T00:00:00Z"));
    let deleted = with(&deleted, &["metadata", "deletionGracePeriodSeconds"], json!(30));
    assert_eq!(found_at(&deleted, &rendered(), Step::Serve), [""; 0]);
    assert!(!found_at(&deleted, &rendered(), Step::Start).is_empty());
}

#[test]
fn a_later_change_of_an_accepted_pod_is_seen_without_the_namespace() {
    let accepted = admitted(&rendered_of(
        &samples::full(),
        &ClusterConfig { launcher_rights: Some(LauncherRights::Controller), ..ClusterConfig::default() },
    ));
    let later = |pod: &Value| {
        let place = Place { node: NODE, namespace: &Value::Null };
        differences(pod, &essence(&accepted), &place, Step::Serve)
            .into_iter()
            .map(|found| found.field)
            .collect::<Vec<_>>()
    };
    assert_eq!(later(&accepted), [""; 0]);
    assert_eq!(later(&with(&accepted, &["metadata", "labels", "free"], json!("yes"))), [""; 0]);
    let image = with(&accepted, &["spec", "containers", "0", "image"], json!("evil"));
    assert_eq!(later(&image), ["spec.containers[0].image"]);
    let toleration = with(&accepted, &["spec", "tolerations", "-"], json!({"operator": "Exists"}));
    assert_eq!(later(&toleration).len(), 1);
    let user =
        with(&accepted, &["spec", "containers", "0", "securityContext", "runAsUser"], json!(1_000_620_001));
    assert_eq!(later(&user).len(), 1, "another number of the range is a change, too");
}

#[test]
fn texts_are_short_and_plain_whatever_the_pod_says() {
    let mut pod = rendered();
    for n in 0..100 {
        pod["spec"][format!("x{n}\u{1b}[2J\n")] = json!("y".repeat(10_000));
    }
    let namespace = namespace();
    let place = Place { node: NODE, namespace: &namespace };
    let found = differences(&pod, &rendered(), &place, Step::Start);
    assert_eq!(found.len(), MOST);
    let said = sentence(&found);
    assert!(said.len() < 4096 && !said.chars().any(char::is_control), "{said}");
}
