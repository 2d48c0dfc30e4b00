//! What the node accepts beside the rendered pod, row by row, and what it refuses.

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
    let names: Vec<&Value> = json::list(&should["spec"], "initContainers").map(|one| &one["name"]).collect();
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

/// For each row of the table: where, what it allows, and near misses.
fn rows() -> Vec<(Vec<&'static str>, Vec<Value>, Vec<Value>)> {
    let container = |rest: &[&'static str]| [&["spec", "containers", "0"], rest].concat();
    let toleration = |key: &str, effect: &str| json!({"key": key, "operator": "Exists", "effect": effect});
    let mut unreachable = toleration("node.kubernetes.io/unreachable", "NoExecute");
    unreachable["tolerationSeconds"] = json!(300);
    let mut elsewhere = unreachable.clone();
    elsewhere["key"] = json!("gpu");
    vec![
        (vec!["spec", "dnsPolicy"], vec![json!("ClusterFirst")], vec![json!("Default"), json!("None")]),
        (vec!["spec", "schedulerName"], vec![json!("default-scheduler")], vec![json!("mine")]),
        (
            container(&["terminationMessagePath"]),
            vec![json!("/dev/termination-log")],
            vec![json!("/etc/shadow")],
        ),
        (
            container(&["resizePolicy"]),
            vec![json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}])],
            vec![
                json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]),
                json!([{"resourceName": "cpu", "restartPolicy": "NotRequired", "x": 1}]),
            ],
        ),
        (
            container(&["resources", "requests", "ephemeral-storage"]),
            vec![json!("50M")],
            vec![json!("51M"), json!("many"), json!("1")],
        ),
        (
            container(&["resources", "limits", "hugepages-2Mi"]),
            vec![json!("131072Ki")],
            vec![json!("64Gi"), json!("")],
        ),
        (vec!["spec", "serviceAccountName"], vec![json!("default")], vec![json!("builder")]),
        (vec!["spec", "serviceAccount"], vec![json!("default")], vec![json!("builder")]),
        (
            vec!["spec", "imagePullSecrets"],
            vec![json!([{"name": "registry"}])],
            vec![json!([{"name": "registry", "x": 1}]), json!([1])],
        ),
        (
            vec!["spec", "tolerations", "-"],
            vec![unreachable],
            vec![
                elsewhere,
                json!({"operator": "Exists"}),
                toleration("node.kubernetes.io/not-ready", "NoExecute"),
            ],
        ),
        (
            vec!["spec", "tolerations", "-"],
            vec![toleration("node.kubernetes.io/memory-pressure", "NoSchedule")],
            vec![toleration("node.kubernetes.io/disk-pressure", "NoSchedule")],
        ),
        (
            vec!["spec", "tolerations", "-"],
            vec![json!({"key": "devices.kubevirt.io/kvm", "operator": "Exists"})],
            vec![
                json!({"key": "devices.kubevirt.io/other", "operator": "Exists"}),
                json!({"key": "cpu", "operator": "Exists"}),
            ],
        ),
        (vec!["spec", "nodeSelector", "tier"], vec![json!("gold")], vec![json!("silver")]),
        (vec!["spec", "priorityClassName"], vec![json!("usual")], vec![json!("system-node-critical")]),
        (vec!["spec", "priority"], vec![json!(0), json!(-5)], vec![json!(2_000_000_000), json!("0")]),
        (
            vec!["spec", "preemptionPolicy"],
            vec![json!("PreemptLowerPriority"), json!("Never")],
            vec![json!("Always")],
        ),
        (
            container(&["resources", "limits", "memory"]),
            vec![json!("8Gi")],
            vec![json!("1Ki"), json!("0"), json!("many")],
        ),
        (vec!["spec", "nodeName"], vec![json!(NODE)], vec![json!("node-2")]),
        (
            vec!["spec", "securityContext", "fsGroup"],
            vec![json!(1_000_620_000)],
            vec![json!(0), json!(107), json!(1_000_630_000)],
        ),
        (
            vec!["spec", "securityContext", "supplementalGroups"],
            vec![json!([1_000_620_000])],
            vec![json!([0]), json!([1_000_620_000, 6])],
        ),
        (
            vec!["spec", "securityContext", "seLinuxOptions"],
            vec![json!({"level": "s0:c25,c10"})],
            vec![
                json!({"level": "s0:c1,c2"}),
                json!({"level": "s0:c25,c10", "type": "spc_t"}),
                json!({"type": "spc_t"}),
            ],
        ),
        (
            container(&["securityContext", "runAsUser"]),
            vec![json!(1_000_620_000), json!(1_000_629_999)],
            vec![
                json!(0),
                json!(107),
                json!(1_000_630_000),
                json!(-1),
                json!("1000620000"),
                json!(4_295_967_296_u64),
            ],
        ),
        (container(&["securityContext", "runAsNonRoot"]), vec![json!(true)], vec![json!(false)]),
        (
            container(&["securityContext", "seccompProfile"]),
            vec![json!({"type": "RuntimeDefault"})],
            vec![json!({"type": "Unconfined"}), json!({"type": "Localhost", "localhostProfile": "x"})],
        ),
        (
            container(&["securityContext", "capabilities", "drop"]),
            vec![json!(["ALL", "KILL"]), json!(["KILL", "ALL"])],
            vec![json!(["KILL"]), json!([])],
        ),
        (
            vec!["metadata", "annotations", "openshift.io/scc"],
            vec![json!("restricted-v2")],
            vec![json!("privileged")],
        ),
        (
            vec!["metadata", "annotations", "security.openshift.io/validated-scc-subject-type"],
            vec![json!("serviceaccount")],
            vec![json!("nobody")],
        ),
        (
            vec!["metadata", "annotations", "seccomp.security.alpha.kubernetes.io/pod"],
            vec![json!("runtime/default")],
            vec![json!("unconfined")],
        ),
    ]
}

