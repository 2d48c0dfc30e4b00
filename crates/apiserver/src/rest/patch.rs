//! PATCH: JSON patch, merge patch, strategic merge patch.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use super::{Call, Warnings, body, strategic};
use crate::answer::{self, Answer};
use crate::registry::Class;
use crate::status::{ApiError, Cause};

/// A JSON patch may copy; this bounds what a small patch can make of an object. Upstream's limit.
const MAX_OPERATIONS: usize = 10_000;
/// Copies double what they copy; the result is bounded like a body.
const MAX_RESULT: usize = ferrovirt_api::document::MAX_BYTES;

/// After each copy the whole object is looked at, and what follows in a list moves with each item that comes or goes. This
/// many values take some tenths of a second.
const MAX_LOOKED_AT: usize = 5_000_000;
/// So many items of a list are moved in the time in which one value is looked at.
const MOVED: usize = 8;

/// The depth that the reader of bodies allows too.
const MAX_DEPTH: usize = 128;

enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Call {
    /// PATCH.
    pub(super) async fn patch(
        &self,
        headers: &HeaderMap,
        bytes: &Bytes,
        warnings: &mut Warnings,
    ) -> Result<Answer, ApiError> {
        let patch = Arc::new(self.read_patch(headers, bytes)?);
        let entry = self
            .update(warnings, |old, warnings| {
                let versioned = self.output.versioned(old).into_owned();
                let patched = self.apply(&patch, versioned, bytes)?;
                self.check_identity(&patched)?;
                self.decode(patched, Some(bytes), warnings)
            })
            .await?;
        Ok(answer::bytes(200, self.output.form.content_type(), self.output.object(&entry.object)))
    }

    fn read_patch(&self, headers: &HeaderMap, bytes: &[u8]) -> Result<Patch, ApiError> {
        let custom = self.kind.class == Class::Custom;
        let accepted = if custom {
            "application/json-patch+json, application/merge-patch+json"
        } else {
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
        };
        match body::media_type(headers) {
            "application/json-patch+json" => {
                body::scan(bytes)?;
                let patch: json_patch::Patch = serde_json::from_slice(bytes).map_err(|error| {
                    ApiError::bad_request(format!("the JSON patch cannot be read: {error}"))
                })?;
                if patch.0.len() > MAX_OPERATIONS {
                    let count = patch.0.len();
                    return Err(ApiError::new(
                        413,
                        "RequestEntityTooLarge",
                        format!(
                            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
                        ),
                    ));
                }
                Ok(Patch::Json(patch))
            }
            "application/merge-patch+json" => Ok(Patch::Merge(object(body::json(bytes)?)?)),
            "application/strategic-merge-patch+json" if !custom => {
                Ok(Patch::Strategic(object(body::json(bytes)?)?))
            }
            "application/apply-patch+yaml" => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                format!(
                    "server-side apply is not supported yet: use client-side apply (kubectl apply --server-side=false) \
                     - accepted media types include: {accepted}"
                ),
            )),
            other => Err(body::unsupported(other, accepted)),
        }
    }

    fn apply(&self, patch: &Patch, mut target: Value, bytes: &[u8]) -> Result<Value, ApiError> {
        match patch {
            Patch::Merge(patch) => json_patch::merge(&mut target, patch),
            Patch::Strategic(patch) => {
                strategic::merge(&mut target, patch).map_err(|message| self.bad_patch(bytes, &message))?;
            }
            Patch::Json(patch) => apply_json(&mut target, patch)?,
        }
        Ok(target)
    }

    fn bad_patch(&self, bytes: &[u8], message: &str) -> ApiError {
        let message = format!("Invalid value: {:?}: {message}", quoted(bytes));
        let cause = Cause { reason: "FieldValueInvalid".into(), message, field: "patch".into() };
        ApiError::invalid(self.kind.group, self.kind.kind, &self.name, &[cause])
    }

    /// A patch cannot turn an object into another one.
    fn check_identity(&self, patched: &Value) -> Result<(), ApiError> {
        for (field, expected) in [("name", &self.name), ("namespace", &self.namespace)] {
            if field == "namespace" && !self.kind.namespaced {
                continue;
            }
            let found = patched.pointer(&format!("/metadata/{field}")).cloned().unwrap_or_default();
            if found != json!(expected) {
                return Err(ApiError::bad_request(format!(
                    "the {field} of the object ({}) does not match the {field} on the URL ({expected})",
                    found.as_str().unwrap_or_default()
                )));
            }
        }
        Ok(())
    }
}

