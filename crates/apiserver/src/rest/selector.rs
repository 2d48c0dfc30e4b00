//! Field selectors.

use serde_json::Value;

use crate::status::ApiError;

/// A field selector: `a=b,c!=d`, with escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<Field>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    path: String,
    value: String,
    equal: bool,
}

impl Fields {
    /// Reads a selector; which fields a kind has is checked by [`Fields::check`].
    ///
    /// # Errors
    /// 400 for what cannot be read.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut fields = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let found =
                [("!=", false), ("==", true), ("=", true)].into_iter().find_map(|(operator, equal)| {
                    part.split_once(operator).map(|(path, value)| (path, value, equal))
                });
            let Some((path, value, equal)) = found else {
                let message = format!("invalid selector: '{part}'; can't understand '{text}'");
                return Err(ApiError::bad_request(message));
            };
            fields.push(Field { path: path.trim().to_owned(), value: value.to_owned(), equal });
        }
        Ok(Self(fields))
    }

    /// True when nothing is required.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name, when the selector asks for exactly one object.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let named = self.0.iter().find(|field| field.equal && field.path == "metadata.name");
        named.map(|field| field.value.as_str())
    }

    /// Refuses fields that the kind cannot be selected by.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn check(&self, group: &str, plural: &str) -> Result<(), ApiError> {
        let more: &[&str] = match (group, plural) {
            ("", "pods") => &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ],
            ("", "nodes") => &["spec.unschedulable"],
            ("", "namespaces") => &["status.phase"],
            ("", "secrets") => &["type"],
            ("" | "events.k8s.io", "events") => &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "regarding.kind",
                "regarding.namespace",
                "regarding.name",
                "regarding.uid",
                "reason",
                "reportingComponent",
                "reportingController",
                "source",
                "type",
            ],
            _ => &[],
        };
        for field in &self.0 {
            let path = field.path.as_str();
            if !matches!(path, "metadata.name" | "metadata.namespace") && !more.contains(&path) {
                return Err(ApiError::bad_request(format!("field label not supported: {path}")));
            }
        }
        Ok(())
    }

    /// True when the stored object has the selected values. A field that is absent counts as empty.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|field| (value_at(object, &field.path) == field.value) == field.equal)
    }
}

fn value_at(object: &Value, path: &str) -> String {
    // Events are stored in the core form, whatever view is asked.
    let path = match path {
        "source" => "source.component",
        "reportingController" => "reportingComponent",
        path => path,
    };
    let pointer = match path.strip_prefix("regarding.") {
        Some(rest) => format!("/involvedObject/{rest}"),
        None => format!("/{}", path.replace('.', "/")),
    };
    match object.pointer(&pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_selectors() {
        let object = json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
        let fields = Fields::parse("metadata.name=a,status.phase!=Failed").unwrap();
        assert!(fields.matches(&object) && fields.check("", "pods").is_ok());
        assert_eq!(fields.name(), Some("a"));
        assert!(fields.check("", "configmaps").is_err());
        assert!(!Fields::parse("spec.nodeName!=").unwrap().matches(&object));
        assert!(Fields::parse("nonsense").is_err());
    }
}
