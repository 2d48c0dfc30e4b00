//! What every object has: kind and metadata, read from its JSON form. Absent is empty.

use serde_json::Value;

use crate::json;

/// `kind`.
#[must_use]
pub fn kind(object: &Value) -> &str {
    json::text(object, "kind")
}

/// `metadata.name`.
#[must_use]
pub fn name(object: &Value) -> &str {
    json::text(object, "/metadata/name")
}

/// `metadata.namespace`.
#[must_use]
pub fn namespace(object: &Value) -> &str {
    json::text(object, "/metadata/namespace")
}

/// `metadata.uid`.
#[must_use]
pub fn uid(object: &Value) -> &str {
    json::text(object, "/metadata/uid")
}

/// The value of a label, of which the empty text is one.
#[must_use]
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    json::fields(object, "/metadata/labels")?.get(key)?.as_str()
}

/// The value of an annotation, of which the empty text is one.
#[must_use]
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    json::fields(object, "/metadata/annotations")?.get(key)?.as_str()
}

/// Whether deletion was asked for.
#[must_use]
pub fn is_deleting(object: &Value) -> bool {
    json::at(object, "/metadata/deletionTimestamp").is_some()
}

/// `metadata.ownerReferences`.
pub fn owners(object: &Value) -> std::slice::Iter<'_, Value> {
    json::list(object, "/metadata/ownerReferences")
}

/// The owner reference that says `controller: true`.
#[must_use]
pub fn controller(object: &Value) -> Option<&Value> {
    owners(object).find(|owner| json::at(owner, "controller") == Some(&Value::Bool(true)))
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    json::texts(object, "/metadata/finalizers")
}

/// Whether `metadata.finalizers` has this one.
#[must_use]
pub fn has_finalizer(object: &Value, name: &str) -> bool {
    finalizers(object).any(|finalizer| finalizer == name)
}

/// Whether nobody has something left to do before the object goes.
#[must_use]
pub fn no_finalizers(object: &Value) -> bool {
    json::list(object, "/metadata/finalizers").len() == 0
}

/// Removes one finalizer, and the field with the last.
pub fn drop_finalizer(object: &mut Value, name: &str) {
    if let Some(Value::Array(list)) = object.pointer_mut("/metadata/finalizers") {
        list.retain(|finalizer| finalizer.as_str() != Some(name));
        if list.is_empty()
            && let Some(Value::Object(metadata)) = object.get_mut("metadata")
        {
            metadata.remove("finalizers");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_read_and_absent_is_empty() {
        let object = json!({"kind": "Pod", "metadata": {
            "name": "n", "namespace": "s", "uid": "u", "labels": {"a/b": "", "c": 1}, "annotations": {"d~": "e"},
            "deletionTimestamp": null}});
        assert_eq!((kind(&object), name(&object), namespace(&object), uid(&object)), ("Pod", "n", "s", "u"));
        assert_eq!((label(&object, "a/b"), label(&object, "c"), label(&object, "x")), (Some(""), None, None));
        assert_eq!((annotation(&object, "d~"), annotation(&object, "a/b")), (Some("e"), None));
        assert!(!is_deleting(&object));
        let nothing = Value::Null;
        assert_eq!((kind(&nothing), name(&nothing), label(&nothing, "a")), ("", "", None));
    }

    #[test]
    fn one_owner_is_the_controller() {
        let owner = |name: &str, controller: Value| json!({"name": name, "controller": controller});
        let with = |owners: &[Value]| json!({"metadata": {"ownerReferences": owners}});
        let object = with(&[owner("a", Value::Null), owner("b", json!(false)), owner("c", json!(true))]);
        assert_eq!(owners(&object).len(), 3);
        assert_eq!(controller(&object).map(|owner| json::text(owner, "name")), Some("c"));
        assert_eq!(controller(&with(&[owner("a", json!("true"))])), None);
    }

    #[test]
    fn the_last_finalizer_takes_the_field_with_it() {
        let mut object = json!({"metadata": {"finalizers": ["a", "b"]}});
        assert!(!no_finalizers(&object) && has_finalizer(&object, "a") && !has_finalizer(&object, "c"));
        drop_finalizer(&mut object, "c");
        drop_finalizer(&mut object, "a");
        assert_eq!(finalizers(&object).collect::<Vec<_>>(), ["b"]);
        drop_finalizer(&mut object, "b");
        assert_eq!(object, json!({"metadata": {}}));
        assert!(no_finalizers(&object));
    }
}
