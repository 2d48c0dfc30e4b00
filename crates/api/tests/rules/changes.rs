//! Updates of instances, VirtualMachines' own fields, reserved labels, and the text of a refusal.

use ferrovirt_api::{
    Cause, ClusterDefaults, Reason, default_vmi,
    kubevirt::{VirtualMachine, VirtualMachineInstance},
    rejection, validate_vm, validate_vmi, validate_vmi_update,
};
use serde_json::{Value, json};

use super::{cluster, instance, lay_over, specification};

fn of(over: Value) -> VirtualMachineInstance {
    instance(specification(over))
}

/// What KubeVirt's own accounts may change of a running machine ends at the ceilings that it was made with.
#[test]
fn ceilings_hold_for_our_own_accounts() {
    let volume = |name: &str, capacity: &str| json!({"name": name, "emptyDisk": {"capacity": capacity}});
    let old = of(json!({
        "domain": {"cpu": {"maxSockets": 4}, "memory": {"maxGuest": "1Gi"}},
        "volumes": [volume("a", "1Mi"), volume("b", "2Mi")],
    }));
    let messages = |over: Value| {
        let mut object = serde_json::to_value(&old).unwrap();
        lay_over(&mut object["spec"], over);
        let new = serde_json::from_value(object).unwrap();
        let causes = validate_vmi_update(&old, &new, true);
        causes.into_iter().map(|cause| cause.message).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(messages(json!({"domain": {"cpu": {"sockets": 2}}})), none);
    assert_eq!(messages(json!({"domain": {"memory": {"maxGuest": "1024Mi", "guest": "128Mi"}}})), none);
    assert_eq!(messages(json!({"domain": {"memory": {"maxGuest": "1025Mi"}}})), ["Memory maxGuest changed"]);
    assert_eq!(messages(json!({"domain": {"memory": {"maxGuest": "1023Mi"}}})), ["Memory maxGuest changed"]);
    assert_eq!(messages(json!({"domain": {"cpu": {"maxSockets": 3}}})), ["CPU topology maxSockets changed"]);
    let permuted = json!({"volumes": [volume("b", "2Mi"), volume("a", "1Mi")]});
    assert_eq!(messages(permuted), none);
    assert_eq!(
        messages(json!({"volumes": [volume("a", "1Mi")]})),
        ["Number of permanent volumes has changed"]
    );
    let replaced = json!({"volumes": [volume("a", "1Mi"), volume("c", "2Mi")]});
    assert_eq!(messages(replaced), ["permanent volume c, not found"]);
    let grown = json!({"volumes": [volume("a", "1Mi"), volume("b", "3Mi")]});
    assert_eq!(messages(grown), ["permanent volume b, changed"]);
}

#[test]
fn reserved_labels_are_ours() {
    let labelled = |labels: Value| {
        let mut vmi = of(json!({}));
        vmi.metadata.labels = serde_json::from_value(labels).unwrap();
        default_vmi(&mut vmi, &cluster(&[]));
        vmi
    };
    let refused =
        |labels: Value, ours: bool| !validate_vmi(&labelled(labels), &cluster(&[]), ours).is_empty();
    for label in [
        "created-by",
        "migrationJobUID",
        "nodeName",
        "migrationTargetNodeName",
        "schedulable",
        "install-strategy",
    ] {
        let labels = json!({format!("kubevirt.io/{label}"): "x"});
        assert!(refused(labels.clone(), false) && !refused(labels, true), "{label}");
    }
    assert!(!refused(json!({"kubevirt.io/domain": "x", "nodeName": "x"}), false));
    // A value that changes counts, one that goes does too; other labels are the user's.
    let update = |old: Value, new: Value| validate_vmi_update(&labelled(old), &labelled(new), false).len();
    let node = |name: &str| json!({"kubevirt.io/nodeName": name});
    assert_eq!(
        [update(node("a"), node("b")), update(node("a"), json!({})), update(node("a"), node("a"))],
        [1, 1, 0]
    );
    assert_eq!(update(json!({}), json!({"app": "x"})), 0);
}

#[test]
fn annotations_behind_gates() {
    let causes = |annotation: &str, value: &str, gates: &[&str]| {
        let mut vmi = of(json!({}));
        vmi.metadata.annotations = Some([(annotation.to_owned(), value.to_owned())].into());
        default_vmi(&mut vmi, &cluster(&[]));
        let causes = validate_vmi(&vmi, &cluster(gates), false);
        causes.into_iter().map(|cause| (cause.reason, cause.message)).collect::<Vec<_>>()
    };
    for (annotation, gate) in [
        ("kubevirt.io/ignitiondata", "ExperimentalIgnitionSupport"),
        ("hooks.kubevirt.io/hookSidecars", "Sidecar"),
    ] {
        let off = causes(annotation, "x", &[]);
        assert!(off[0].0 == Reason::FieldValueInvalid && off[0].1.contains("gate is not enabled"), "{off:?}");
        let on = causes(annotation, "x", &[gate]);
        assert!(
            on[0].0 == Reason::FieldValueNotSupported && on[0].1.starts_with("not supported yet"),
            "{on:?}"
        );
        assert!(causes(annotation, "", &[]).is_empty());
    }
}

fn vm(over: Value) -> Vec<Cause> {
    let mut spec = json!({"runStrategy": "Halted", "template": {"spec": specification(json!({}))}});
    lay_over(&mut spec, over);
    let object = json!({"metadata": {"name": "vm", "namespace": "a"}, "spec": spec});
    let vm: VirtualMachine = serde_json::from_value(object).unwrap();
    validate_vm(&vm, &ClusterDefaults::default(), false)
}

fn found(over: Value) -> (String, String) {
    let causes = vm(over);
    assert_eq!(causes.len(), 1, "{causes:?}");
    (causes[0].field.clone(), causes[0].message.clone())
}

#[test]
fn data_volumes() {
    let template = |spec: Value, namespace: Value| {
        let volumes = json!([{"name": "a", "dataVolume": {"name": "d"}}]);
        json!({
            "dataVolumeTemplates": [{"metadata": {"name": "d", "namespace": namespace}, "spec": spec}],
            "template": {"spec": {"volumes": volumes}},
        })
    };
    let message = |spec: Value| found(template(spec, json!(null))).1;
    let blank = json!({"blank": {}});
    let built = "not supported yet: spec.dataVolumeTemplates";
    assert_eq!(message(json!({"storage": {}, "source": blank})), built);
    assert_eq!(message(json!({"pvc": {}, "sourceRef": {}})), built);
    assert_eq!(message(json!({"storage": {"dataSource": {}}})), built);
    assert!(
        message(json!({"pvc": {}, "storage": {}, "source": blank}))
            .starts_with("Duplicate storage definition")
    );
    assert!(
        message(json!({"pvc": null, "storage": null, "source": blank})).starts_with("Missing Data volume")
    );
    for field in ["dataSource", "dataSourceRef"] {
        let both = json!({"storage": {field: {}}, "sourceRef": {}});
        assert!(message(both).starts_with("External population is incompatible"));
    }
    assert!(message(json!({"storage": {}})).starts_with("Data volume should have either Source"));
    assert_eq!(message(json!({"storage": {}, "source": {"blank": null}})), "Missing dataVolume valid source");
    assert_eq!(
        message(json!({"storage": {}, "source": {"blank": {}, "http": {}}})),
        "Multiple dataVolume sources"
    );
    let good = json!({"storage": {}, "source": blank});
    assert_eq!(found(template(good.clone(), json!("a"))).1, built);
    assert_eq!(
        found(template(good, json!("b"))),
        (
            "spec.dataVolumeTemplates[0]".to_owned(),
            "Embedded DataVolume namespace b differs from VM namespace a".to_owned()
        )
    );
}

/// A template without memory is upstream's to accept; one whose memory cannot be is refused with the machine's own path.
#[test]
fn templates_are_looked_at_as_instances() {
    assert!(vm(json!({})).is_empty());
    assert!(vm(json!({"template": {"spec": {"domain": {"memory": null}}}})).is_empty());
    let (field, _) = found(json!({"template": {"spec": {"domain": {"firmware": {"uuid": "me"}}}}}));
    assert_eq!(field, "spec.template.spec.domain.firmware.uuid");
    let (field, _) = found(json!({"preference": {"name": "p"}}));
    assert_eq!(field, "spec.preference");
    for (strategy, causes) in
        [("Always", 0), ("RerunOnFailure", 0), ("Manual", 0), ("Once", 0), ("always", 1)]
    {
        assert_eq!(vm(json!({"runStrategy": strategy})).len(), causes, "{strategy}");
    }
}

#[test]
fn the_text_of_a_refusal() {
    let causes = |count: usize| {
        let cause = |index| Cause {
            reason: Reason::FieldValueInvalid,
            message: format!("m{index}"),
            field: String::new(),
        };
        (0..count).map(cause).collect::<Vec<_>>()
    };
    assert_eq!(rejection(&causes(1)), "m0");
    assert!(rejection(&causes(10)).ends_with("m8, m9"));
    assert!(rejection(&causes(11)).ends_with("m9, and 1 more validation errors"));
    let cause = serde_json::to_value(&causes(1)[0]).unwrap();
    assert_eq!(cause, json!({"reason": "FieldValueInvalid", "message": "m0"}));
}
