//! Cases that are easily got wrong, one by one, on the default SCCs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A test stops at the first surprise.

use ferrovirt_scc::{
    Admitted, Cause, Constraints, Denied, NamespaceValues, Operation, Outcome, Request,
    SecurityContextConstraints, Subject, SubjectType, defaults, may_enter,
};
use serde_json::{Value, json};

const VALUES: NamespaceValues<'static> = NamespaceValues {
    uid_range: Some("1000620000/10000"),
    mcs: Some("s0:c25,c10"),
    supplemental_groups: Some("1000620000/10000"),
};

fn everybody(subject: &Subject<'_>, scc: &str, _: &str) -> bool {
    subject.groups.iter().any(|g| g == "system:authenticated")
        && (scc == "restricted-v2" || scc == "restricted-v3")
}

fn scc(value: Value) -> SecurityContextConstraints {
    serde_json::from_value(value).unwrap()
}

fn cluster(more: Value) -> Constraints {
    let more = more.as_array().unwrap().iter().cloned().map(scc);
    Constraints::compile(defaults::all().into_iter().chain(more))
}

struct Ask<'a> {
    user: &'a str,
    groups: Vec<String>,
    values: Option<NamespaceValues<'a>>,
    old: Option<Value>,
    subresource: &'a str,
}

impl<'a> Ask<'a> {
    fn by(user: &'a str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self { user, groups, values: Some(VALUES), old: None, subresource: "" }
    }

    fn alice() -> Self {
        Self::by("alice", &["system:authenticated"])
    }

    fn admin() -> Self {
        Self::by("root", &["system:authenticated", "system:cluster-admins"])
    }

    fn request(&self) -> Request<'_> {
        Request {
            operation: self.old.as_ref().map_or(Operation::Create, |old| Operation::Update { old }),
            subresource: self.subresource,
            name: "",
            namespace: "demo",
            values: self.values,
            user: self.user,
            groups: &self.groups,
        }
    }

    fn run(&self, constraints: &Constraints, pod: &mut Value) -> Result<Outcome, Denied> {
        constraints.admit(&self.request(), &everybody, pod)
    }

    fn admitted(&self, constraints: &Constraints, pod: &mut Value) -> Admitted {
        match self.run(constraints, pod) {
            Ok(Outcome::Admitted(admitted)) => admitted,
            other => panic!("{other:?}"),
        }
    }

    fn denied(&self, constraints: &Constraints, pod: &mut Value) -> Denied {
        self.run(constraints, pod).unwrap_err()
    }
}

fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "demo"}, "spec": {
        "containers": [{"name": "c"}], "securityContext": {}, "serviceAccountName": "default"}})
}

#[test]
fn one_broken_scc_refuses_everybody_but_those_who_name_another() {
    let constraints = cluster(json!([{"metadata": {"name": "broken"}, "runAsUser": {"type": "MustRunAs"},
        "seLinuxContext": {"type": "RunAsAny"}, "fsGroup": {"type": "RunAsAny"},
        "supplementalGroups": {"type": "RunAsAny"}}]));
    let denied = Ask::admin().denied(&constraints, &mut pod());
    assert_eq!(
        denied.to_string(),
        "pods \"p\" is forbidden: error creating provider for SCC broken in namespace demo: MustRunAs requires a UID"
    );
    let mut named = pod();
    named["metadata"]["annotations"] = json!({"openshift.io/required-scc": "restricted-v2"});
    assert_eq!(Ask::alice().admitted(&constraints, &mut named).scc, "restricted-v2");
}

#[test]
fn malformed_namespace_values_name_the_annotation_and_leave_others_alone() {
    let constraints = cluster(json!([]));
    let ask = Ask { values: Some(NamespaceValues { uid_range: Some("x"), ..VALUES }), ..Ask::admin() };
    let Cause::Unusable(errors) = ask.denied(&constraints, &mut pod()).cause else { panic!() };
    assert!(errors[0].starts_with(
        "unable to find pre-allocated uid annotation for namespace demo while trying to configure SCC restricted-v2: \
         expected integer"
    ));
    let mut named = pod();
    named["metadata"]["annotations"] = json!({"openshift.io/required-scc": "anyuid"});
    assert_eq!(ask.admitted(&constraints, &mut named).scc, "anyuid");
    for values in [None, Some(NamespaceValues::default())] {
        let denied = Ask { values, ..Ask::alice() }.denied(&constraints, &mut pod());
        assert!(denied.may_pass_later(), "{denied}");
    }
}

