//! The rules of admission, each with its field and message, from `cases.yaml`.
// The helpers of tests may fail like tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use ferrovirt_api::{ClusterDefaults, default_vmi, kubevirt::VirtualMachineInstance, machine, validate_vmi};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    spec: Value,
    causes: Vec<(String, String)>,
    #[serde(default)]
    gates: Vec<String>,
    #[serde(default)]
    off: Vec<String>,
}

fn lay_over(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[test]
fn table() {
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("cases.yaml")).unwrap();
    assert!(cases.len() > 90);
    let mut failures = Vec::new();
    for case in cases {
        let mut object = json!({
            "metadata": {"name": "vm", "namespace": "default"},
            "spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}},
        });
        lay_over(&mut object["spec"], case.spec);
        let mut vmi: VirtualMachineInstance =
            serde_json::from_value(object).unwrap_or_else(|error| panic!("{}: {error}", case.case));
        let mut config = ClusterDefaults::default();
        config.feature_gates.extend(case.gates);
        config.feature_gates.retain(|gate| !case.off.contains(gate));
        default_vmi(&mut vmi, &config);
        let before = vmi.clone();
        default_vmi(&mut vmi, &config);
        assert_eq!(vmi, before, "{}: defaulting is not idempotent", case.case);

        let causes = validate_vmi(&vmi, &config, false);
        let agrees = causes.len() == case.causes.len()
            && causes.iter().zip(&case.causes).all(|(cause, (field, message))| {
                cause.field == *field && (message.is_empty() || cause.message == *message)
            });
        if !agrees {
            failures.push(format!("{}: {causes:#?}", case.case));
        }
        // Admission and conversion agree: what is admitted is a machine.
        if causes.is_empty() {
            machine(&vmi).unwrap_or_else(|causes| panic!("{}: {causes:?}", case.case));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
