//! Who may have what, on the default constraints and ours.

use ferrovirt_model::Profile;
use ferrovirt_privilege::cluster_grants;
use ferrovirt_scc::{SecurityContextConstraints, Subject, defaults};
use serde_json::json;

use super::*;
use crate::config::LauncherRights;

const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";

/// Grants by role: (user or group, SCC).
struct Roles(Vec<(&'static str, &'static str)>);

impl Authorizer for Roles {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        assert_eq!(namespace, "demo");
        let held = |who: &str| subject.user == who || subject.groups.iter().any(|group| group == who);
        self.0.iter().any(|(who, name)| held(who) && *name == scc)
    }
}

/// Roles as a cluster has them from the start, and some more.
fn roles(more: &[(&'static str, &'static str)]) -> Roles {
    let everybody = [("system:authenticated", "restricted-v2"), ("system:authenticated", "restricted-v3")];
    Roles([&everybody, more].concat())
}

fn constraints() -> Constraints {
    let ours = render::scc::controller(&cluster_grants(Profile::Minimal));
    let ours: SecurityContextConstraints = serde_json::from_value(ours).unwrap();
    Constraints::compile(defaults::all().into_iter().chain([ours]))
}

fn vmi(volumes: Value) -> VirtualMachineInstance {
    let disks = match volumes.as_array() {
        Some(list) => list.iter().map(|v| json!({"name": v["name"], "disk": {"bus": "virtio"}})).collect(),
        None => Vec::new(),
    };
    let mut vmi = serde_json::from_value(json!({
        "metadata": {"name": "m", "namespace": "demo"},
        "spec": {"domain": {"memory": {"guest": "128Mi"}, "devices": {"disks": disks}}, "volumes": volumes},
    }))
    .unwrap();
    ferrovirt_api::default_vmi(&mut vmi, &ClusterDefaults::default());
    vmi
}

fn host_disk() -> VirtualMachineInstance {
    vmi(json!([{"name": "root", "hostDisk": {"path": "/srv/a.img", "type": "Disk"}}]))
}

fn ask(
    vmi: &VirtualMachineInstance,
    roles: &Roles,
    config: &ClusterConfig,
    asker: Asker<'_>,
) -> Result<Decision, Problem> {
    let values = NamespaceValues {
        uid_range: Some("1000620000/10000"),
        mcs: Some("s0:c25,c10"),
        supplemental_groups: None,
    };
    let constraints = constraints();
    let question = Question {
        constraints: &constraints,
        authorizer: roles,
        namespace: "demo",
        values: Some(values),
        config,
        asker,
    };
    decide(&question, vmi)
}

fn person(vmi: &VirtualMachineInstance, more: &[(&'static str, &'static str)]) -> Result<Decision, Problem> {
    let groups = ["system:authenticated".to_owned()];
    let asker = Asker::Person { user: "alice", groups: &groups };
    ask(vmi, &roles(more), &ClusterConfig::default(), asker)
}

fn decision(scc: &str, subject: &str, pod_scc: &str) -> Decision {
    Decision { scc: scc.into(), subject: subject.into(), pod_scc: pod_scc.into() }
}

#[test]
fn a_plain_machine_is_anybodys() {
    let want = decision("restricted-v2", "user alice", "restricted-v2");
    assert_eq!(person(&vmi(json!([])), &[]), Ok(want.clone()));
    // Somebody who may use everything is not given more than the machine needs.
    let all: Vec<(&str, &str)> =
        ["anyuid", "privileged", "kubevirt-controller", "nonroot-v2"].map(|scc| ("alice", scc)).into();
    assert_eq!(person(&vmi(json!([])), &all), Ok(want));
}

#[test]
fn a_host_disk_is_for_those_who_may_use_an_scc_that_allows_it() {
    let Err(Problem::Forbidden(forbidden)) = person(&host_disk(), &[]) else { panic!("admitted") };
    assert_eq!(forbidden.needs.len(), 1, "{forbidden:?}");
    assert_eq!(
        forbidden.needs[0].rights,
        ["scc allowHostDirVolumePlugin=true", "scc volumes=hostPath"],
        "{forbidden:?}"
    );
    assert!(forbidden.would_do.contains(&"kubevirt-controller".to_owned()));
    assert!(!forbidden.would_do.contains(&"restricted-v2".to_owned()));
    let text = forbidden.to_string();
    for wanted in [
        "user \"alice\"",
        "namespace \"demo\"",
        "machines can use the hostPath volume plug-in",
        "provider restricted-v2: .spec.volumes[",
        "hostPath volumes are not allowed to be used",
        "kubevirt-controller",
    ] {
        assert!(text.contains(wanted), "`{wanted}` is not in {text}");
    }
    let admitted = person(&host_disk(), &[("alice", "kubevirt-controller")]);
    assert_eq!(admitted, Ok(decision("kubevirt-controller", "user alice", "kubevirt-controller")));
}