#[test]
fn administrators_get_anyuid_and_the_service_account_counts_first() {
    let constraints = cluster(json!([]));
    let mut made = pod();
    let admitted = Ask::admin().admitted(&constraints, &mut made);
    assert_eq!((admitted.scc.as_str(), admitted.subject), ("anyuid", SubjectType::User));
    assert_eq!(
        made["spec"]["containers"][0]["securityContext"],
        json!({"capabilities": {"drop": ["MKNOD"]}})
    );
    let own = json!([{"metadata": {"name": "own"}, "priority": 20, "users": ["system:serviceaccount:demo:default", "alice"],
        "runAsUser": {"type": "RunAsAny"}, "seLinuxContext": {"type": "RunAsAny"}, "fsGroup": {"type": "RunAsAny"},
        "supplementalGroups": {"type": "RunAsAny"}}]);
    let admitted = Ask::alice().admitted(&cluster(own), &mut pod());
    assert_eq!((admitted.scc.as_str(), admitted.subject), ("own", SubjectType::ServiceAccount));
    assert!(!admitted.changed);
}

#[test]
fn an_author_cannot_forge_the_annotations() {
    let mut forged = pod();
    forged["metadata"]["annotations"] = json!({"openshift.io/scc": "privileged",
        "security.openshift.io/validated-scc-subject-type": "serviceaccount"});
    Ask::alice().admitted(&cluster(json!([])), &mut forged);
    assert_eq!(forged["metadata"]["annotations"]["openshift.io/scc"], "restricted-v2");
    assert_eq!(forged["metadata"]["annotations"]["security.openshift.io/validated-scc-subject-type"], "user");
}

#[test]
fn the_audit_event_keeps_what_was_said_first_of_a_chosen_scc_that_nobody_may_use() {
    let mut named = pod();
    named["metadata"]["annotations"] = json!({"openshift.io/scc": "privileged",
        "security.openshift.io/validated-scc-subject-type": "user"});
    let ask = Ask::by("nobody", &["system:unauthenticated"]);
    let denied = cluster(json!([])).validate(&ask.request(), &everybody, &named).unwrap_err();
    let said: Vec<_> = denied.audit.iter().filter(|a| a.key == "denied-validation").collect();
    assert_eq!(said.len(), 1);
    assert_eq!(
        said[0].value,
        r#"originally chosen "privileged" got denied in final validation after mutating admission"#
    );
}

#[test]
fn an_empty_user_namespace_level_is_stored_as_absent_and_refused_by_the_schema() {
    let object = json!({"metadata": {"name": "x"}, "userNamespaceLevel": "",
        "runAsUser": {"type": "RunAsAny"}, "seLinuxContext": {"type": "RunAsAny"}});
    let mut defaulted = scc(object.clone());
    ferrovirt_scc::default_object(&mut defaulted);
    assert_eq!(defaulted.user_namespace_level, None);
    let errors = ferrovirt_scc::prepare(object).unwrap_err();
    assert_eq!((errors.len(), errors[0].field.as_ref()), (1, "userNamespaceLevel"));
}

