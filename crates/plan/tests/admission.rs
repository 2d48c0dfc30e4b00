//! Rendered pods meet the admission that a cluster has: which SCC takes them, and what is refused without ours.

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_model::Profile;
use ferrovirt_plan::{
    config::{ClusterConfig, LauncherRights, World},
    decide, render,
};
use ferrovirt_privilege::{Scenario, cluster_grants, scenario};
use ferrovirt_scc::{
    Constraints, NamespaceValues, Operation, Outcome, Request, SecurityContextConstraints, Subject, defaults,
};
use serde_json::{Value, json};

const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";

fn ours(profile: Profile) -> SecurityContextConstraints {
    serde_json::from_value(render::scc::controller(&cluster_grants(profile))).unwrap_or_default()
}

fn machines() -> SecurityContextConstraints {
    serde_json::from_value(render::scc::machine(&cluster_grants(Profile::Minimal))).unwrap_or_default()
}

/// The pod as a VMI's controller creates it, through admission with these constraints.
fn admit(
    vmi: &Value,
    profile: Profile,
    constraints: Vec<SecurityContextConstraints>,
) -> Result<(String, Value), String> {
    // Bound to no SCC: what counts here is which one would take the pod.
    admit_by(vmi, profile, LauncherRights::Controller, constraints)
}

fn admit_by(
    vmi: &Value,
    profile: Profile,
    rights: LauncherRights,
    constraints: Vec<SecurityContextConstraints>,
) -> Result<(String, Value), String> {
    let vmi: VirtualMachineInstance = serde_json::from_value(vmi.clone()).map_err(|e| e.to_string())?;
    let launcher_rights = Some(rights);
    // On a cluster, where launchers mount secrets, nothing that is written into a machine binds its pod.
    let world = match rights {
        LauncherRights::Controller => World::Cluster,
        LauncherRights::Requester => World::Machine,
    };
    let config =
        ClusterConfig { profile, use_emulation: true, launcher_rights, world, ..ClusterConfig::default() };
    let labelled = vmi.status.as_ref().is_some_and(|status| status.selinux_level.is_some());
    let pod = decide::launcher_pod(&vmi, &config, &[], labelled).map_err(|causes| causes.join("; "))?;
    let mut pod = serde_json::to_value(pod).map_err(|e| e.to_string())?;
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kubevirt", "system:authenticated"];
    let groups = groups.map(str::to_owned);
    let request = Request {
        operation: Operation::Create,
        subresource: "",
        name: "",
        namespace: "demo",
        values: Some(NamespaceValues {
            uid_range: Some("1000620000/10000"),
            mcs: Some("s0:c25,c10"),
            supplemental_groups: None,
        }),
        user: CONTROLLER,
        groups: &groups,
    };
    // Every user may use the restricted ones; ours names its user itself.
    let everyone = |_: &Subject<'_>, scc: &str, _: &str| scc == "restricted-v2" || scc == "restricted-v3";
    match Constraints::compile(constraints).admit(&request, &everyone, &mut pod) {
        Ok(Outcome::Admitted(admitted)) => Ok((admitted.scc.to_string(), pod)),
        Ok(_) => Err("not looked at".to_owned()),
        Err(denied) => Err(format!("{denied:?}")),
    }
}

fn vmi(devices: Value, volumes: Value) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "m", "namespace": "demo", "uid": "6e4a8b1c-0000-4000-8000-000000000001"},
        "spec": {
            "domain": {"devices": devices, "memory": {"guest": "128Mi"}, "cpu": {"cores": 4}},
            "networks": [{"name": "default", "pod": {}}],
            "volumes": volumes,
        },
    })
}

fn plain() -> Value {
    let interfaces = json!([{"name": "default", "masquerade": {}}]);
    vmi(json!({"interfaces": interfaces, "networkInterfaceMultiqueue": true}), json!([]))
}

fn host_disk() -> Value {
    let disks = json!([{"name": "root", "disk": {"bus": "virtio"}}]);
    let volumes = json!([{"name": "root", "hostDisk": {"path": "/srv/a.img", "type": "Disk"}}]);
    vmi(json!({"interfaces": [{"name": "default", "masquerade": {}}], "disks": disks}), volumes)
}

#[test]
fn a_plain_machine_of_the_minimal_profile_is_restricted() {
    let (scc, pod) = admit(&plain(), Profile::Minimal, all(Profile::Minimal)).unwrap();
    assert_eq!(scc, "restricted-v2");
    // It runs as a user of its namespace's range.
    assert_eq!(pod["spec"]["containers"][0]["securityContext"]["runAsUser"], 1_000_620_000);
    // Ours is not needed.
    assert_eq!(admit(&plain(), Profile::Minimal, defaults::all()).unwrap().0, "restricted-v2");
}

#[test]
fn a_host_disk_and_the_documented_profile_need_the_controllers_scc() {
    for (vmi, profile) in
        [(host_disk(), Profile::Minimal), (plain(), Profile::Documented), (host_disk(), Profile::Documented)]
    {
        let (scc, pod) = admit(&vmi, profile, all(profile)).unwrap();
        assert_eq!(scc, "kubevirt-controller");
        let added = &pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
        match profile {
            Profile::Minimal => assert!(added.is_null()),
            Profile::Documented => assert_eq!(*added, json!(["NET_ADMIN", "NET_RAW", "SYS_NICE"])),
        }
        assert!(admit(&vmi, profile, defaults::all()).is_err());
    }
}

fn labelled(mut vmi: Value) -> Value {
    if let Some(fields) = vmi.as_object_mut() {
        fields.insert("status".to_owned(), json!({"selinuxLevel": "s0:c12,c345"}));
    }
    vmi
}

