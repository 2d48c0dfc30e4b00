//! Access to objects in their JSON form.
//!
//! A place is the name of a field, `kind`, or a JSON pointer (RFC 6901), which begins with a slash: `/metadata/name`, and
//! `~1` for a slash in a name. What is null counts as absent, as everywhere in Kubernetes, and so does what has another
//! type than the one that is asked for: a caller that has to distinguish these reads the value itself.

use serde_json::{Map, Value};

/// The value at a place; nothing when it is absent or null.
#[must_use]
pub fn at<'a>(object: &'a Value, place: &str) -> Option<&'a Value> {
    let found = match place.strip_prefix('/') {
        None if place.is_empty() => Some(object),
        None => object.get(place),
        // `Value::pointer` makes two strings for each step.
        Some(steps) if !steps.contains('~') => walk(object, steps),
        Some(_) => object.pointer(place),
    };
    found.filter(|value| !value.is_null())
}

fn walk<'a>(object: &'a Value, steps: &str) -> Option<&'a Value> {
    steps.split('/').try_fold(object, |value, step| match value {
        Value::Object(fields) => fields.get(step),
        Value::Array(items) => items.get(index(step)?),
        _ => None,
    })
}

/// The position that a step names: digits without a leading zero.
fn index(step: &str) -> Option<usize> {
    let plain = step.bytes().all(|byte| byte.is_ascii_digit()) && (step == "0" || !step.starts_with('0'));
    step.parse().ok().filter(|_| plain)
}

/// The text at a place; nothing when it is absent or no text.
#[must_use]
pub fn string<'a>(object: &'a Value, place: &str) -> Option<&'a str> {
    at(object, place)?.as_str()
}

/// The text at a place; empty when it is absent or no text.
#[must_use]
pub fn text<'a>(object: &'a Value, place: &str) -> &'a str {
    string(object, place).unwrap_or_default()
}

/// The elements of the list at a place; none when it is absent or no list.
pub fn list<'a>(object: &'a Value, place: &str) -> std::slice::Iter<'a, Value> {
    at(object, place).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter()
}

/// The texts of the list at a place; what is no text is left out.
pub fn texts<'a>(object: &'a Value, place: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    list(object, place).filter_map(Value::as_str)
}

/// The fields of the object at a place; nothing when it is absent or no object.
#[must_use]
pub fn fields<'a>(object: &'a Value, place: &str) -> Option<&'a Map<String, Value>> {
    at(object, place)?.as_object()
}

/// The fields of the object at a place, one by one; none when it is absent or no object.
pub fn entries<'a>(
    object: &'a Value,
    place: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    fields(object, place).into_iter().flatten()
}

/// Writes the name of a field as a step of a JSON pointer.
pub fn escape(name: &str, pointer: &mut String) {
    for char in name.chars() {
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            char => pointer.push(char),
        }
    }
}

/// Sets a field of the object at a path of keys, making its parents where they are missing or null. Nothing happens
/// where a parent is something else than an object.
pub fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut place = object;
    for parent in parents {
        let Value::Object(fields) = place else { return };
        place = fields.entry(*parent).or_insert(Value::Null);
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
    }
    if let Value::Object(fields) = place {
        fields.insert((*last).to_owned(), value);
    }
}

/// Sets a field that is absent or null. Nothing happens to what is no object.
pub fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Value::Object(fields) = object {
        let place = fields.entry(field).or_insert(Value::Null);
        if place.is_null() {
            *place = value.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_those_of_json_pointers_and_null_is_absent() {
        let object = json!({"a": {"b/c": 1, "~": 2, "": {"d": 3}}, "l": [[4], null], "0": 5, "n": null});
        for pointer in [
            "",
            "/",
            "/a",
            "/a/",
            "/a//d",
            "/a/b~1c",
            "/a/~0",
            "/a/b/c",
            "/l/0",
            "/l/0/0",
            "/l/00",
            "/l/+0",
            "/l/-",
            "/l/9",
            "/l/",
            "/0",
            "/0/0",
            "/x/y",
            "/n/x",
            "/l/18446744073709551616",
        ] {
            assert_eq!(at(&object, pointer), object.pointer(pointer), "{pointer}");
        }
        assert_eq!((at(&object, "a"), at(&object, "x")), (object.get("a"), None));
        assert_eq!(at(&object["a"], "b/c"), Some(&json!(1)));
        for name in ["b/c", "~", "a"] {
            let mut place = "/a/".to_owned();
            escape(name, &mut place);
            assert_eq!(at(&object, &place), object["a"].get(name), "{place}");
        }
        for null in ["/n", "/l/1"] {
            assert!(at(&object, null).is_none() && object.pointer(null).is_some(), "{null}");
        }
    }

    #[test]
    fn what_has_another_type_is_absent() {
        let object = json!({"t": "x", "n": 1, "l": ["a", 1, "b"], "o": {"k": "v"}});
        assert_eq!((text(&object, "t"), text(&object, "n"), text(&object, "/l")), ("x", "", ""));
        assert_eq!((string(&object, "/t"), string(&object, "/n")), (Some("x"), None));
        assert_eq!((list(&object, "/l").len(), list(&object, "/o").len()), (3, 0));
        assert_eq!(texts(&object, "/l").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(entries(&object, "/o").count(), 1);
        assert!(fields(&object, "/l").is_none() && entries(&object, "/t").next().is_none());
    }

    #[test]
    fn missing_parents_are_made_and_other_values_are_left() {
        let mut object = json!({"status": null, "spec": 1});
        set(&mut object, &["status", "phase"], "Bound".into());
        set(&mut object, &["spec", "x"], 1.into());
        set(&mut object, &["new"], true.into());
        set(&mut object, &[], 1.into());
        assert_eq!(object, json!({"status": {"phase": "Bound"}, "spec": 1, "new": true}));
        default(&mut object, "new", false);
        default(&mut object, "more", "y");
        default(&mut Value::Null, "x", 1);
        assert_eq!(object, json!({"status": {"phase": "Bound"}, "spec": 1, "new": true, "more": "y"}));
    }
}
