//! Namespaces: nothing is made in one that is missing or going away.

use ferrovirt_kubernetes::json;
use serde_json::{Value, json};

use super::forbidden;
use crate::request::{AdmissionRequest, Operation};
use crate::status::{ApiError, Cause};
use crate::store::{Key, Store};

/// Namespaces that the server itself needs.
const PROTECTED: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses objects in a namespace that does not exist or is being deleted, and the deletion of protected namespaces.
pub(super) fn check(store: &Store, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.kind.group.is_empty() && request.kind.plural == "namespaces" {
        if request.operation == Operation::Delete && PROTECTED.contains(&request.name) {
            return Err(forbidden(request, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    if request.operation != Operation::Create || !request.kind.namespaced {
        return Ok(());
    }
    let entry = store
        .get(&Key::new("", "namespaces", "", request.namespace))
        .ok_or_else(|| ApiError::not_found("", "namespaces", request.namespace))?;
    if entry.object.pointer("/metadata/deletionTimestamp").is_some() {
        let namespace = request.namespace;
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = forbidden(request, &why);
        if let Value::Object(details) = &mut error.details {
            let message = format!("namespace {namespace} is being terminated");
            let cause =
                json!({"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"});
            details.insert("causes".into(), json!([cause]));
        }
        return Err(error);
    }
    Ok(())
}

/// A namespace's own defaults, and the check of its Pod Security labels.
pub(super) fn prepare(request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation == Operation::Delete {
        return Ok(());
    }
    if request.operation == Operation::Create {
        json::default(request.object, "spec", json!({}));
        if let Some(spec) = request.object.get_mut("spec") {
            json::default(spec, "finalizers", json!(["kubernetes"]));
        }
        if let Value::Object(fields) = &mut *request.object {
            fields.insert("status".into(), json!({"phase": "Active"}));
        }
    }
    // What holds a namespace is changed through `finalize` alone: one that is replaced without its spec would else go
    // before its content.
    if let (Some(old), "") = (request.old, request.subresource)
        && let Value::Object(fields) = &mut *request.object
    {
        match old.get("spec") {
            Some(spec) => fields.insert("spec".into(), spec.clone()),
            None => fields.remove("spec"),
        };
    }
    if let Some(metadata) = request.object.get_mut("metadata") {
        json::default(metadata, "labels", json!({}));
        if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
            labels.insert("kubernetes.io/metadata.name".into(), request.name.into());
        }
    }
    let labels = |object: &Value| object.pointer("/metadata/labels").cloned().unwrap_or_default();
    let (old, new) = (request.old.map(labels).unwrap_or_default(), labels(request.object));
    let mut causes = Vec::new();
    for mode in ["enforce", "warn", "audit"] {
        let key = format!("pod-security.kubernetes.io/{mode}");
        let value = json::text(&new, &key);
        let known = ["", "privileged", "baseline", "restricted"].contains(&value);
        if !known && old.get(&key) != new.get(&key) {
            causes.push(Cause {
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {value:?}: must be one of privileged, baseline, restricted"),
                field: format!("metadata.labels[{key}]"),
            });
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "Namespace", request.name, &causes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserInfo;

    #[track_caller]
    fn check(subresource: &str, expected: &Value) {
        let old = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}});
        let mut object = json!({"metadata": {"name": "n", "labels": {"a": "b"}}});
        let mut request = AdmissionRequest {
            kind: crate::registry::find("", "namespaces").unwrap(),
            version: "v1",
            operation: Operation::Update,
            subresource,
            namespace: "",
            name: "n",
            user: &UserInfo::default(),
            old: Some(&old),
            object: &mut object,
            dry_run: false,
            warnings: &mut Vec::new(),
        };
        prepare(&mut request).unwrap();
        assert_eq!(&object["spec"], expected);
    }

    #[test]
    fn only_finalize_changes_what_holds_a_namespace() {
        check("", &json!({"finalizers": ["kubernetes"]}));
        check("finalize", &Value::Null);
    }
}
