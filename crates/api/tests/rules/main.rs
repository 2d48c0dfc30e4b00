//! What the rules for machines decide, each at both sides of its border.
// The helpers of tests may fail like tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod borders;
mod changes;
mod conditions;
mod conversion;
mod defaulting;
mod documents;
mod fields;
mod gates;
mod limits;
mod pod_names;

use ferrovirt_api::{ClusterDefaults, default_vmi, kubevirt::VirtualMachineInstance, validate_vmi};
use serde_json::{Value, json};

/// Lays a value over another, object by object.
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

/// The specification of a machine with 64Mi of memory and nothing else, with `over` laid over it.
fn specification(over: Value) -> Value {
    let mut spec = json!({"domain": {"devices": {}, "memory": {"guest": "64Mi"}}});
    lay_over(&mut spec, over);
    spec
}

/// An instance of this specification, as a client sends it.
fn instance(spec: Value) -> VirtualMachineInstance {
    let object = json!({"metadata": {"name": "vm", "namespace": "default"}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

/// The default cluster with further feature gates.
fn cluster(gates: &[&str]) -> ClusterDefaults {
    let mut config = ClusterDefaults::default();
    config.feature_gates.extend(gates.iter().map(|gate| (*gate).to_owned()));
    config
}

/// Field and message of each cause for which an instance is refused, after defaulting.
fn causes(over: Value, config: &ClusterDefaults) -> Vec<(String, String)> {
    let mut vmi = instance(specification(over));
    default_vmi(&mut vmi, config);
    validate_vmi(&vmi, config, false).into_iter().map(|cause| (cause.field, cause.message)).collect()
}
