//! `metadata`: what the server sets, what must not change, and what names may look like.

use std::collections::HashSet;

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::{names, object};
use serde_json::{Map, Value, json};

use super::Call;
use crate::clock;
use crate::registry::{Class, Kind};
use crate::status::{ApiError, Cause};

/// The letters of generated names: no vowels and nothing that looks like something else.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const MAX_GENERATED: usize = 63;
/// How many causes an answer names.
pub(super) const MAX_CAUSES: usize = 20;

/// A value of a client as messages quote it: cut where nobody reads on.
pub(super) fn quoted(value: &str) -> &str {
    value.char_indices().nth(256).map_or(value, |(end, _)| value.get(..end).unwrap_or_default())
}

/// The metadata of an object, made if it is missing.
pub(super) fn of(object: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    let Value::Object(fields) = object else {
        return Err(ApiError::bad_request("the object is not a JSON object"));
    };
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    match metadata {
        Value::Object(metadata) => Ok(metadata),
        _ => Err(ApiError::bad_request("metadata is not an object")),
    }
}

/// What a new object's metadata gets from the server.
pub(super) fn prepare_create(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let uid =
        crate::auth::unique().ok_or_else(|| ApiError::internal("the system gives no random numbers"))?;
    let metadata = of(object)?;
    match metadata.get("namespace").and_then(Value::as_str).unwrap_or_default() {
        "" => {}
        given if given == namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    if kind.namespaced {
        metadata.insert("namespace".to_owned(), namespace.into());
    } else {
        metadata.remove("namespace");
    }
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "resourceVersion"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), clock::stamp().into());
    metadata.remove("generation");
    if counts_generations(kind) {
        metadata.insert("generation".to_owned(), 1.into());
    }
    Ok(())
}

/// Kinds whose `generation` tells controllers that the spec changed.
fn counts_generations(kind: &Kind) -> bool {
    kind.class == Class::Custom
        || (kind.group.is_empty() && kind.plural == "pods")
        || matches!(kind.group, "apiextensions.k8s.io" | "admissionregistration.k8s.io")
}

/// A name from `generateName`.
pub(super) fn generate_name(prefix: &str) -> Result<String, ApiError> {
    let random =
        crate::auth::unique().ok_or_else(|| ApiError::internal("the system gives no random numbers"))?;
    let number = random
        .bytes()
        .filter(u8::is_ascii_hexdigit)
        .fold(0u128, |sum, digit| sum << 4 | u128::from(char::from(digit).to_digit(16).unwrap_or_default()));
    let base = LETTERS.len() as u128;
    let mut name: String = prefix.chars().take(MAX_GENERATED - SUFFIX).collect();
    // The low half: the version bits of a random UUID are in the high one.
    let mut number = number & ((1 << 48) - 1);
    for _ in 0..SUFFIX {
        let letter = usize::try_from(number % base).ok().and_then(|index| LETTERS.get(index)).copied();
        name.push(char::from(letter.unwrap_or(b'x')));
        number /= base;
    }
    Ok(name)
}

/// Keeps what an update must not change, and splits spec from status. `object` and `old` are in the stored form.
pub(super) fn prepare_update(
    kind: &Kind,
    subresource: &str,
    old: &Value,
    object: &mut Value,
) -> Result<(), ApiError> {
    if subresource == "status" {
        let status = object.get("status").cloned();
        *object = old.clone();
        if let Value::Object(fields) = object {
            match status {
                Some(status) => fields.insert("status".to_owned(), status),
                None => fields.remove("status"),
            };
        }
        return Ok(());
    }
    if subresource == "finalize" {
        let finalizers = object.pointer("/spec/finalizers").cloned();
        *object = old.clone();
        if let Some(Value::Object(spec)) = object.get_mut("spec") {
            match finalizers {
                Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                None => spec.remove("finalizers"),
            };
        }
        return Ok(());
    }
    if kind.has_status()
        && let Value::Object(fields) = object
    {
        match old.get("status") {
            Some(status) => fields.insert("status".to_owned(), status.clone()),
            None => fields.remove("status"),
        };
    }
    let before = old.get("metadata").cloned().unwrap_or_default();
    let metadata = of(object)?;
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match before.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    for field in ["selfLink", "managedFields"] {
        metadata.remove(field);
    }
    Ok(())
}

/// After a webhook made `object` out of `before`: it could change what its author could have written, nothing else.
pub(crate) fn settle(
    kind: &Kind,
    subresource: &str,
    old: Option<&Value>,
    before: &Value,
    object: &mut Value,
) -> Result<(), ApiError> {
    for field in ["name", "namespace"] {
        let place = format!("/metadata/{field}");
        if json::text(before, &place) != json::text(object, &place) {
            return Err(ApiError::bad_request(format!("metadata.{field} cannot be changed by a webhook")));
        }
    }
    prepare_update(kind, subresource, old.unwrap_or(before), object)
}

