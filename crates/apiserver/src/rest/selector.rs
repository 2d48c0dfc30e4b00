//! Label and field selectors.

use ferrovirt_kubernetes::json;
use serde_json::Value;

use crate::status::ApiError;

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A label selector; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

impl Labels {
    /// Reads `a=b,c!=d,e in (f,g),h,!i,j>1`.
    ///
    /// # Errors
    /// 400 for what cannot be read.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let unreadable = |why: &str| {
            ApiError::bad_request(format!(
                "unable to parse requirement: {why} in the label selector {text:?}"
            ))
        };
        let mut requirements = Vec::new();
        for part in split(text).ok_or_else(|| unreadable("unbalanced brackets"))? {
            requirements.push(requirement(part.trim()).map_err(unreadable)?);
        }
        Ok(Self(requirements))
    }

    /// Reads a `metav1.LabelSelector`. An operator that is none selects nothing.
    #[must_use]
    pub fn from_object(selector: &Value) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in json::entries(selector, "matchLabels") {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::In(key.clone(), vec![value]));
        }
        for one in json::list(selector, "matchExpressions") {
            let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default();
            let key = text("key").to_owned();
            let values = json::list(one, "values");
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(match text("operator") {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                _ => Requirement::In(key, Vec::new()),
            });
        }
        Self(requirements)
    }

    /// True when nothing is required.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when the object's labels meet every requirement.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        let number = |key: &str| label(key).and_then(|value| value.parse::<i64>().ok());
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Requirement::NotIn(key, values) => {
                !label(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
            Requirement::Greater(key, than) => number(key).is_some_and(|value| value > *than),
            Requirement::Less(key, than) => number(key).is_some_and(|value| value < *than),
        })
    }
}

/// Takes a selector apart at commas that are not between brackets.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut rest, mut inside) = (Vec::new(), text, false);
    let mut from = 0;
    while let Some(at) = rest.get(from..)?.find([',', '(', ')']).map(|at| at + from) {
        match rest.as_bytes().get(at)? {
            b'(' if !inside => inside = true,
            b')' if inside => inside = false,
            b',' if inside => {}
            b',' => {
                parts.push(rest.get(..at)?);
                rest = rest.get(at + 1..)?;
                from = 0;
                continue;
            }
            _ => return None,
        }
        from = at + 1;
    }
    if inside {
        return None;
    }
    if !rest.trim().is_empty() {
        parts.push(rest);
    } else if !parts.is_empty() {
        return None;
    }
    Some(parts)
}

fn requirement(text: &str) -> Result<Requirement, &'static str> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Absent(key_of(key)?));
    }
    for (operator, not) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let (key, values) = (key_of(key)?, vec![value_of(value)?]);
            return Ok(if not { Requirement::NotIn(key, values) } else { Requirement::In(key, values) });
        }
    }
    for (operator, greater) in [('>', true), ('<', false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let value = value.trim().parse().map_err(|_| "a comparison needs a number")?;
            let key = key_of(key)?;
            return Ok(if greater {
                Requirement::Greater(key, value)
            } else {
                Requirement::Less(key, value)
            });
        }
    }
    if let Some((head, list)) = text.split_once('(') {
        let list = list.trim_end().strip_suffix(')').ok_or("unbalanced brackets")?;
        let values = list.split(',').map(value_of).collect::<Result<Vec<_>, _>>()?;
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        return match (operator, words.next()) {
            ("in", None) => Ok(Requirement::In(key_of(key)?, values)),
            ("notin", None) => Ok(Requirement::NotIn(key_of(key)?, values)),
            _ => Err("expected in or notin before the brackets"),
        };
    }
    Ok(Requirement::Exists(key_of(text)?))
}

fn key_of(text: &str) -> Result<String, &'static str> {
    let key = text.trim();
    let name = key.rsplit('/').next().unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if name.is_empty() || !key.chars().all(good) {
        Err("the key is no label key")
    } else {
        Ok(key.to_owned())
    }
}

fn value_of(text: &str) -> Result<String, &'static str> {
    let value = text.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.chars().all(good) { Ok(value.to_owned()) } else { Err("the value is no label value") }
}

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

    #[track_caller]
    fn check(selector: &str, expected: bool) {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "1", "a.b/c": ""}}});
        assert_eq!(Labels::parse(selector).unwrap().matches(&object), expected, "{selector}");
    }

    #[test]
    fn label_selectors() {
        check("", true);
        check("app=web", true);
        check("app==web,tier=1", true);
        check("app!=web", false);
        check("other!=web", true);
        check("app in (db, web),tier", true);
        check("app notin (db,web)", false);
        check("other notin (db)", true);
        check("!app", false);
        check("!other,a.b/c", true);
        check("a.b/c=", true);
        check("tier>0", true);
        check("tier<1", false);
        for bad in ["app in db", "app in (db", "=x", "a b", "app=web,", "a in (b)) ,c"] {
            assert!(Labels::parse(bad).is_err(), "{bad}");
        }
    }

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
