//! Volume claims: their spec is fixed once they exist, but for what a binder fills in.

use ferrovirt_kubernetes::json;
use serde_json::Value;

use crate::request::{AdmissionRequest, Operation};
use crate::status::{ApiError, Cause};

/// Refuses a change of a claim's spec (except `volumeName` when it was empty, and a larger request).
pub(super) fn check(request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.kind.plural != "persistentvolumeclaims" || request.operation != Operation::Update {
        return Ok(());
    }
    let Some(old) = request.old.filter(|_| request.subresource.is_empty()) else { return Ok(()) };
    let fixed = |object: &Value, with_name: bool| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        if let Value::Object(fields) = &mut spec {
            fields.remove("resources");
            if !with_name {
                fields.remove("volumeName");
            }
        }
        spec
    };
    let bound = json::string(old, "/spec/volumeName").is_some_and(|name| !name.is_empty());
    if fixed(old, bound) == fixed(request.object, bound) {
        return Ok(());
    }
    let message = "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    let cause = Cause { reason: "FieldValueForbidden".into(), message: message.into(), field: "spec".into() };
    Err(ApiError::invalid("", "PersistentVolumeClaim", request.name, &[cause]))
}