#[test]
fn a_host_path_is_refused_by_its_field() {
    let mut mounted = pod();
    mounted["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}]);
    let before = mounted.clone();
    let denied = Ask::alice().denied(&cluster(json!([])), &mut mounted);
    assert!(denied.to_string().contains(
        "provider restricted-v2: .spec.volumes[0]: Invalid value: \"hostPath\": hostPath volumes are not allowed to be used"
    ));
    assert_eq!(before, mounted);
    let Cause::NothingFits(refusals) = denied.cause else { panic!() };
    assert!(refusals.iter().any(|r| r.scc == "restricted-v2" && r.field == ".spec.volumes[0]"));
}

#[test]
fn host_port_errors_name_both_containers() {
    let mut ports = pod();
    ports["spec"]["containers"] =
        json!([{"name": "a"}, {"name": "b", "ports": [{"hostPort": 80}, {"hostPort": 81}]}]);
    ports["metadata"]["annotations"] = json!({"openshift.io/required-scc": "restricted-v2"});
    let errors = Ask::alice().denied(&cluster(json!([])), &mut ports).errors();
    assert_eq!(errors.len(), 4);
    assert!(
        errors[1]
            .starts_with("provider restricted-v2: .containers[0].containers[1].hostPort: Invalid value: 81")
    );
    assert!(
        errors[2]
            .starts_with("provider restricted-v2: .containers[1].containers[1].hostPort: Invalid value: 80")
    );
}

#[test]
fn updates_change_nothing_and_say_nil_when_all_would() {
    let constraints = cluster(json!([]));
    let mut changed = pod();
    changed["spec"]["containers"][0]["image"] = "x".into();
    let ask = Ask { old: Some(pod()), ..Ask::by("alice", &["system:authenticated"]) };
    let restricted = json!({"openshift.io/required-scc": "restricted-v2"});
    let mut old = pod();
    old["metadata"]["annotations"] = restricted.clone();
    changed["metadata"]["annotations"] = restricted;
    let denied = Ask { old: Some(old.clone()), ..ask }.denied(&constraints, &mut changed);
    assert_eq!(
        denied.to_string(),
        "pods \"p\" is forbidden: unable to validate against any security context constraint: <nil>"
    );
    let mut labelled = old.clone();
    labelled["metadata"]["ownerReferences"] = json!([{"name": "x"}]);
    let ask = Ask { old: Some(old.clone()), ..Ask::by("nobody", &[]) };
    assert_eq!(ask.run(&constraints, &mut labelled), Ok(Outcome::Ignored));
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(ask.run(&constraints, &mut labelled).is_err());
    labelled["metadata"]["annotations"] = json!({});
    assert_eq!(ask.denied(&constraints, &mut labelled).cause, Cause::RequiredChanged);
}

#[test]
fn ephemeral_containers_are_defaulted_only_through_their_sub_resource() {
    let constraints = cluster(json!([]));
    let mut stored = pod();
    Ask::alice().admitted(&constraints, &mut stored);
    let mut debugged = stored.clone();
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "d"}]);
    let ask = Ask { old: Some(stored), ..Ask::alice() };
    assert!(ask.run(&constraints, &mut debugged.clone()).is_err());
    let ask = Ask { subresource: "ephemeralcontainers", ..ask };
    ask.admitted(&constraints, &mut debugged);
    assert_eq!(debugged["spec"]["ephemeralContainers"][0]["securityContext"]["runAsUser"], 1_000_620_000);
}

#[test]
fn while_a_standard_scc_is_missing_nothing_is_admitted() {
    let some = defaults::all().into_iter().filter(|s| s.name() != "nonroot" && s.name() != "anyuid");
    let denied = Ask::alice().denied(&Constraints::compile(some), &mut pod());
    assert_eq!(denied.cause, Cause::StandardMissing(vec!["anyuid", "nonroot"]));
    assert!(denied.may_pass_later());
}

#[test]
fn windows_pods_and_harmless_sub_resources_are_not_looked_at() {
    let constraints = cluster(json!([]));
    let mut windows = pod();
    windows["spec"]["os"] = json!({"name": "windows"});
    windows["spec"]["hostNetwork"] = true.into();
    assert_eq!(Ask::alice().run(&constraints, &mut windows), Ok(Outcome::Ignored));
    let ask = Ask { subresource: "status", ..Ask::alice() };
    assert_eq!(ask.run(&constraints, &mut json!({"spec": {"hostPID": true}})), Ok(Outcome::Ignored));
}

