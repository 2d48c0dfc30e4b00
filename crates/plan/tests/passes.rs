//! Where constraints let a pod pass without a look, the node looks: for each of these ways the same hostile pod, of the right
//! name and owner, is let through by the one and refused by the other.
#![allow(clippy::indexing_slicing, reason = "helpers of tests")]

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_plan::{
    config::ClusterConfig,
    decide::accept::{Place, Step, candidates, differences},
};
use ferrovirt_scc::{
    Constraints, NamespaceValues, Operation, Outcome, Request, Subject, defaults, exempt_namespace,
    nothing_relevant_changed,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn rendered() -> Value {
    let vmi: VirtualMachineInstance = serde_json::from_value(json!({
        "metadata": {"name": "m", "namespace": "demo", "uid": "u"},
        "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}},
    }))
    .unwrap_or_default();
    candidates(&vmi, &ClusterConfig::default(), &BTreeSet::new(), false).unwrap_or_default().remove(0)
}

/// Root with the node's files.
fn hostile() -> Value {
    let mut pod = rendered();
    if let Some(container) = pod.pointer_mut("/spec/containers/0") {
        container["securityContext"] = json!({"runAsUser": 0, "capabilities": {"add": ["SYS_ADMIN"]}});
        container["command"] = json!(["bash"]);
    }
    pod["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": "/"}}]);
    pod
}

/// The fields at which the node sees a difference, also in a namespace that gives everything.
fn different(pod: &Value) -> Vec<String> {
    let namespace = json!({"metadata": {"annotations": {"openshift.io/sa.scc.uid-range": "0/4000000000"}}});
    let place = Place { node: "n", namespace: &namespace };
    differences(pod, &rendered(), &place, Step::Start).into_iter().map(|found| found.field).collect()
}

/// What the node says of the hostile pod, in whatever form it comes.
fn refused(pod: &Value, fields: &[&str]) {
    let found = different(pod);
    for field in
        ["spec.containers[0].command[0]", "spec.containers[0].securityContext.runAsUser"].iter().chain(fields)
    {
        assert!(found.iter().any(|found| found == field), "{field} is not in {found:?}");
    }
}

/// What the constraints say, of which nobody may use one.
fn passes(operation: Operation<'_>, subresource: &str, pod: &Value) -> bool {
    let constraints = Constraints::compile(defaults::all());
    let values = NamespaceValues {
        uid_range: Some("1000620000/10000"),
        mcs: Some("s0:c25,c10"),
        supplemental_groups: None,
    };
    let request = Request {
        operation,
        subresource,
        name: "",
        namespace: "demo",
        values: Some(values),
        user: "alice",
        groups: &[],
    };
    let nobody = |_: &Subject<'_>, _: &str, _: &str| false;
    matches!(constraints.admit(&request, &nobody, &mut pod.clone()), Ok(Outcome::Ignored))
}

#[test]
fn ordinarily_the_constraints_refuse_it_too() {
    assert!(!passes(Operation::Create, "", &hostile()));
    refused(&hostile(), &[]);
}

#[test]
fn a_pod_of_another_operating_system() {
    let mut pod = hostile();
    pod["spec"]["os"] = json!({"name": "windows"});
    assert!(passes(Operation::Create, "", &pod));
    refused(&pod, &[]);
    // Also where nothing else differs.
    let mut pod = rendered();
    pod["spec"]["os"] = json!({"name": "windows"});
    assert_eq!(different(&pod), ["spec.os"]);
}

#[test]
fn a_request_on_a_subresource() {
    for name in ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"] {
        assert!(passes(Operation::Create, name, &hostile()), "{name}");
        assert!(passes(Operation::Update { old: &rendered() }, name, &hostile()), "{name}");
    }
    // The two that change containers are looked at.
    for name in ["ephemeralcontainers", "resize"] {
        assert!(!passes(Operation::Update { old: &rendered() }, name, &hostile()), "{name}");
    }
    refused(&hostile(), &[]);
}

#[test]
fn an_update_that_changes_nothing_of_interest() {
    let mut later = hostile();
    later["metadata"]["annotations"]["k8s.ovn.org/pod-networks"] = json!("{}");
    later["metadata"]["finalizers"] = json!(["x"]);
    assert!(nothing_relevant_changed(&hostile(), &later));
    assert!(passes(Operation::Update { old: &hostile() }, "", &later));
    refused(&later, &[]);
}

#[test]
fn a_namespace_that_is_exempt() {
    for name in ["default", "kube-system", "kube-public", "openshift", "openshift-node", "openshift-infra"] {
        assert!(exempt_namespace(name, None));
        let mut pod = hostile();
        pod["metadata"]["namespace"] = json!(name);
        refused(&pod, &["metadata.namespace"]);
    }
    for (label, value) in [
        ("openshift.io/run-level", "0"),
        ("openshift.io/run-level", "1"),
        ("security.openshift.io/disable-securitycontextconstraints", "true"),
    ] {
        assert!(exempt_namespace("demo", Some(&json!({"metadata": {"labels": {label: value}}}))));
        refused(&hostile(), &[]);
    }
}

/// A new way past the constraints needs a test here.
#[test]
fn these_are_all_ways() {
    let count = |text: &str, word: &str| text.matches(word).count();
    let pass = include_str!("../../scc/src/admit/pass.rs");
    // Subresources, another operating system, nothing changed; and an index that is always there.
    assert_eq!(count(pass, "Ok(None)"), 4);
    let admission = include_str!("../../apiserver/src/admission/scc.rs");
    // The webhook decides instead, which asks the same crate; an exempt namespace; and an SCC object that is deleted.
    assert_eq!(count(admission, "return Ok(())"), 3);
    let pod = include_str!("../../apiserver/src/admission/pod.rs");
    // Deletions and subresources, in both passes; and two in the level of Pod Security, which are no constraints.
    assert_eq!(count(pod, "return Ok(())"), 5);
}
