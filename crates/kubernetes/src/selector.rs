//! Label selectors, in their written form and as objects, and the requirements of node affinity.

use std::fmt;

use serde_json::Value;

use crate::{json, object};

/// One requirement on a value by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// What no value meets.
const NEVER: Test = Test::In(Vec::new());

impl Requirement {
    fn new(key: String, test: Test) -> Self {
        Self { key, test }
    }

    /// Reads an element of `matchExpressions` of a `metav1.LabelSelector`. An operator that is none is met by nothing.
    #[must_use]
    pub fn of_labels(expression: &Value) -> Self {
        let values = || json::texts(expression, "values").map(str::to_owned).collect();
        let test = match json::text(expression, "operator") {
            "In" => Test::In(values()),
            "NotIn" => Test::NotIn(values()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::Absent,
            _ => NEVER,
        };
        Self::new(json::text(expression, "key").to_owned(), test)
    }

    /// Reads an element of a term of a node selector, which may compare numbers, too.
    #[must_use]
    pub fn of_node(expression: &Value) -> Self {
        let bound = || json::texts(expression, "values").next()?.parse().ok();
        let test = match json::text(expression, "operator") {
            "Gt" => bound().map_or(NEVER, Test::Greater),
            "Lt" => bound().map_or(NEVER, Test::Less),
            _ => return Self::of_labels(expression),
        };
        Self::new(json::text(expression, "key").to_owned(), test)
    }

    /// Which value it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether a value, or that there is none, meets it.
    #[must_use]
    pub fn is_met(&self, value: Option<&str>) -> bool {
        let listed = |values: &[String]| value.is_some_and(|value| values.iter().any(|entry| entry == value));
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => listed(values),
            Test::NotIn(values) => !listed(values),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(than) => number().is_some_and(|value| value > *than),
            Test::Less(than) => number().is_some_and(|value| value < *than),
        }
    }
}

/// A written selector that cannot be read. Displays as Kubernetes words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    why: &'static str,
    selector: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, selector } = self;
        write!(f, "unable to parse requirement: {why} in the label selector {selector:?}")
    }
}

impl std::error::Error for Unreadable {}

/// A label selector; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

impl Labels {
    /// Reads `a=b,c!=d,e in (f,g),h,!i,j>1`.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let unreadable = |why| Unreadable { why, selector: text.to_owned() };
        let mut requirements = Vec::new();
        for part in split(text).ok_or_else(|| unreadable("unbalanced brackets"))? {
            requirements.push(requirement(part.trim()).map_err(unreadable)?);
        }
        Ok(Self(requirements))
    }

    /// Reads a `metav1.LabelSelector`. An operator that is none selects nothing.
    #[must_use]
    pub fn from_object(selector: &Value) -> Self {
        let exact = json::entries(selector, "matchLabels").map(|(key, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            Requirement::new(key.clone(), Test::In(vec![value]))
        });
        let expressions = json::list(selector, "matchExpressions").map(Requirement::of_labels);
        Self(exact.chain(expressions).collect())
    }

    /// True when nothing is required.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when the object's labels meet every requirement.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| requirement.is_met(object::label(object, &requirement.key)))
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
        return Ok(Requirement::new(key_of(key)?, Test::Absent));
    }
    for (operator, not) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let (key, values) = (key_of(key)?, vec![value_of(value)?]);
            return Ok(Requirement::new(key, if not { Test::NotIn(values) } else { Test::In(values) }));
        }
    }
    for (operator, greater) in [('>', true), ('<', false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let value = value.trim().parse().map_err(|_| "a comparison needs a number")?;
            let key = key_of(key)?;
            return Ok(Requirement::new(key, if greater { Test::Greater(value) } else { Test::Less(value) }));
        }
    }
    if let Some((head, list)) = text.split_once('(') {
        let list = list.trim_end().strip_suffix(')').ok_or("unbalanced brackets")?;
        let values = list.split(',').map(value_of).collect::<Result<Vec<_>, _>>()?;
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        return match (operator, words.next()) {
            ("in", None) => Ok(Requirement::new(key_of(key)?, Test::In(values))),
            ("notin", None) => Ok(Requirement::new(key_of(key)?, Test::NotIn(values))),
            _ => Err("expected in or notin before the brackets"),
        };
    }
    Ok(Requirement::new(key_of(text)?, Test::Exists))
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
    fn selectors_that_are_objects() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "1"}}});
        let term = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let check = |selector: Value, expected: bool| {
            assert_eq!(Labels::from_object(&selector).matches(&object), expected, "{selector}");
        };
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "web", "other": ""}}), false);
        for (term, expected) in [
            (term("app", "In", &["web"]), true),
            (term("app", "NotIn", &["web"]), false),
            (term("other", "NotIn", &["web"]), true),
            (term("app", "Exists", &[]), true),
            (term("app", "DoesNotExist", &[]), false),
            (term("tier", "Gt", &["0"]), false),
            (term("app", "Near", &["web"]), false),
        ] {
            check(json!({"matchExpressions": [term]}), expected);
        }
    }

    #[test]
    fn node_selectors_compare_numbers() {
        let met = |operator: &str, bound: &str, value: Option<&str>| {
            Requirement::of_node(&json!({"key": "k", "operator": operator, "values": [bound]})).is_met(value)
        };
        assert!(met("Gt", "1", Some("2")) && !met("Gt", "2", Some("2")) && !met("Gt", "x", Some("2")));
        assert!(met("Lt", "3", Some("2")) && !met("Lt", "3", Some("x")) && !met("Lt", "3", None));
        assert!(met("In", "a", Some("a")) && met("DoesNotExist", "", None));
    }
}
