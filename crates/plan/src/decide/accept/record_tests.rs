//! What is written down of a pod, and which pods are taken for it later.

use super::tests::{NODE, admitted, namespace, rendered_of, with};
use super::*;
use crate::{config::LauncherRights, samples};
use ferrovirt_api::kubevirt::LauncherPodRecord;
use ferrovirt_model::Profile;

fn config() -> ClusterConfig {
    // Admission decides by the SCC alone here.
    ClusterConfig { launcher_rights: Some(LauncherRights::Controller), ..ClusterConfig::default() }
}

/// A pod as the API server has it before it has a node, what it was rendered as, and its record.
fn made() -> (Value, Value, LauncherPodRecord) {
    let pod = rendered_of(&samples::full(), &config());
    let mut actual = admitted(&pod);
    actual["spec"].as_object_mut().unwrap().remove("nodeName");
    let should = untyped(&pod);
    let record = record(&actual, std::slice::from_ref(&should), &namespace()).unwrap();
    (actual, should, record)
}

fn stands(pod: &Value, record: &LauncherPodRecord) -> Standing {
    let namespace = namespace();
    standing(pod, Some(record), &Place { node: NODE, namespace: &namespace }, Step::Serve)
}

fn fields(standing: Standing) -> Vec<String> {
    match standing {
        Standing::Recorded(wrong) => wrong.into_iter().map(|wrong| wrong.field).collect(),
        other => panic!("{other:?}"),
    }
}

fn bound(pod: &Value) -> Value {
    with(pod, &["spec", "nodeName"], json!(NODE))
}

#[test]
fn a_recorded_pod_is_the_controllers_whatever_would_be_rendered_now() {
    let (actual, _, record) = made();
    assert_eq!(record.uid, "u");
    assert!(record.digest.starts_with("sha256-v1:") && record.digest.len() == 10 + 64, "{record:?}");
    let now = ClusterConfig { profile: Profile::Documented, memory_overcommit: 300, ..config() };
    let now = untyped(&rendered_of(&samples::full(), &now));
    let namespace = namespace();
    let place = Place { node: NODE, namespace: &namespace };
    let pod = bound(&actual);
    assert!(
        !least(&pod, std::slice::from_ref(&now), &place, Step::Serve).is_empty(),
        "it is rendered as before"
    );
    assert_eq!(fields(stands(&pod, &record)), [""; 0]);
    // Others write these, and nodes the rest.
    for (path, value) in [
        (vec!["metadata", "labels", "team"], json!("red")),
        (vec!["metadata", "annotations", "k8s.ovn.org/pod-networks"], json!("{\"a\":1}")),
        (vec!["metadata", "resourceVersion"], json!("8")),
        (vec!["metadata", "deletionTimestamp"], json!("2026-01-01T00:00:00Z")),
        (vec!["status", "phase"], json!("Running")),
    ] {
        assert_eq!(fields(stands(&with(&pod, &path, value), &record)), [""; 0], "{path:?}");
    }
}

#[test]
fn a_recorded_pod_is_on_the_node_that_asks_and_its_container_the_first() {
    let (actual, _, record) = made();
    let elsewhere = with(&actual, &["spec", "nodeName"], json!("node-2"));
    assert_eq!(fields(stands(&elsewhere, &record)), ["spec.nodeName"]);
    let again = json!([{"name": "compute", "restartCount": 1}]);
    let again = with(&bound(&actual), &["status", "containerStatuses"], again);
    assert_eq!(fields(stands(&again, &record)), ["status.containerStatuses[0].restartCount"]);
    let foreign = with(&bound(&actual), &["aFieldOfTheFuture"], json!(1));
    assert_eq!(fields(stands(&foreign, &record)), ["aFieldOfTheFuture"]);
    let deleted = with(&bound(&actual), &["metadata", "deletionTimestamp"], json!("2026-01-01T00:00:00Z"));
    let namespace = namespace();
    let place = Place { node: NODE, namespace: &namespace };
    assert_eq!(
        fields(standing(&deleted, Some(&record), &place, Step::Start)),
        ["metadata.deletionTimestamp"]
    );
}