/// A machine with every kind of volume that needs no host path.
fn with_volumes() -> Value {
    let disks = json!([
        {"name": "image", "disk": {"bus": "virtio"}}, {"name": "claim", "disk": {"bus": "virtio"}},
        {"name": "scratch", "disk": {"bus": "virtio"}}, {"name": "seed", "disk": {"bus": "virtio"}},
    ]);
    let volumes = json!([
        {"name": "image", "containerDisk": {"image": "guests/a:1"}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "scratch", "emptyDisk": {"capacity": "1Gi"}},
        {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "user"}}},
    ]);
    vmi(json!({"interfaces": [{"name": "default", "masquerade": {}}], "disks": disks}), volumes)
}

/// The SCC that a pod is bound to is one that the controller may use and that admits it; nothing else does.
#[test]
fn a_bound_pod_is_admitted_under_what_it_is_bound_to() {
    let bound =
        |vmi: &Value| admit_by(vmi, Profile::Minimal, LauncherRights::Requester, all(Profile::Minimal));
    assert_eq!(bound(&plain()).unwrap().0, "restricted-v2");
    assert_eq!(bound(&labelled(plain())).unwrap().0, "kubevirt-machine");
    // The controller could have more; nobody was found who may.
    assert!(bound(&host_disk()).unwrap_err().contains("hostPath"));
    let mut decided = host_disk();
    decided["metadata"]["annotations"] = json!({"ferrovirt.io/pod-scc": "kubevirt-controller"});
    assert_eq!(bound(&decided).unwrap().0, "kubevirt-controller");
    assert_eq!(bound(&labelled(decided)).unwrap().0, "kubevirt-controller");
}

#[test]
fn a_labelled_machine_is_restricted_but_for_its_label() {
    // Several queues are a word of the type's name: QEMU attaches them, which SELinux checks.
    for (vmi, kind) in [(plain(), "emulated_multiqueue"), (with_volumes(), "emulated_tap")] {
        let (scc, pod) = admit(&labelled(vmi.clone()), Profile::Minimal, all(Profile::Minimal)).unwrap();
        assert_eq!(scc, "kubevirt-machine");
        let label = &pod["spec"]["securityContext"]["seLinuxOptions"];
        assert_eq!(*label, json!({"type": format!("virt_machine.{kind}"), "level": "s0:c12,c345"}));
        // Everything but the label is as restricted-v2 makes it.
        let (scc, mut restricted) = admit(&vmi, Profile::Minimal, all(Profile::Minimal)).unwrap();
        assert_eq!(scc, "restricted-v2");
        restricted["spec"]["securityContext"]["seLinuxOptions"] = label.clone();
        assert_eq!(pod["spec"], restricted["spec"]);
        assert!(admit(&labelled(vmi), Profile::Minimal, defaults::all()).is_err());
    }
    let documented = admit(&labelled(plain()), Profile::Documented, all(Profile::Documented)).unwrap();
    assert_eq!(documented.0, "kubevirt-controller");
}

/// Minimality of the SCC for labelled pods.
#[test]
fn each_value_of_the_machines_scc_is_needed() {
    let names: Vec<_> = scenario::registered(Scenario::Admission).collect();
    assert_eq!(names, ["label-scc", "label-scc-restricted"]);
    let refused = |change: &dyn Fn(&mut SecurityContextConstraints)| {
        let mut scc = machines();
        change(&mut scc);
        let mut constraints = defaults::all();
        constraints.push(scc);
        admit(&labelled(with_volumes()), Profile::Minimal, constraints).is_err()
    };
    assert!(!refused(&|_| {}));
    for kind in ["emptyDir", "image", "persistentVolumeClaim", "secret"] {
        let drop = |scc: &mut SecurityContextConstraints| {
            scc.volumes.iter_mut().for_each(|kinds| kinds.retain(|have| have != kind));
        };
        assert!(refused(&drop), "{kind}");
    }
    assert!(refused(&|scc| scc.users.clear()));
    assert!(refused(&|scc| scc.seccomp_profiles.clear()));
    assert!(refused(&|scc| scc.se_linux_context.kind = "MustRunAs".into()));
}

/// Minimality of the SCC: without each value a pod is refused.
#[test]
fn each_value_of_the_scc_is_needed() {
    let without = |change: &dyn Fn(&mut SecurityContextConstraints)| {
        let mut scc = ours(Profile::Documented);
        change(&mut scc);
        let mut constraints = defaults::all();
        constraints.push(scc);
        [(host_disk(), Profile::Minimal), (labelled(plain()), Profile::Documented)]
            .iter()
            .any(|(vmi, profile)| admit(vmi, *profile, constraints.clone()).is_err())
    };
    assert!(!without(&|_| {}));
    for name in ["NET_ADMIN", "NET_RAW", "SYS_NICE"] {
        assert!(without(&|scc| scc.allowed_capabilities.retain(|have| have != name)), "{name}");
    }
    for kind in ["hostPath", "emptyDir"] {
        let drop = |scc: &mut SecurityContextConstraints| {
            scc.volumes.iter_mut().for_each(|kinds| kinds.retain(|have| have != kind));
        };
        assert!(without(&drop), "{kind}");
    }
    assert!(without(&|scc| scc.users.clear()));
    assert!(without(&|scc| scc.seccomp_profiles.clear()));
    assert!(without(&|scc| scc.run_as_user.kind = "MustRunAsRange".into()));
    assert!(without(&|scc| scc.se_linux_context.kind = "MustRunAs".into()));
    assert!(without(&|scc| scc.fs_group.kind = "MustRunAs".into()));
}

fn all(profile: Profile) -> Vec<SecurityContextConstraints> {
    let mut constraints = defaults::all();
    constraints.extend([ours(profile), machines()]);
    constraints
}
