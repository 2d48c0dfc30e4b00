//! Defaults of the other kinds.

use base64::Engine as _;
use ferrovirt_kubernetes::json::{default, set, text};
use ferrovirt_kubernetes::rbac;
use serde_json::{Value, json};

use super::items_mut;
use crate::request::{AdmissionRequest, Operation};
use crate::status::{ApiError, Cause};

/// Fills in what Kubernetes fills in for kinds without admission of their own.
pub(super) fn apply(request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let creating = request.operation == Operation::Create;
    let object = &mut *request.object;
    match (request.kind.group, request.kind.plural) {
        ("", "secrets") => {
            default(object, "type", "Opaque");
            string_data(object);
        }
        ("", "persistentvolumes") => {
            if let Some(spec) = object.get_mut("spec") {
                default(spec, "persistentVolumeReclaimPolicy", "Retain");
                default(spec, "volumeMode", "Filesystem");
                if let Some(path) = spec.get_mut("hostPath").filter(|p| p.is_object()) {
                    default(path, "type", "");
                }
            }
            if creating {
                set(object, &["status"], json!({"phase": "Pending"}));
            }
        }
        ("", "persistentvolumeclaims") => {
            if let Some(spec) = object.get_mut("spec") {
                default(spec, "volumeMode", "Filesystem");
            }
            if creating {
                set(object, &["status"], json!({"phase": "Pending"}));
            }
        }
        (rbac::GROUP, "rolebindings" | "clusterrolebindings") => {
            if let Some(role) = object.get_mut("roleRef") {
                default(role, "apiGroup", rbac::GROUP);
            }
            for subject in items_mut(object, "subjects") {
                let group = if text(subject, "kind") == "ServiceAccount" { "" } else { rbac::GROUP };
                if !group.is_empty() {
                    default(subject, "apiGroup", group);
                }
            }
            let before = request.old.and_then(|old| old.get("roleRef"));
            if before.is_some_and(|before| request.object.get("roleRef") != Some(before)) {
                let cause = Cause {
                    reason: "FieldValueInvalid".into(),
                    message: "Invalid value: cannot change roleRef".into(),
                    field: "roleRef".into(),
                };
                return Err(ApiError::invalid(request.kind.group, request.kind.kind, request.name, &[cause]));
            }
        }
        _ => {}
    }
    Ok(())
}

/// `stringData` is for writing only: it ends up in `data`, encoded, and wins over what is there.
fn string_data(secret: &mut Value) {
    let Value::Object(fields) = secret else { return };
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| json!({}));
    if data.is_null() {
        *data = json!({});
    }
    if let Value::Object(data) = data {
        for (key, value) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"stringData": {"a": "x"}, "data": {"a": "old", "b": "eQ=="}});
        string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "eA==", "b": "eQ=="}}));
    }
}
