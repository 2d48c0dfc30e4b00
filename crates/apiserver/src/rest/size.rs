//! How large an object may be: Kubernetes' limits, and a few where Kubernetes has none and one object costs everybody.

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::rbac;
use serde_json::{Map, Value};

use super::Call;
use crate::quota::serialized;
use crate::status::{ApiError, Cause};

/// Most bytes of all values of a ConfigMap or Secret together.
const MAX_DATA: usize = 1 << 20;
/// Most bytes of all annotations of an object together, keys and values.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// Most bytes of an object as it is stored. Kubernetes has this limit from etcd.
const MAX_OBJECT: usize = 3 << 19;
/// Most subjects of a binding and rules of a role. Each is looked at when it changes and when somebody it is about asks
/// for something; anybody who needs more makes a group, or two objects.
const MAX_RBAC_ITEMS: usize = 1000;

/// Adds what is too large about `object`. What is stored already stays, so that it can be made smaller or deleted.
pub(super) fn check(kind: (&str, &str), object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let changed = |path: &str| old.and_then(|old| old.pointer(path)) != object.pointer(path);
    let entries = |path: &str| json::fields(object, path);
    if changed("/metadata/annotations") && entries("/metadata/annotations").is_some_and(annotations_are_large)
    {
        causes.push(too_long("metadata.annotations", MAX_ANNOTATIONS));
    }
    match kind {
        ("", "configmaps" | "secrets") if changed("/data") || changed("/binaryData") => {
            let secret = kind.1 == "secrets";
            let data = entries("/data").into_iter().flatten().map(|(_, value)| bytes(value, secret));
            let binary = entries("/binaryData").into_iter().flatten().map(|(_, value)| bytes(value, true));
            if data.chain(binary).sum::<usize>() > MAX_DATA {
                causes.push(too_long("[]", MAX_DATA));
            }
            for field in ["data", "binaryData"] {
                let keys = entries(&format!("/{field}")).into_iter().flatten().map(|(key, _)| key);
                for key in keys.filter(|key| !is_data_key(key)).take(super::meta::MAX_CAUSES) {
                    causes.push(Cause {
                        reason: "FieldValueInvalid".into(),
                        message: format!("Invalid value: {:?}: {DATA_KEY_RULE}", super::meta::quoted(key)),
                        field: format!("{field}[{}]", super::meta::quoted(key)),
                    });
                }
            }
        }
        (rbac::GROUP, _) => {
            for field in ["subjects", "rules"] {
                let count = json::list(object, field).len();
                if count > MAX_RBAC_ITEMS && changed(&format!("/{field}")) {
                    causes.push(Cause {
                        reason: "FieldValueTooMany".into(),
                        message: format!("Too many: {count}: must have at most {MAX_RBAC_ITEMS} items"),
                        field: field.to_owned(),
                    });
                }
            }
        }
        _ => {}
    }
}

const DATA_KEY_RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn is_data_key(key: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !key.is_empty() && key.len() <= 253 && key.chars().all(good) && key != "." && !key.starts_with("..")
}

fn annotations_are_large(annotations: &Map<String, Value>) -> bool {
    let size = annotations.iter().map(|(key, value)| key.len() + bytes(value, false));
    size.sum::<usize>() > MAX_ANNOTATIONS
}

fn bytes(value: &Value, base64: bool) -> usize {
    let text = value.as_str().unwrap_or_default();
    if base64 { text.trim_end_matches('=').len() * 3 / 4 } else { text.len() }
}

fn too_long(field: &str, limit: usize) -> Cause {
    Cause {
        reason: "FieldValueTooLong".into(),
        message: format!("Too long: may not be more than {limit} bytes"),
        field: field.to_owned(),
    }
}

impl Call {
    /// Refuses an object that is larger than the store takes, unless it gets smaller.
    pub(super) fn check_size(&self, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let size = serialized(object);
        if size <= MAX_OBJECT || old.is_some_and(|old| serialized(old) >= size) {
            return Ok(());
        }
        let message = format!(
            "Request entity too large: the object has {size} bytes, limit is {MAX_OBJECT}: move data into other objects"
        );
        Err(ApiError::new(413, "RequestEntityTooLarge", message))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(kind: (&str, &str), object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = Vec::new();
        check(kind, object, old, &mut causes);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn limits_are_those_of_kubernetes() {
        let map = |bytes: usize| json!({"data": {"a": "x".repeat(bytes - 4)}, "binaryData": {"b": "YWJj"}});
        let maps = ("", "configmaps");
        assert!(fields(maps, &map(MAX_DATA + 1), None).is_empty(), "3 bytes of base64 and the rest");
        assert_eq!(
            fields(maps, &map(MAX_DATA + 2), None),
            ["[]: Too long: may not be more than 1048576 bytes"]
        );
        assert!(fields(maps, &map(MAX_DATA * 2), Some(&map(MAX_DATA * 2))).is_empty(), "nothing changed");
        let noted = |bytes: usize| json!({"metadata": {"annotations": {"a": "x".repeat(bytes - 1)}}});
        assert_eq!(
            fields(("", "pods"), &noted(MAX_ANNOTATIONS + 1), None),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
        assert!(fields(("", "pods"), &noted(MAX_ANNOTATIONS), None).is_empty());
    }

    #[test]
    fn keys_of_data_are_names_of_files() {
        assert_eq!(
            fields(("", "secrets"), &json!({"data": {"../a": "", "..": "", "a b": "", "a.b": ""}}), None)
                .len(),
            3
        );
    }

    #[test]
    fn bindings_and_roles_have_a_bounded_number_of_items() {
        let subjects = |count: usize| json!({"subjects": vec![json!({"kind": "User", "name": "u"}); count]});
        let bindings = (rbac::GROUP, "rolebindings");
        assert!(fields(bindings, &subjects(1000), None).is_empty());
        assert_eq!(
            fields(bindings, &subjects(1001), None),
            ["subjects: Too many: 1001: must have at most 1000 items"]
        );
    }
}
