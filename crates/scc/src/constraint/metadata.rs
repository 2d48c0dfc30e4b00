//! The usual rules for names, labels and annotations, as far as they concern a cluster-scoped object.

use std::collections::BTreeMap;

use ferrovirt_kubernetes::names::{label_value_errors, qualified_errors, subdomain_errors};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::constraint::object::FieldError;
use crate::report::quote::{json_list, quoted};

const ANNOTATIONS_LENGTH: usize = 256 * 1024;

/// Adds every reason why the metadata is invalid.
pub(crate) fn validate(metadata: &ObjectMeta, errors: &mut Vec<FieldError>) {
    let generate = metadata.generate_name.as_deref().unwrap_or_default();
    if !generate.is_empty() {
        // What stands before the generated part may end in a dash; the byte before that is not looked at either.
        let mut before = generate.strip_suffix('-').map(str::chars);
        let masked = match before.as_mut().and_then(|chars| Some((chars.next_back()?, chars.as_str()))) {
            Some((byte, stem)) if byte.is_ascii() => format!("{stem}a"),
            _ => generate.to_owned(),
        };
        add("metadata.generateName", generate, subdomain_errors(&masked), errors);
    }
    let name = metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        add("metadata.name", name, subdomain_errors(name), errors);
    } else {
        // Where a name is generated, that was done before.
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    }
    if metadata.namespace.as_deref().is_some_and(|n| !n.is_empty()) {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    if let Some(generation) = metadata.generation.filter(|n| *n < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("metadata.generation", generation, detail));
    }
    for (key, value) in metadata.labels.iter().flatten() {
        add("metadata.labels", key, qualified_errors(key), errors);
        add("metadata.labels", value, label_value_errors(value), errors);
    }
    annotations(metadata.annotations.as_ref(), errors);
    metadata.owner_references.iter().flatten().for_each(|owner| owner_reference(owner, errors));
    for finalizer in metadata.finalizers.iter().flatten() {
        add("metadata.finalizers", finalizer, qualified_errors(finalizer), errors);
    }
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    if ["orphan", "foregroundDeletion"].iter().all(|name| finalizers.iter().any(|f| f == name)) {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        let value = json_list(finalizers.iter().map(String::as_str));
        errors.push(FieldError::invalid("metadata.finalizers", value, detail));
    }
}

fn owner_reference(owner: &OwnerReference, errors: &mut Vec<FieldError>) {
    let field = |part: &str| format!("metadata.ownerReferences.{part}");
    let version = &owner.api_version;
    // A text with more than one slash has no version.
    if version.is_empty() || version.ends_with('/') || version.matches('/').count() > 1 {
        let detail = "version must not be empty";
        errors.push(FieldError::invalid(field("apiVersion"), quoted(version), detail));
    }
    for (part, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
        if value.is_empty() {
            errors.push(FieldError::invalid(field(part), quoted(value), "must not be empty"));
        }
    }
}

fn annotations(annotations: Option<&BTreeMap<String, String>>, errors: &mut Vec<FieldError>) {
    let Some(annotations) = annotations else { return };
    for key in annotations.keys() {
        // Capital letters are fine in the prefix here.
        add("metadata.annotations", key, qualified_errors(&key.to_lowercase()), errors);
    }
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > ANNOTATIONS_LENGTH {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_LENGTH));
    }
}

fn add(field: &str, shown: &str, details: Vec<String>, errors: &mut Vec<FieldError>) {
    errors.extend(details.into_iter().map(|detail| FieldError::invalid(field, quoted(shown), detail)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_metadata_is_looked_at() {
        let mut errors = Vec::new();
        let named = ObjectMeta { name: Some("x".into()), ..ObjectMeta::default() };
        let metadata = ObjectMeta { generate_name: Some("a-".into()), ..named.clone() };
        validate(&metadata, &mut errors);
        assert_eq!(errors, []);
        validate(&ObjectMeta { namespace: Some("x".into()), ..ObjectMeta::default() }, &mut errors);
        assert_eq!(errors.len(), 2);
        errors.clear();
        validate(&ObjectMeta { generate_name: Some("a\u{e9}-".into()), ..named.clone() }, &mut errors);
        assert_eq!(errors.len(), 1);
        errors.clear();
        let owners = vec![OwnerReference { api_version: "a/b/c".into(), ..OwnerReference::default() }];
        let finalizers = vec!["A B".to_owned(), "a/b".to_owned()];
        let (owner_references, finalizers) = (Some(owners), Some(finalizers));
        validate(&ObjectMeta { generation: Some(-1), owner_references, finalizers, ..named }, &mut errors);
        let fields: Vec<&str> = errors.iter().filter_map(|e| e.field.strip_prefix("metadata.")).collect();
        let owner = ["apiVersion", "kind", "name", "uid"].map(|part| format!("ownerReferences.{part}"));
        let [version, kind, name, uid] = owner.each_ref().map(String::as_str);
        assert_eq!(fields, ["generation", version, kind, name, uid, "finalizers"]);
    }
}
