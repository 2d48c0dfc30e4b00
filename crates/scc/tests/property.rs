//! Properties of every decision, on random SCCs and pods.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A test stops at the first surprise.

mod support;

use ferrovirt_scc::{
    Constraints, NamespaceValues, Operation, Outcome, Request, ReviewKind, ReviewRequest, STANDARD_NAMES,
    SecurityContextConstraints, Subject, allocate, least, may_enter, minimal, prepare, review,
    validate_object,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::generate;
use support::naive::{Namespace, violations};

const NAMESPACE: Namespace = Namespace {
    uids: (1_000_620_000, 1_000_629_999),
    level: "s0:c25,c10",
    first_group: 1_000_620_000,
    groups: (1_000_620_000, 1_000_629_999),
};

fn request<'a>(groups: &'a [String], operation: Operation<'a>) -> Request<'a> {
    let values = NamespaceValues {
        uid_range: Some("1000620000/10000"),
        mcs: Some("s0:c25,c10"),
        supplemental_groups: Some("1000620000/10000"),
    };
    let subresource = "";
    Request {
        operation,
        subresource,
        name: "",
        namespace: "demo",
        values: Some(values),
        user: "alice",
        groups,
    }
}

fn groups() -> Vec<String> {
    vec!["system:authenticated".to_owned(), "others".to_owned()]
}

fn grants(subject: &Subject<'_>, scc: &str, _: &str) -> bool {
    scc == "restricted-v2" && subject.groups.iter().any(|g| g == "system:authenticated")
}

fn typed(values: &[Value]) -> Vec<SecurityContextConstraints> {
    values.iter().map(|v| serde_json::from_value(v.clone()).unwrap()).collect()
}

/// Random SCCs together with the standard ones, some of which are random too.
fn sccs() -> impl Strategy<Value = Vec<Value>> {
    let random =
        (1usize..6).prop_flat_map(|n| (0..n).map(|i| generate::scc(format!("s{i}"))).collect::<Vec<_>>());
    let standard = generate::scc("restricted".to_owned());
    (random, standard).prop_map(|(mut all, standard)| {
        let defaults: Vec<Value> = serde_json::from_str(ferrovirt_scc::defaults::JSON).unwrap();
        let name = |v: &Value| v["metadata"]["name"].as_str().unwrap().to_owned();
        let wanted = |v: &Value| STANDARD_NAMES.contains(&name(v).as_str()) && name(v) != "restricted";
        all.extend(defaults.into_iter().filter(wanted));
        all.push(standard);
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// No admitted pod has a field that its SCC forbids.
    #[test]
    fn what_is_admitted_is_permitted(sccs in sccs(), pod in generate::pod()) {
        let constraints = Constraints::compile(typed(&sccs));
        let groups = groups();
        let mut result = pod.clone();
        if let Ok(Outcome::Admitted(admitted)) =
            constraints.mutate(&request(&groups, Operation::Create), &grants, &mut result)
        {
            let scc = sccs.iter().find(|s| s["metadata"]["name"] == admitted.scc.as_str()).unwrap();
            let found = violations(&result, scc, &NAMESPACE);
            prop_assert!(found.is_empty(), "{found:?}\n{scc}\n{result}");
            prop_assert_eq!(&result["metadata"]["annotations"]["openshift.io/scc"], admitted.scc.as_str());
        } else {
            prop_assert_eq!(pod, result, "a refused pod is left as it was");
        }
    }

    /// The order in which SCCs are stored, in which groups are named and in which grants are kept does not matter.
    #[test]
    fn order_of_input_does_not_matter(
        (sccs, shuffled) in sccs().prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
        pod in generate::pod(),
    ) {
        let groups = groups();
        let reversed: Vec<String> = groups.iter().rev().cloned().collect();
        let (mut one, mut other) = (pod.clone(), pod);
        let first = Constraints::compile(typed(&sccs)).admit(&request(&groups, Operation::Create), &grants, &mut one);
        let second =
            Constraints::compile(typed(&shuffled)).admit(&request(&reversed, Operation::Create), &grants, &mut other);
        prop_assert_eq!(first, second);
        prop_assert_eq!(one, other);
    }

    /// What the mutating pass made, the validating pass accepts, and a second mutating pass leaves alone when only that
    /// SCC may be used.
    #[test]
    fn passes_agree(sccs in sccs(), pod in generate::pod()) {
        let constraints = Constraints::compile(typed(&sccs));
        let groups = groups();
        let request = request(&groups, Operation::Create);
        let mut result = pod;
        if let Ok(Outcome::Admitted(admitted)) = constraints.mutate(&request, &grants, &mut result) {
            let validated = constraints.validate(&request, &grants, &result);
            prop_assert!(matches!(&validated, Ok(Outcome::Admitted(v)) if v.scc == admitted.scc), "{validated:?}");
            result["metadata"]["annotations"]["openshift.io/required-scc"] = admitted.scc.clone().into();
            let before = result.clone();
            let again = constraints.mutate(&request, &grants, &mut result);
            prop_assert!(matches!(&again, Ok(Outcome::Admitted(v)) if !v.changed), "{again:?}");
            prop_assert_eq!(before, result);
        }
    }

    /// An update never changes anything but the annotations of admission.
    #[test]
    fn updates_change_nothing(sccs in sccs(), old in generate::pod(), new in generate::pod()) {
        let constraints = Constraints::compile(typed(&sccs));
        let groups = groups();
        let mut result = new.clone();
        let outcome = constraints.mutate(&request(&groups, Operation::Update { old: &old }), &grants, &mut result);
        if let Ok(Outcome::Admitted(admitted)) = outcome {
            prop_assert!(!admitted.changed);
        }
        prop_assert_eq!(&new["spec"], &result["spec"]);
    }

    /// The generated SCC for a pod admits it, takes nothing from it, and is valid where the pod's numbers are.
    #[test]
    fn the_minimal_scc_admits_its_pod(pod in generate::pod()) {
        let scc = minimal("made", &pod).unwrap();
        let mut all = ferrovirt_scc::defaults::all();
        if !pod.to_string().contains("-1") {
            prop_assert_eq!(validate_object(&scc), vec![]);
        }
        all.push(SecurityContextConstraints { users: vec!["alice".to_owned()], ..scc.clone() });
        let mut result = pod.clone();
        result["metadata"]["annotations"]["openshift.io/required-scc"] = "made".into();
        let outcome = Constraints::compile(all).admit(&request(&[], Operation::Create), &grants, &mut result);
        prop_assert!(matches!(&outcome, Ok(Outcome::Admitted(a)) if a.scc == "made"), "{outcome:?}\n{scc:?}");
        for (before, after) in ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|kind| {
            let list = |pod: &Value| pod["spec"][kind].as_array().cloned().unwrap_or_default();
            list(&pod).into_iter().zip(list(&result)).collect::<Vec<_>>()
        }) {
            let own = |c: &Value, key: &str| c["securityContext"][key].clone();
            for key in ["capabilities", "readOnlyRootFilesystem", "allowPrivilegeEscalation", "privileged"] {
                prop_assert_eq!(own(&before, key), own(&after, key));
            }
        }
    }

    /// Considering every SCC gives the verdict of admission: the first that may be used and admits the pod.
    #[test]
    fn considering_agrees_with_admission(sccs in sccs(), pod in generate::pod()) {
        let mut pod = pod;
        pod["metadata"]["annotations"] = json!({});
        let constraints = Constraints::compile(typed(&sccs));
        let groups = groups();
        let request = request(&groups, Operation::Create);
        let verdicts = constraints.consider(&request, &grants, &pod).unwrap();
        let first = verdicts.iter().find(|v| v.subject.is_some() && v.admits.is_ok()).map(|v| v.scc.clone());
        let chosen = match constraints.mutate(&request, &grants, &mut pod) {
            Ok(Outcome::Admitted(a)) => Some(a.scc),
            _ => None,
        };
        prop_assert_eq!(first, chosen);
        prop_assert_eq!(least(&verdicts).is_some(), verdicts.iter().any(|v| v.admits.is_ok()));
    }

    /// Nothing that can be written as JSON makes the crate panic.
    #[test]
    fn any_json(pod in generate::anything(), old in generate::anything(), scc in generate::anything()) {
        let _ = prepare(scc.clone());
        let mut all = ferrovirt_scc::defaults::all();
        if let Ok(scc) = serde_json::from_value(scc) {
            all.push(scc);
        }
        let constraints = Constraints::compile(all);
        let groups = groups();
        let _ = constraints.admit(&request(&groups, Operation::Create), &grants, &mut pod.clone());
        let _ = constraints.admit(&request(&groups, Operation::Update { old: &old }), &grants, &mut pod.clone());
        let _ = may_enter(&constraints, &request(&groups, Operation::Create), &grants, "exec", &pod);
        for kind in [ReviewKind::Subject, ReviewKind::SelfSubject, ReviewKind::ServiceAccounts] {
            let spec = json!({"template": pod, "user": "alice", "serviceAccountNames": old});
            let request = request(&groups, Operation::Create);
            let (namespace, values) = (request.namespace, request.values);
            let review_request = ReviewRequest {
                kind, namespace, values, user: "alice", groups: &groups, spec: &spec, account_exists: &|_| true,
            };
            let _ = review(&constraints, &review_request, &grants);
        }
    }

    /// Namespace annotations of any content are an answer, never a panic.
    #[test]
    fn any_annotation(uid in any::<String>(), mcs in any::<String>(), groups in "[0-9/, -]{0,30}", n in any::<u32>()) {
        let values = NamespaceValues { uid_range: Some(&uid), mcs: Some(&mcs), supplemental_groups: Some(&groups) };
        let constraints = Constraints::compile(ferrovirt_scc::defaults::all());
        let names = [];
        let request = Request { values: Some(values), ..request(&names, Operation::Create) };
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let _ = constraints.admit(&request, &grants, &mut pod);
        let _ = allocate(n);
    }
}

/// Properties of admitted pods say nothing when none is admitted.
#[test]
fn enough_random_pods_are_admitted_and_refused() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let groups = groups();
    let (mut admitted, mut changed) = (0, 0);
    const ALL: usize = 200;
    for _ in 0..ALL {
        let constraints = Constraints::compile(typed(&sccs().new_tree(&mut runner).unwrap().current()));
        let mut pod = generate::pod().new_tree(&mut runner).unwrap().current();
        if let Ok(Outcome::Admitted(a)) =
            constraints.admit(&request(&groups, Operation::Create), &grants, &mut pod)
        {
            admitted += 1;
            changed += usize::from(a.changed && a.scc != "restricted-v2");
        }
    }
    assert!(admitted > ALL / 10 && admitted < ALL * 9 / 10, "{admitted}");
    assert!(changed > ALL / 20, "{changed}");
}
