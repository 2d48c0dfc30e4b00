//! Comparison of whole objects by meaning.

use serde_json::Value;

/// Without what means nothing: nulls, empty lists and empty objects.
fn pruned(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Array(list) if list.is_empty() => None,
        // An element of a list keeps its place even when it is empty.
        Value::Array(list) => Some(list.iter().map(|v| pruned(v).unwrap_or(Value::Null)).collect()),
        Value::Object(map) => {
            let map: serde_json::Map<_, _> =
                map.iter().filter_map(|(k, v)| Some((k.clone(), pruned(v)?))).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        other => Some(other.clone()),
    }
}

/// Whether two objects mean the same: absent equals null, an empty list and an empty object; the order of lists counts.
pub fn same_meaning(a: &Value, b: &Value) -> bool {
    pruned(a) == pruned(b)
}

/// The places where two objects differ.
pub(crate) fn places(want: &Value, have: &Value) -> Vec<String> {
    let mut list = Vec::new();
    walk("", &pruned(want).unwrap_or_default(), &pruned(have).unwrap_or_default(), &mut list);
    list
}

fn walk(path: &str, want: &Value, have: &Value, list: &mut Vec<String>) {
    match (want, have) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                walk(&format!("{path}.{key}"), a, b, list);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{n}]"), a, b, list);
            }
        }
        _ if want != have => list.push(format!("{path}: want {want}, have {have}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_in_all_its_spellings() {
        assert!(same_meaning(&json!({"a": null, "b": [], "c": {"d": {}}}), &json!({})));
        assert!(!same_meaning(&json!({"a": [1, 2]}), &json!({"a": [2, 1]})));
        assert!(!same_meaning(&json!({"a": [{}]}), &json!({})));
        assert_eq!(places(&json!({"a": [1]}), &json!({"a": [2]})), [".a[0]: want 1, have 2"]);
    }
}