#[test]
fn each_row_of_the_table_allows_its_values_and_no_others() {
    let mut pod = rendered();
    // What the sample machine has no field for.
    pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "s", "secret": {"secretName": "x"}}));
    let last = (pod["spec"]["volumes"].as_array().unwrap().len() - 1).to_string();
    let secret: Vec<&str> = vec!["spec", "volumes", &last, "secret", "defaultMode"];
    let mut seen: BTreeSet<&[&str]> = BTreeSet::new();
    let check = |path: &[&str], good: &[Value], bad: &[Value]| {
        for value in good {
            assert_eq!(
                found_at(&with(&pod, path, value.clone()), &pod, Step::Start),
                [""; 0],
                "{path:?} {value}"
            );
        }
        for value in bad {
            let found = found_at(&with(&pod, path, value.clone()), &pod, Step::Start);
            assert_eq!(found.len(), 1, "{path:?} {value}: {found:?}");
        }
    };
    let cases = rows();
    for (path, good, bad) in &cases {
        check(path, good, bad);
        let of = |row: &&table::Row| {
            row.field.len() == path.len()
                && row.field.iter().zip(path).all(|(a, b)| a == b || ["*", "?"].contains(a))
        };
        seen.extend(TABLE.iter().filter(of).map(|row| row.field));
    }
    check(&secret, &[json!(0o644)], &[json!(0o777)]);
    seen.insert(&["spec", "volumes", "*", "secret", "defaultMode"]);
    // All limits at once, where none was rendered.
    let plain = untyped(&rendered_of(
        &samples::plain(),
        &ClusterConfig { use_emulation: true, ..ClusterConfig::default() },
    ));
    let limits = ["spec", "containers", "0", "resources", "limits"];
    let limited = with(&plain, &limits, json!({"memory": "8Gi", "cpu": "4"}));
    assert_eq!(found_at(&limited, &plain, Step::Start), [""; 0]);
    let more = with(&plain, &limits, json!({"memory": "8Gi", "devices.kubevirt.io/kvm": "1"}));
    assert_eq!(found_at(&more, &plain, Step::Start), ["spec.containers[0].resources.limits"]);
    seen.insert(&["spec", "containers", "*", "resources", "limits"]);
    for row in TABLE {
        assert!(seen.contains(row.field), "{:?} has no test", row.field);
        assert!(!row.by.is_empty() && !row.values.is_empty());
    }
}