/// Counts a change of the spec. To be called when admission is through.
pub(super) fn bump_generation(kind: &Kind, old: &Value, object: &mut Value) {
    if !counts_generations(kind) {
        return;
    }
    // A custom resource without a status subresource has its status in what counts.
    let rest = |object: &Value| {
        let mut fields = object.as_object().cloned().unwrap_or_default();
        fields.remove("metadata");
        if kind.has_status() {
            fields.remove("status");
        }
        fields
    };
    if rest(old) == rest(object) {
        return;
    }
    let generation = old.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0);
    if let Ok(metadata) = of(object) {
        metadata.insert("generation".to_owned(), generation.saturating_add(1).into());
    }
}

/// The mark of deletion counts as a change of the spec.
pub(super) fn bump_deletion(kind: &Kind, object: &mut Value) {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0);
    if let (true, Ok(metadata)) = (counts_generations(kind), of(object)) {
        metadata.insert("generation".to_owned(), generation.saturating_add(1).into());
    }
}

impl Call {
    /// Refuses names, labels and finalizers that Kubernetes refuses.
    pub(super) fn check_meta(&self, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let mut causes = Vec::new();
        super::size::check((self.kind.group, self.kind.plural), object, old, &mut causes);
        let mut invalid = |field: &str, value: &str, why: &str| {
            // An answer that names each of thousands is of use to nobody.
            if causes.len() < MAX_CAUSES {
                causes.push(Cause {
                    reason: "FieldValueInvalid".into(),
                    message: format!("Invalid value: {:?}: {why}", quoted(value)),
                    field: field.to_owned(),
                });
            }
        };
        let name = object::name(object);
        if old.is_none() {
            if self.kind.loose_names {
                if name.contains(['/', '%']) || matches!(name, "." | "..") {
                    invalid("metadata.name", name, "may not contain '/' or '%', or be '.' or '..'");
                }
            } else if matches!((self.kind.group, self.kind.plural), ("", "namespaces" | "services")) {
                if !names::is_label(name) {
                    invalid("metadata.name", name, names::LABEL_RULE);
                }
            } else if !names::is_subdomain(name) {
                invalid("metadata.name", name, names::SUBDOMAIN_RULE);
            }
        }
        let qualified_rule = format!("name part {}", names::PART_RULE);
        for map in ["labels", "annotations"] {
            let field = format!("metadata.{map}");
            let Some(Value::Object(entries)) = object.pointer(&format!("/metadata/{map}")) else { continue };
            for (key, value) in entries {
                if !names::is_qualified(key) {
                    invalid(&field, key, &qualified_rule);
                }
                let value = value.as_str().unwrap_or_default();
                if map == "labels" && !names::is_label_value(value) {
                    invalid(&field, value, names::LABEL_VALUE_RULE);
                }
            }
        }
        for finalizer in object::finalizers(object) {
            if !names::is_qualified(finalizer) {
                invalid("metadata.finalizers", finalizer, &qualified_rule);
            }
        }
        if let Some(old) = old.filter(|old| object::is_deleting(old)) {
            let before: HashSet<&str> = object::finalizers(old).collect();
            let added: Vec<&str> =
                object::finalizers(object).filter(|finalizer| !before.contains(finalizer)).collect();
            if !added.is_empty() {
                causes.push(Cause {
                    reason: "FieldValueForbidden".into(),
                    message: format!(
                        "Forbidden: no new finalizers can be added if the object is being deleted, found new \
                         finalizers {added:?}"
                    ),
                    field: "metadata.finalizers".into(),
                });
            }
        }
        if causes.is_empty() {
            self.check_size(object, old)
        } else {
            Err(ApiError::invalid(self.kind.group, self.kind.kind, name, &causes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_differ_and_fit() {
        let (a, b) = (generate_name("pod-").unwrap(), generate_name("pod-").unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 9);
        assert!(names::is_subdomain(&a));
        assert_eq!(generate_name(&"x".repeat(100)).unwrap().len(), 63);
    }

    #[test]
    fn status_and_spec_are_written_apart() {
        let kind = crate::registry::find("kubevirt.io", "virtualmachines").unwrap();
        let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 3}, "spec": {"running": true},
            "status": {"ready": true}});
        let mut new = json!({"metadata": {"name": "a", "uid": "other", "labels": {"a": "b"}},
            "spec": {"running": false}, "status": {"ready": false}});
        let mut status = new.clone();
        prepare_update(kind, "", &old, &mut new).unwrap();
        bump_generation(kind, &old, &mut new);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "uid": "u", "generation": 4, "labels": {"a": "b"}},
            "spec": {"running": false}, "status": {"ready": true}})
        );
        prepare_update(kind, "status", &old, &mut status).unwrap();
        bump_generation(kind, &old, &mut status);
        assert_eq!(
            status,
            json!({"metadata": {"name": "a", "uid": "u", "generation": 3},
            "spec": {"running": true}, "status": {"ready": false}})
        );
    }
}
