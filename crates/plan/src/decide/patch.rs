//! JSON patches from two versions of a typed object.

use ferrovirt_kubernetes::difference::{Form, difference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

/// Operations that turn `old` into `new`, beginning with a test of the resource version in `meta`; none when equal.
///
/// Only members that differ are named, so that what newer writers added beside them stays. Lists are replaced whole.
pub(super) fn between<T: Serialize>(meta: &ObjectMeta, old: &T, new: &T) -> Vec<Value> {
    // Serialization of wire types into values cannot fail; if it ever did, doing nothing is the safe answer.
    let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return Vec::new();
    };
    let mut ops = difference(&old, &new, Form::Tolerant);
    if !ops.is_empty() {
        ops.splice(0..0, unchanged(meta));
    }
    ops
}

/// The test of the resource version alone: changes nothing, and is refused when somebody else has written since.
pub(super) fn unchanged(meta: &ObjectMeta) -> Vec<Value> {
    let test = |version| json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
    meta.resource_version.as_ref().map(test).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ops(old: Value, new: Value) -> Vec<Value> {
        let meta = ObjectMeta { resource_version: Some("7".into()), ..ObjectMeta::default() };
        between(&meta, &old, &new)
    }

    #[test]
    fn equal_objects_need_no_patch() {
        assert!(ops(json!({"a": [1]}), json!({"a": [1]})).is_empty());
    }

    #[test]
    fn only_what_differs_is_named_and_keys_are_escaped() {
        assert_eq!(
            ops(
                json!({"l": {"a/b": "1", "x": "1"}, "s": [1]}),
                json!({"l": {"a/b": "2"}, "s": [1, 2], "n": {}})
            ),
            [
                json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"}),
                json!({"op": "remove", "path": "/l/x"}),
                json!({"op": "add", "path": "/l/a~1b", "value": "2"}),
                json!({"op": "add", "path": "/n", "value": {}}),
                json!({"op": "add", "path": "/s", "value": [1, 2]}),
            ]
        );
    }
}