#[test]
fn a_changed_pod_and_another_one_are_not_the_recorded_one() {
    let (actual, _, record) = made();
    for (path, value) in [
        (vec!["spec", "containers", "0", "image"], json!("evil")),
        (vec!["spec", "containers", "0", "command", "0"], json!("sh")),
        (vec!["spec", "containers", "0", "securityContext", "runAsUser"], json!(1_000_620_001)),
        (vec!["spec", "tolerations", "-"], json!({"operator": "Exists"})),
        (vec!["spec", "activeDeadlineSeconds"], json!(1)),
        (vec!["spec", "aFieldOfTheFuture"], json!({})),
        (vec!["spec", "volumes", "0", "hostPath"], json!({"path": "/"})),
        (vec!["metadata", "name"], json!("other")),
        (vec!["metadata", "namespace"], json!("other")),
        (vec!["metadata", "ownerReferences", "0", "uid"], json!("v")),
        (vec!["metadata", "labels", "kubevirt.io/created-by"], json!("v")),
        (vec!["metadata", "annotations", "k8s.v1.cni.cncf.io/networks"], json!("host")),
    ] {
        assert_eq!(stands(&with(&bound(&actual), &path, value), &record), Standing::Changed, "{path:?}");
    }
    let other = with(&bound(&actual), &["metadata", "uid"], json!("w"));
    assert_eq!(stands(&other, &record), Standing::Another);
    for nonsense in [json!(null), json!([]), json!({"metadata": {"uid": "u"}})] {
        assert!(!matches!(stands(&nonsense, &record), Standing::Recorded(_)), "{nonsense}");
    }
    // One that a later version has made in a way of its own.
    let unknown = LauncherPodRecord { digest: record.digest.replace("sha256-v1", "sha256-v2"), ..record };
    assert_eq!(stands(&bound(&actual), &unknown), Standing::Unrecorded);
    let place = Place { node: NODE, namespace: &Value::Null };
    assert_eq!(standing(&actual, None, &place, Step::Serve), Standing::Unrecorded);
}

#[test]
fn nothing_is_written_down_of_a_pod_that_was_not_rendered() {
    let (actual, should, _) = made();
    let wrong = |pod: &Value| {
        let wrong = record(pod, std::slice::from_ref(&should), &namespace()).unwrap_err();
        wrong.into_iter().map(|wrong| wrong.field).collect::<Vec<_>>()
    };
    let evil = with(&actual, &["spec", "containers", "0", "image"], json!("evil"));
    assert_eq!(wrong(&evil), ["spec.containers[0].image"]);
    // Numbers of its namespace, which is another one.
    let plain = rendered_of(&samples::plain(), &config());
    let (admitted, plain) = (admitted(&plain), [untyped(&plain)]);
    record(&admitted, &plain, &namespace()).unwrap();
    record(&admitted, &plain, &json!({})).unwrap_err();
    // Whichever of two it is, and wherever it is.
    let labelled = with(&should, &["spec", "securityContext", "seLinuxOptions"], json!({"type": "t"}));
    record(&bound(&actual), &[labelled, should.clone()], &namespace()).unwrap();
    let two = [json!({}), should];
    assert_eq!(record(&evil, &two, &namespace()).unwrap_err().len(), 1, "the nearest is named");
}

#[test]
fn a_refusal_says_what_the_pod_was_compared_with() {
    let wrong = [Difference { field: "spec.x".into(), is: "1".into(), should: "2".into() }];
    let said = |standing| refusal(&wrong, &standing);
    assert!(said(Standing::Unrecorded).contains("nothing is recorded"));
    assert!(said(Standing::Another).contains("another pod is recorded"));
    assert!(said(Standing::Changed).contains("changed after the controller had recorded it"));
    assert!(!said(Standing::Recorded(wrong.to_vec())).contains("makes now"));
}

#[test]
fn a_digest_is_of_what_is_said_and_not_of_how() {
    let one = json!({"spec": {"a": null, "b": [], "c": {"x": 1, "y": [1, null, {}]}}});
    let two = json!({"spec": {"c": {"y": [1, null, {}], "x": 1}, "nodeName": "n"}, "status": {}});
    assert_eq!(digest(&one), digest(&two));
    let differ = [
        json!({"spec": {"c": {"x": "1", "y": [1, null, {}]}}}),
        json!({"spec": {"c": {"x": 1, "y": [1, {}]}}}),
        json!({"spec": {"c": {"x": 1, "y": [1, null, {}]}, "d": {}}}),
        json!({"spec": {"c": {"x": 1, "y": [[1, null, {}]]}}}),
        json!({"spec": {"c\":{\"x": 1}}),
    ];
    let all: BTreeSet<String> = differ.iter().chain([&one]).map(digest).collect();
    assert_eq!(all.len(), differ.len() + 1);
    // What was written down by an earlier version is known to a later one.
    assert_eq!(
        digest(&json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "compute"}]}})),
        "sha256-v1:1b46732fba67fd6d22ce4303a6099efef28cafc9c7ff21e8cc0cf3e4a51a10a0"
    );
}
