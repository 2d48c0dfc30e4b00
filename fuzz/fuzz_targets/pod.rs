//! Any bytes as a pod, and as changes of the pod that the controller makes: the node's comparison and its check of resources
//! do not panic, texts stay short, and no pod is accepted that would start another program or another image.
#![no_main]

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_plan::{
    config::ClusterConfig,
    decide::fit,
    decide::accept::{Place, Step, candidates, differences, digest, essence, sentence},
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::OnceLock};

fn rendered() -> &'static Value {
    static POD: OnceLock<Value> = OnceLock::new();
    POD.get_or_init(|| {
        let vmi: VirtualMachineInstance = serde_json::from_value(json!({
            "metadata": {"name": "m", "namespace": "demo", "uid": "u"},
            "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}},
        }))
        .unwrap();
        candidates(&vmi, &ClusterConfig::default(), &BTreeSet::new(), false).unwrap().remove(0)
    })
}

/// Puts what the bytes say over the rendered pod.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(patch)) => {
            for (n, value) in patch.iter().enumerate() {
                match into.get_mut(n) {
                    Some(place) => merge(place, value),
                    None => into.push(value.clone()),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut documents = text.splitn(2, '\n').map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
    let (patch, namespace) = (documents.next().unwrap_or_default(), documents.next().unwrap_or_default());
    let place = Place { node: "n", namespace: &namespace };
    let mut merged = rendered().clone();
    merge(&mut merged, &patch);
    for pod in [&patch, &merged] {
        let found = differences(pod, rendered(), &place, Step::Start);
        assert!(sentence(&found).len() < 16384);
        let _ = fit::rejection(pod, &namespace, &fit::requests(&patch));
        // What is recorded by its digest is as good as what was compared.
        if found.is_empty() || digest(pod) == digest(rendered()) {
            for field in ["/spec/containers/0/image", "/spec/containers/0/command", "/spec/volumes", "/spec/os"] {
                assert_eq!(pod.pointer(field).unwrap_or(&Value::Null), rendered().pointer(field).unwrap_or(&Value::Null));
            }
        }
        if found.is_empty() {
            assert_eq!(differences(pod, &essence(pod), &place, Step::Serve), []);
        }
    }
});
