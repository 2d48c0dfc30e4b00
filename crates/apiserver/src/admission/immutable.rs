//! Secrets and config maps that say `immutable: true` keep their contents for as long as they exist; a secret keeps
//! its type in any case.

use ferrovirt_kubernetes::json;
use serde_json::Value;

use crate::request::{AdmissionRequest, Operation};
use crate::status::{ApiError, Cause};

/// Refuses what upstream's validation refuses, in its words.
pub(super) fn check(request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let secret = request.kind.plural == "secrets";
    let concerned = request.kind.group.is_empty() && (secret || request.kind.plural == "configmaps");
    let Some(old) = request.old.filter(|_| concerned && request.operation == Operation::Update) else {
        return Ok(());
    };
    let new: &Value = request.object;
    let differs = |field: &str| {
        // An empty map and none are the same contents.
        let empty = |value: Option<&Value>| {
            value.cloned().filter(|v| v.as_object().is_none_or(|map| !map.is_empty()) && !v.is_null())
        };
        empty(old.get(field)) != empty(new.get(field))
    };
    let mut causes = Vec::new();
    if secret && differs("type") {
        let kind = json::text(new, "type");
        causes.push(Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {kind:?}: field is immutable"),
            field: "type".into(),
        });
    }
    if old.get("immutable") == Some(&Value::Bool(true)) {
        for field in ["immutable", "data", "binaryData"].into_iter().filter(|field| differs(field)) {
            causes.push(Cause {
                reason: "FieldValueForbidden".into(),
                message: "Forbidden: field is immutable when `immutable` is set".into(),
                field: field.into(),
            });
        }
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("", request.kind.kind, request.name, &causes))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::find;
    use crate::request::UserInfo;

    fn update(plural: &str, old: Value, mut new: Value) -> Result<(), String> {
        let mut warnings = Vec::new();
        let request = AdmissionRequest {
            kind: find("", plural).unwrap(),
            version: "v1",
            operation: Operation::Update,
            subresource: "",
            namespace: "n",
            name: "x",
            user: &UserInfo::default(),
            old: Some(&old),
            object: &mut new,
            dry_run: false,
            warnings: &mut warnings,
        };
        check(&request).map_err(|error| error.message)
    }

    #[test]
    fn what_is_immutable_stays_as_it_is() {
        let fixed = json!({"immutable": true, "data": {"a": "b"}, "metadata": {"labels": {"l": "1"}}});
        let relabelled = json!({"immutable": true, "data": {"a": "b"}, "binaryData": {}});
        assert_eq!(update("configmaps", fixed.clone(), relabelled), Ok(()));
        for (field, value) in
            [("data", json!({"a": "c"})), ("immutable", json!(false)), ("binaryData", json!({"x": "eQ=="}))]
        {
            let mut new = fixed.clone();
            new[field] = value;
            let why = update("configmaps", fixed.clone(), new).unwrap_err();
            let words = format!("{field}: Forbidden: field is immutable when `immutable` is set");
            assert!(why.contains(&words), "{why}");
        }
        let open = json!({"data": {"a": "b"}});
        assert_eq!(update("configmaps", open.clone(), fixed), Ok(()), "it can become immutable");
        assert_eq!(update("secrets", open.clone(), json!({"data": {"a": "c"}})), Ok(()));
        let why = update("secrets", json!({"type": "Opaque"}), json!({"type": "other"})).unwrap_err();
        assert!(why.contains("type: Invalid value: \"other\": field is immutable"), "{why}");
    }
}