#[test]
fn the_pod_is_bound_to_an_scc_that_the_controller_may_use() {
    let hers = [("alice", "privileged")];
    let want = decision("privileged", "user alice", "kubevirt-controller");
    assert_eq!(person(&host_disk(), &hers), Ok(want));
    let both = [("alice", "privileged"), (CONTROLLER, "privileged")];
    let want = decision("privileged", "user alice", "privileged");
    assert_eq!(person(&host_disk(), &both), Ok(want));
}

#[test]
fn the_service_account_that_the_machine_names_counts_and_no_other() {
    let name = "system:serviceaccount:demo:builder";
    let grants = [(name, "kubevirt-controller")];
    let mut with_account = host_disk();
    let volume = json!({"name": "account", "serviceAccount": {"serviceAccountName": "builder"}});
    with_account.spec.volumes.push(serde_json::from_value(volume).unwrap());
    let disk = json!({"name": "account", "disk": {"bus": "virtio"}});
    with_account.spec.domain.devices.disks.push(serde_json::from_value(disk).unwrap());
    match person(&with_account, &grants) {
        Ok(found) => {
            let want = decision("kubevirt-controller", "serviceaccount demo/builder", "kubevirt-controller");
            assert_eq!(found, want);
        }
        // Machines cannot name accounts yet: then nothing can be borrowed from one either.
        Err(problem) => assert!(matches!(problem, Problem::NoMachine(_)), "{problem}"),
    }
    assert!(person(&host_disk(), &grants).is_err());
}

#[test]
fn the_controller_adds_nothing_of_its_own() {
    let config = ClusterConfig::default();
    let roles = roles(&[]);
    let recorded = |vmi: &VirtualMachineInstance, decision: Option<&Decision>| {
        ask(vmi, &roles, &config, Asker::Recorded(decision))
    };
    let plain = decision("restricted-v2", "user alice", "restricted-v2");
    let host = decision("kubevirt-controller", "user root", "kubevirt-controller");
    assert_eq!(recorded(&vmi(json!([])), Some(&plain)), Ok(plain.clone()));
    assert_eq!(
        recorded(&host_disk(), Some(&host)),
        Ok(host.clone()),
        "no matter whose rights have changed since"
    );
    // Nobody has decided that: the pod is bound to what follows from the SCC that was.
    let forged = decision("restricted-v2", "user alice", "kubevirt-controller");
    assert_eq!(recorded(&vmi(json!([])), Some(&forged)), Ok(plain.clone()));
    let forged = decision("kubevirt-controller", "user root", "privileged");
    assert_eq!(recorded(&host_disk(), Some(&forged)), Ok(host.clone()));
    // More than was admitted is refused, no matter who makes it.
    assert!(recorded(&host_disk(), Some(&plain)).is_err());
    // Nothing recorded is nothing more than everybody's.
    assert_eq!(recorded(&vmi(json!([])), None).unwrap().pod_scc, "restricted-v2");
    let refused = recorded(&host_disk(), None).unwrap_err().to_string();
    assert!(refused.contains("hostPath"), "{refused}");
    let gone = decision("gone", "user alice", "gone");
    assert!(recorded(&vmi(json!([])), Some(&gone)).is_err());
}

#[test]
fn the_documented_profile_needs_more_for_every_machine() {
    let config = ClusterConfig {
        profile: Profile::Documented,
        launcher_rights: Some(LauncherRights::Requester),
        ..ClusterConfig::default()
    };
    let groups = ["system:authenticated".to_owned()];
    let asker = Asker::Person { user: "alice", groups: &groups };
    let refused = ask(&vmi(json!([])), &roles(&[]), &config, asker).unwrap_err().to_string();
    for name in ["NET_ADMIN", "NET_RAW", "SYS_NICE"] {
        assert!(refused.contains(&format!("scc allowedCapabilities={name}")), "{refused}");
    }
    let hers = roles(&[("alice", "kubevirt-controller")]);
    assert_eq!(ask(&vmi(json!([])), &hers, &config, asker).unwrap().scc, "kubevirt-controller");
}

#[test]
fn a_namespace_without_values_is_waited_for() {
    let constraints = constraints();
    let roles = roles(&[]);
    let config = ClusterConfig::default();
    let asker = Asker::Recorded(None);
    let question = Question {
        constraints: &constraints,
        authorizer: &roles,
        namespace: "demo",
        values: Some(NamespaceValues::default()),
        config: &config,
        asker,
    };
    let problem = decide(&question, &vmi(json!([]))).unwrap_err();
    assert!(matches!(problem, Problem::NotReady(_)), "{problem}");
}

#[test]
fn what_is_recorded_is_read_again() {
    let decision = decision("a", "user b", "c");
    let all = decision.annotations();
    let read = Decision::read(|key| all.iter().find(|(name, _)| *name == key).map(|(_, value)| *value));
    assert_eq!(read, Some(decision));
    assert_eq!(Decision::read(|key| (key == SCC).then_some("a")), None);
}