/// What an attacker puts into a pod of the right name and owner.
#[test]
fn everything_else_is_a_difference_that_names_the_field() {
    let pod = rendered();
    let container = |rest: &[&'static str]| [&["spec", "containers", "0"], rest].concat();
    let extra = json!({"name": "x", "image": "x"});
    for (path, value, field) in [
        (vec!["spec", "os"], json!({"name": "windows"}), "spec.os"),
        (vec!["spec", "hostNetwork"], json!(true), "spec.hostNetwork"),
        (vec!["spec", "hostPID"], json!(true), "spec.hostPID"),
        (vec!["spec", "hostIPC"], json!(true), "spec.hostIPC"),
        (vec!["spec", "hostUsers"], json!(false), "spec.hostUsers"),
        (vec!["spec", "shareProcessNamespace"], json!(true), "spec.shareProcessNamespace"),
        (vec!["spec", "runtimeClassName"], json!("kata"), "spec.runtimeClassName"),
        (vec!["spec", "overhead"], json!({"cpu": "1"}), "spec.overhead"),
        (vec!["spec", "activeDeadlineSeconds"], json!(1), "spec.activeDeadlineSeconds"),
        (vec!["spec", "restartPolicy"], json!("Always"), "spec.restartPolicy"),
        (vec!["spec", "automountServiceAccountToken"], json!(true), "spec.automountServiceAccountToken"),
        (vec!["spec", "initContainers"], json!([extra]), "spec.initContainers"),
        (vec!["spec", "ephemeralContainers"], json!([extra]), "spec.ephemeralContainers"),
        (vec!["spec", "containers", "-"], extra.clone(), "spec.containers[1]"),
        (vec!["spec", "resources"], json!({"limits": {"cpu": "1"}}), "spec.resources"),
        (vec!["spec", "resourceClaims"], json!([{"name": "gpu"}]), "spec.resourceClaims"),
        (vec!["spec", "aFieldOfTheFuture"], json!({"x": 1}), "spec.aFieldOfTheFuture"),
        (vec!["spec", "securityContext", "runAsUser"], json!(0), "spec.securityContext.runAsUser"),
        (
            vec!["spec", "securityContext", "sysctls"],
            json!([{"name": "kernel.x"}]),
            "spec.securityContext.sysctls",
        ),
        (vec!["spec", "securityContext", "runAsNonRoot"], json!(false), "spec.securityContext.runAsNonRoot"),
        (vec!["spec", "securityContext.fsGroup"], json!(1_000_620_000), "spec.securityContext.fsGroup"),
        (container(&["image"]), json!("evil"), "spec.containers[0].image"),
        (container(&["command"]), json!(["bash", "-c", "id"]), "spec.containers[0].command[0]"),
        (container(&["args"]), json!(["-c"]), "spec.containers[0].args"),
        (container(&["workingDir"]), json!("/tmp"), "spec.containers[0].workingDir"),
        (container(&["env", "-"]), json!({"name": "LD_PRELOAD", "value": "/x"}), "spec.containers[0].env[1]"),
        (container(&["envFrom"]), json!([{"secretRef": {"name": "s"}}]), "spec.containers[0].envFrom"),
        (container(&["ports"]), json!([{"containerPort": 22, "hostPort": 22}]), "spec.containers[0].ports"),
        (container(&["stdin"]), json!(true), "spec.containers[0].stdin"),
        (container(&["lifecycle"]), json!({"postStart": {}}), "spec.containers[0].lifecycle"),
        (container(&["livenessProbe"]), json!({"exec": {}}), "spec.containers[0].livenessProbe"),
        (
            container(&["resources", "requests", "cpu"]),
            json!("500"),
            "spec.containers[0].resources.requests.cpu",
        ),
        (
            container(&["resources", "limits", "nvidia.com/gpu"]),
            json!("1"),
            "spec.containers[0].resources.limits.nvidia.com/gpu",
        ),
        (
            container(&["resources", "claims"]),
            json!([{"name": "gpu"}]),
            "spec.containers[0].resources.claims",
        ),
        (
            container(&["securityContext", "privileged"]),
            json!(true),
            "spec.containers[0].securityContext.privileged",
        ),
        (
            container(&["securityContext", "procMount"]),
            json!("Unmasked"),
            "spec.containers[0].securityContext.procMount",
        ),
        (
            container(&["securityContext", "readOnlyRootFilesystem"]),
            json!(false),
            "spec.containers[0].securityContext.readOnlyRootFilesystem",
        ),
        (
            container(&["securityContext", "allowPrivilegeEscalation"]),
            json!(true),
            "spec.containers[0].securityContext.allowPrivilegeEscalation",
        ),
        (
            container(&["securityContext", "seLinuxOptions"]),
            json!({"type": "spc_t"}),
            "spec.containers[0].securityContext.seLinuxOptions",
        ),
        (
            container(&["securityContext", "capabilities", "add"]),
            json!(["SYS_ADMIN"]),
            "spec.containers[0].securityContext.capabilities.add",
        ),
        (
            container(&["volumeMounts", "0", "mountPath"]),
            json!("/attack"),
            "spec.containers[0].volumeMounts[0].mountPath",
        ),
        (
            container(&["volumeMounts", "0", "mountPropagation"]),
            json!("Bidirectional"),
            "spec.containers[0].volumeMounts[0].mountPropagation",
        ),
        (
            container(&["volumeMounts", "0", "subPath"]),
            json!("x"),
            "spec.containers[0].volumeMounts[0].subPath",
        ),
        (
            container(&["volumeDevices", "0", "devicePath"]),
            json!("/usr/local/zero"),
            "spec.containers[0].volumeDevices[0].devicePath",
        ),
        (vec!["spec", "volumes", "0", "hostPath"], json!({"path": "/"}), "spec.volumes[0].hostPath"),
        (vec!["metadata", "name"], json!("other"), "metadata.name"),
        (vec!["metadata", "namespace"], json!("other"), "metadata.namespace"),
        (vec!["metadata", "generateName"], json!("x-"), "metadata.generateName"),
        (vec!["metadata", "deletionTimestamp"], json!("2026-01-01T00:00:00Z"), "metadata.deletionTimestamp"),
        (vec!["metadata", "ownerReferences", "0", "uid"], json!("v"), "metadata.ownerReferences[0].uid"),
        (vec!["metadata", "ownerReferences", "-"], json!({"kind": "Job"}), "metadata.ownerReferences[1]"),
        (
            vec!["metadata", "labels", "kubevirt.io/created-by"],
            json!("v"),
            "metadata.labels.kubevirt.io/created-by",
        ),
        (
            vec!["metadata", "annotations", "openshift.io/required-scc"],
            json!("privileged"),
            "metadata.annotations.openshift.io/required-scc",
        ),
        (
            vec!["metadata", "annotations", "io.kubernetes.cri-o.userns-mode"],
            json!("auto"),
            "metadata.annotations.io.kubernetes.cri-o.userns-mode",
        ),
        (
            vec!["metadata", "annotations", "k8s.v1.cni.cncf.io/networks"],
            json!("host"),
            "metadata.annotations.k8s.v1.cni.cncf.io/networks",
        ),
        (
            vec!["metadata", "annotations", "container.apparmor.security.beta.kubernetes.io/compute"],
            json!("unconfined"),
            "metadata.annotations.container.apparmor.security.beta.kubernetes.io/compute",
        ),
        (
            vec!["status", "ephemeralContainerStatuses"],
            json!([{"name": "x"}]),
            "status.ephemeralContainerStatuses",
        ),
        (vec!["status", "initContainerStatuses"], json!([{"name": "x"}]), "status.initContainerStatuses"),
        (vec!["status", "resize"], json!("InProgress"), "status.resize"),
        (
            vec!["status", "conditions"],
            json!([{"type": "PodResizeInProgress", "status": "True"}]),
            "status.conditions",
        ),
        (
            vec!["status", "containerStatuses"],
            json!([{"name": "compute", "restartCount": 1}]),
            "status.containerStatuses[0].restartCount",
        ),
        (
            vec!["status", "containerStatuses"],
            json!([{"name": "x", "restartCount": 0}]),
            "status.containerStatuses[0].name",
        ),
        (
            vec!["status", "containerStatuses"],
            json!([{"name": "compute", "restartCount": 0, "allocatedResources": {"cpu": "64"}}]),
            "status.containerStatuses[0].allocatedResources.cpu",
        ),
        (vec!["aFieldOfTheFuture"], json!(1), "aFieldOfTheFuture"),
    ] {
        let fields = found(&with(&pod, &path, value.clone()));
        assert!(fields.contains(&field.to_owned()), "{path:?} {value}: {fields:?}");
    }
    // Taken away instead of added.
    for path in
        ["/spec/securityContext/seccompProfile", "/spec/containers/0/securityContext", "/spec/nodeSelector"]
    {
        let mut less = pod.clone();
        *less.pointer_mut(path).unwrap() = Value::Null;
        assert_eq!(found(&less), [path.trim_start_matches('/').replace("/0/", "[0].").replace('/', ".")]);
    }
    // Nothing of a pod that is no object can be as it should be.
    for nonsense in [json!(null), json!([]), json!("x"), json!({"spec": []})] {
        assert!(!found(&nonsense).is_empty());
    }
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