/// Applies a JSON patch, bounded in what it makes and in how long it takes.
pub(crate) fn apply_json(target: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
    let mut looked_at = 0usize;
    for operation in &patch.0 {
        if operation.path().count() > MAX_DEPTH {
            return Err(too_deep());
        }
        if let Some(Value::Array(items)) =
            operation.path().parent().and_then(|list| target.pointer(list.as_str()))
        {
            looked_at = looked_at.saturating_add(items.len() / MOVED);
        }
        if tests_for_nothing(target, operation) {
            continue;
        }
        json_patch::patch(target, std::slice::from_ref(operation)).map_err(|error| {
            // Upstream's words for a patch that is readable but does not fit the object.
            ApiError::new(
                422,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {error}"),
            )
        })?;
        // Only these make more out of what is there; what a patch brings itself is bounded by its body.
        if matches!(operation, json_patch::PatchOperation::Copy(_) | json_patch::PatchOperation::Move(_)) {
            looked_at = looked_at.saturating_add(check_size(target)?);
        }
        if looked_at > MAX_LOOKED_AT {
            return Err(ApiError::new(
                413,
                "RequestEntityTooLarge",
                "the JSON patch changes, copies and moves too often in an object of this size: use several patches",
            ));
        }
    }
    check_size(target).map(|_| ())
}

/// Whether an operation tests that a field is null, and there is none of its name: Kubernetes takes that for the same, and
/// clients begin with it to make a list that is not there, as `virtctl credentials` does.
fn tests_for_nothing(target: &Value, operation: &json_patch::PatchOperation) -> bool {
    let json_patch::PatchOperation::Test(test) = operation else { return false };
    let parent = test.path.parent().and_then(|parent| target.pointer(parent.as_str()));
    test.value.is_null()
        && matches!(parent, Some(Value::Object(_)))
        && target.pointer(test.path.as_str()).is_none()
}

/// Walks the value without recursion: whatever comes later may recurse. Answers how many values it has.
fn check_size(value: &Value) -> Result<usize, ApiError> {
    let (mut bytes, mut count) = (0usize, 0usize);
    let mut todo = vec![(value, 0usize)];
    while let Some((value, depth)) = todo.pop() {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        count = count.saturating_add(1);
        bytes = bytes.saturating_add(match value {
            Value::String(text) => text.len(),
            _ => 8,
        });
        if bytes > MAX_RESULT {
            return Err(ApiError::new(413, "RequestEntityTooLarge", "the patched object is too large"));
        }
        match value {
            Value::Array(items) => todo.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => {
                for (name, field) in fields {
                    bytes = bytes.saturating_add(name.len());
                    todo.push((field, depth + 1));
                }
            }
            _ => {}
        }
    }
    Ok(count)
}

/// A patch as messages quote it: cut where nobody reads on.
pub(super) fn quoted(patch: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(patch.get(..4096).unwrap_or(patch))
}

fn too_deep() -> ApiError {
    ApiError::new(422, "Invalid", format!("the patched object is nested deeper than {MAX_DEPTH} levels"))
}

fn object(patch: Value) -> Result<Value, ApiError> {
    if patch.is_object() { Ok(patch) } else { Err(ApiError::bad_request("the patch is not a JSON object")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_for_null_holds_where_a_field_is_null_or_not_there() {
        let patched = |operations: Value| {
            let mut target = json!({"spec": {"null": null, "list": [1], "text": "a"}});
            let patch: json_patch::Patch = serde_json::from_value(operations).unwrap();
            apply_json(&mut target, &patch)
                .map(|()| target["spec"]["new"].clone())
                .map_err(|error| error.code)
        };
        let test = |path: &str, value: Value| {
            patched(json!([
                {"op": "test", "path": path, "value": value},
                {"op": "add", "path": "/spec/new", "value": []},
            ]))
        };
        for path in ["/spec/none", "/spec/null", "/spec/new", "/none"] {
            assert_eq!(test(path, Value::Null), Ok(json!([])), "{path}");
        }
        for path in ["/spec/text", "/spec/list", "/none/below", "/spec/list/7", "/spec/text/below"] {
            assert_eq!(test(path, Value::Null), Err(422), "{path}");
        }
        assert_eq!(test("/spec/none", json!("a")), Err(422));
    }

    #[test]
    fn a_patch_that_would_take_minutes_is_refused() {
        let mut target = json!({"list": vec![0; 20_000], "a": 1});
        let moves = |count: usize| {
            let one = |from: &str, to: &str| json!({"op": "move", "from": from, "path": to});
            let all: Vec<Value> =
                (0..count).map(|n| if n % 2 == 0 { one("/a", "/b") } else { one("/b", "/a") }).collect();
            serde_json::from_value::<json_patch::Patch>(all.into()).unwrap()
        };
        apply_json(&mut target, &moves(100)).unwrap();
        assert_eq!(apply_json(&mut target, &moves(2000)).unwrap_err().code, 413);
        let mut target = json!({"list": vec![0; 20_000]});
        let first = vec![json!({"op": "add", "path": "/list/0", "value": 0}); 10_000];
        let first: json_patch::Patch = serde_json::from_value(first.into()).unwrap();
        assert_eq!(apply_json(&mut target, &first).unwrap_err().code, 413);
    }
}
