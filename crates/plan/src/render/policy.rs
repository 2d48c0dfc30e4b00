//! What our ValidatingAdmissionPolicies share. They are decided by the API server itself, so that no part of ours that was
//! taken over, or is away, has a say.

use serde_json::{Value, json};

/// A policy and its binding, of one name; what it refuses is denied.
pub(super) fn bound(name: &str, spec: Value) -> [Value; 2] {
    let binding = json!({"policyName": name, "validationActions": ["Deny"]});
    [("ValidatingAdmissionPolicy", spec), ("ValidatingAdmissionPolicyBinding", binding)].map(
        |(kind, spec)| {
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": kind,
                "metadata": {"name": name, "labels": {"kubevirt.io": ""}},
                "spec": spec,
            })
        },
    )
}

/// A validation: what has to hold, and what is said where it does not.
pub(super) fn validation(expression: impl Into<String>, message: impl Into<String>) -> Value {
    json!({"expression": expression.into(), "message": message.into(), "reason": "Forbidden"})
}

/// That a field of the object is what it was, whether it is there or not.
pub(super) fn same(of: &str, field: &str) -> String {
    format!("object.{of}.?{field} == oldObject.{of}.?{field}")
}

/// That the metadata which people and controllers write is what it was.
pub(super) fn same_metadata() -> String {
    ["labels", "annotations", "finalizers", "ownerReferences"]
        .map(|field| same("metadata", field))
        .join(" && ")
}