#[test]
fn entering_a_pod_needs_the_right_to_have_made_it() {
    let constraints = cluster(json!([]));
    let mut strong = pod();
    strong["spec"]["hostPID"] = true.into();
    let alice = Ask::alice();
    let text = may_enter(&constraints, &alice.request(), &everybody, "exec", &strong).unwrap_err();
    assert!(text.starts_with(
        "exec operation is not allowed because the pod's security context exceeds your permissions: pods \"p\" is forbidden: "
    ));
    let nodes = Ask::by("system:admin", &[]);
    assert_eq!(may_enter(&constraints, &nodes.request(), &everybody, "attach", &strong), Ok(()));
}

#[test]
fn hostile_pods_end_in_bounded_time_and_memory() {
    let constraints = cluster(json!([]));
    let mut big = pod();
    let ports: Vec<Value> = (1..400).map(|p| json!({"hostPort": p})).collect();
    let containers: Vec<Value> =
        (0..3000).map(|n| json!({"name": format!("\u{202e}{n}"), "ports": ports})).collect();
    big["spec"]["containers"] = containers.into();
    let denied = Ask::alice().denied(&constraints, &mut big);
    let Cause::NothingFits(refusals) = &denied.cause else { panic!() };
    assert!(refusals.len() <= 20_100, "{}", refusals.len());
    let malformed = Ask::alice().denied(&constraints, &mut json!({"metadata": {"name": "\n"}, "spec": []}));
    assert_eq!(
        malformed.to_string(),
        "pods \"\\n\" is forbidden: object was marked as kind pod but was unable to be converted: spec must be an object"
    );
}

#[test]
fn the_named_scc_comes_first_in_the_second_pass() {
    // Both cannot be used without a level; the named one is reported first, whatever its priority.
    let constraints = cluster(json!([]));
    let values = NamespaceValues { mcs: Some(""), ..VALUES };
    let mut named = pod();
    named["metadata"]["annotations"] = json!({"openshift.io/scc": "restricted"});
    let ask = Ask { values: Some(values), ..Ask::admin() };
    let denied = constraints.validate(&ask.request(), &everybody, &named).unwrap_err();
    let Cause::Unusable(errors) = denied.cause else { panic!() };
    assert!(errors[0].contains("while trying to configure SCC restricted:"), "{errors:?}");
    assert!(errors[1].contains("while trying to configure SCC anyuid:"), "{errors:?}");
}

#[test]
fn the_audit_log_says_why_the_named_scc_did_not_do() {
    let constraints = cluster(json!([]));
    let audit = |ask: &Ask<'_>, scc: &str| {
        let mut bare = pod();
        bare["metadata"]["annotations"] = json!({"openshift.io/scc": scc});
        let outcome = constraints.validate(&ask.request(), &everybody, &bare);
        let list = match outcome {
            Ok(Outcome::Admitted(admitted)) => admitted.audit,
            Ok(Outcome::Ignored) => Vec::new(),
            Err(denied) => denied.audit,
        };
        list.into_iter().map(|a| (a.key.into_owned(), a.value)).collect::<Vec<_>>()
    };
    let wants_to_change = (
        "too-restrictive-restricted-v2".to_owned(),
        "failures final validation after mutating admission".to_owned(),
    );
    assert!(audit(&Ask::alice(), "restricted-v2").contains(&wants_to_change));
    let unusable = audit(&Ask::alice(), "privileged");
    assert_eq!(unusable.len(), 1);
    assert!(unusable[0].1.contains("\"privileged\" got denied"), "{unusable:?}");
}

#[test]
fn the_old_spelling_of_the_service_account_counts() {
    let own = json!([{"metadata": {"name": "own"}, "priority": 20, "users": ["system:serviceaccount:demo:builder"],
        "runAsUser": {"type": "RunAsAny"}, "seLinuxContext": {"type": "RunAsAny"}, "fsGroup": {"type": "RunAsAny"},
        "supplementalGroups": {"type": "RunAsAny"}}]);
    let mut old = pod();
    old["spec"]["serviceAccount"] = "builder".into();
    assert_eq!(Ask::alice().admitted(&cluster(own.clone()), &mut old.clone()).scc, "restricted-v2");
    old["spec"]["serviceAccountName"] = Value::Null;
    assert_eq!(Ask::alice().admitted(&cluster(own), &mut old).subject, SubjectType::ServiceAccount);
}
