//! Any bytes as a pod and an SCC: both passes, updates, reviews and the generated SCC. Nothing panics, and a pod that was
//! admitted passes again.
#![no_main]

use ferrovirt_scc::{Constraints, NamespaceValues, Operation, Outcome, Request, Subject, defaults, minimal, prepare};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut documents = text.splitn(3, '\n').map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
    let (pod, scc, old) = (documents.next(), documents.next(), documents.next());
    let (pod, scc, old) = (pod.unwrap_or_default(), scc.unwrap_or_default(), old.unwrap_or_default());
    let _ = prepare(scc.clone());
    let _ = minimal("made", &pod);
    let mut all = defaults::all();
    all.extend(serde_json::from_value(scc));
    let constraints = Constraints::compile(all);
    let annotation = |key: &str| old.get(key).and_then(Value::as_str).unwrap_or("1000620000/10000");
    let values = NamespaceValues {
        uid_range: Some(annotation("uid")),
        mcs: Some("s0:c25,c10"),
        supplemental_groups: Some(annotation("groups")),
    };
    let groups = ["system:authenticated".to_owned()];
    let request = |operation| Request {
        operation,
        subresource: "",
        name: "",
        namespace: "demo",
        values: Some(values),
        user: "alice",
        groups: &groups,
    };
    let everybody = |_: &Subject<'_>, scc: &str, _: &str| scc != "anyuid";
    let _ = constraints.consider(&request(Operation::Create), &everybody, &pod);
    let mut updated = pod.clone();
    let _ = constraints.admit(&request(Operation::Update { old: &old }), &everybody, &mut updated);
    let mut made = pod;
    if let Ok(Outcome::Admitted(_)) = constraints.mutate(&request(Operation::Create), &everybody, &mut made) {
        let again = constraints.validate(&request(Operation::Create), &everybody, &made);
        // A required SCC that differs from the chosen one cannot be, so the second pass always agrees.
        assert!(matches!(again, Ok(Outcome::Admitted(_))), "{again:?}");
    }
});
