//! The difference of two JSON values as a JSON patch (RFC 6902).

use serde_json::{Value, json};

use crate::json::escape;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For exactly the old value: lists of the same length are compared item by item, others replaced, and what is replaced
    /// must be there.
    Exact,
    /// For a stored value that may have more in it than the old one shows: lists are replaced whole, and what is replaced
    /// need not be there.
    Tolerant,
}

/// The operations that make `new` out of `old`. Only members that differ are named.
///
/// The recursion is as deep as the values are nested: the reader of outside bytes bounds that.
#[must_use]
pub fn difference(old: &Value, new: &Value, form: Form) -> Vec<Value> {
    let mut out = Vec::new();
    compare(&mut String::new(), old, new, form, &mut out);
    out
}

fn compare(path: &mut String, old: &Value, new: &Value, form: Form, out: &mut Vec<Value>) {
    let length = path.len();
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                step(path, name);
                out.push(json!({"op": "remove", "path": path}));
                path.truncate(length);
            }
            for (name, value) in new {
                step(path, name);
                match old.get(name) {
                    Some(before) => compare(path, before, value, form, out),
                    None => out.push(json!({"op": "add", "path": path, "value": value})),
                }
                path.truncate(length);
            }
        }
        (Value::Array(old), Value::Array(new)) if form == Form::Exact && old.len() == new.len() => {
            for (index, (before, value)) in old.iter().zip(new).enumerate() {
                step(path, &index.to_string());
                compare(path, before, value, form, out);
                path.truncate(length);
            }
        }
        (old, new) if old == new => {}
        (_, new) => {
            // `add` replaces an existing member, and does not mind when there is none.
            let op = if form == Form::Exact { "replace" } else { "add" };
            out.push(json!({"op": op, "path": path, "value": new}));
        }
    }
}

/// One more part of a JSON pointer.
fn step(path: &mut String, name: &str) {
    path.push('/');
    escape(name, path);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Value {
        json!({"same": [1], "gone": 1, "l": {"a/b": "1", "c~d": "1"}, "s": [1, {"x": 1}], "t": [1]})
    }

    fn new() -> Value {
        json!({"same": [1], "l": {"a/b": "2", "c~d": "2"}, "s": [1, {"x": 2}], "t": [1, 2], "n": {}})
    }

    #[test]
    fn equal_values_need_no_patch() {
        for form in [Form::Exact, Form::Tolerant] {
            assert!(difference(&old(), &old(), form).is_empty());
        }
    }

    #[test]
    fn an_exact_patch_names_items_of_lists() {
        let expected = [
            json!({"op": "remove", "path": "/gone"}),
            json!({"op": "replace", "path": "/l/a~1b", "value": "2"}),
            json!({"op": "replace", "path": "/l/c~0d", "value": "2"}),
            json!({"op": "add", "path": "/n", "value": {}}),
            json!({"op": "replace", "path": "/s/1/x", "value": 2}),
            json!({"op": "replace", "path": "/t", "value": [1, 2]}),
        ];
        assert_eq!(difference(&old(), &new(), Form::Exact), expected);
    }

    #[test]
    fn a_tolerant_patch_adds_whole_lists() {
        let expected = [
            json!({"op": "remove", "path": "/gone"}),
            json!({"op": "add", "path": "/l/a~1b", "value": "2"}),
            json!({"op": "add", "path": "/l/c~0d", "value": "2"}),
            json!({"op": "add", "path": "/n", "value": {}}),
            json!({"op": "add", "path": "/s", "value": [1, {"x": 2}]}),
            json!({"op": "add", "path": "/t", "value": [1, 2]}),
        ];
        assert_eq!(difference(&old(), &new(), Form::Tolerant), expected);
    }
}
