//! Strategic merge patch: a merge patch that knows which lists are maps in disguise.
//!
//! Which list has which key is a property of the built-in types. The names of these lists are unambiguous enough that
//! the table below goes by the name of the field, and for the one that is not (`ports`) by what the items look like.

use ferrovirt_kubernetes::json;
use serde_json::{Map, Value};

/// Lists of objects that are merged by a key, and the key.
fn merge_key(field: &str, items: &[Value]) -> Option<&'static str> {
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "schedulingGates"
        | "resourceClaims"
        | "webhooks" => "name",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "conditions" | "addresses" => "type",
        "ownerReferences" => "uid",
        "hostAliases" | "podIPs" | "hostIPs" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => "containerPort",
        "ports" => "port",
        _ => return None,
    })
}

/// Lists of plain values that are merged as sets.
fn is_set(field: &str) -> bool {
    matches!(field, "finalizers" | "podCIDRs")
}

/// Applies a patch.
///
/// # Errors
/// A sentence for directives that make no sense.
pub(super) fn merge(target: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    merge_object(target, patch)
}

fn merge_object(target: &mut Value, patch: &Map<String, Value>) -> Result<(), String> {
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            let mut fields = patch.clone();
            fields.remove("$patch");
            *target = Value::Object(fields);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(format!("unknown $patch directive {other:?}")),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return Ok(()) };
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        check_length("$retainKeys", fields.len(), keep.len())?;
        fields.retain(|name, _| keep.iter().any(|field| field.as_str() == Some(name)));
    }
    for (name, value) in patch {
        if let Some(field) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Some(gone)) = (fields.get_mut(field), value.as_array()) {
                check_length(field, items.len(), gone.len())?;
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        match value {
            Value::Null => {
                fields.remove(name);
            }
            Value::Object(inner) => {
                if inner.get("$patch").and_then(Value::as_str) == Some("delete") {
                    fields.remove(name);
                } else {
                    merge_object(fields.entry(name.clone()).or_insert(Value::Null), inner)?;
                }
            }
            Value::Array(items) => {
                // In a pod this list has a key, in a service account it is replaced.
                let replaced = name == "imagePullSecrets" && !fields.contains_key("containers");
                let place = fields.entry(name.clone()).or_insert(Value::Null);
                if replaced {
                    *place = value.clone();
                } else {
                    merge_list(name, place, items)?;
                }
            }
            plain => {
                fields.insert(name.clone(), plain.clone());
            }
        }
    }
    for (name, order) in patch {
        if let (Some(field), Some(order)) = (name.strip_prefix("$setElementOrder/"), order.as_array())
            && let Some(Value::Array(items)) = fields.get_mut(field)
        {
            check_length(field, items.len(), order.len())?;
            reorder(field, items, order);
        }
    }
    Ok(())
}

/// Merging looks for each item of a patch among all others; this bounds how often. Real lists are far below it.
const MAX_COMPARISONS: usize = 1_000_000;

fn check_length(field: &str, one: usize, other: usize) -> Result<(), String> {
    if one.saturating_mul(other) > MAX_COMPARISONS {
        return Err(format!("{field} has too many items to be merged: replace the whole object instead"));
    }
    Ok(())
}

fn merge_list(field: &str, place: &mut Value, patch: &[Value]) -> Result<(), String> {
    let old = match place {
        Value::Array(items) => std::mem::take(items),
        _ => Vec::new(),
    };
    if is_set(field) || merge_key(field, patch).is_some() {
        check_length(field, old.len().saturating_add(patch.len()), patch.len())?;
    }
    let samples: Vec<Value> = old.iter().chain(patch).cloned().collect();
    let merged = match merge_key(field, &samples) {
        Some(key) if patch.iter().all(Value::is_object) => merge_by_key(field, key, old, patch)?,
        None if is_set(field) => {
            let mut merged = old;
            for item in patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            merged
        }
        _ => patch.to_vec(),
    };
    *place = Value::Array(merged);
    Ok(())
}

fn merge_by_key(field: &str, key: &str, old: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, String> {
    let directive = |item: &Value| json::string(item, "$patch").map(str::to_owned);
    // `- $patch: replace` as an item: the other items are the whole list.
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        return Ok(patch.iter().filter(|item| directive(item).is_none()).cloned().collect());
    }
    let mut merged = old;
    for item in patch {
        let Some(value) = item.get(key) else {
            return Err(format!("an item of {field} lacks its merge key {key}"));
        };
        let at = merged.iter().position(|item| item.get(key) == Some(value));
        match (directive(item).as_deref(), at) {
            (Some("delete"), _) => merged.retain(|item| item.get(key) != Some(value)),
            (_, Some(at)) => {
                if let (Some(place), Value::Object(inner)) = (merged.get_mut(at), item) {
                    merge_object(place, inner)?;
                }
            }
            (_, None) => {
                let mut fresh = Value::Null;
                merge(&mut fresh, item)?;
                merged.push(fresh);
            }
        }
    }
    Ok(merged)
}

/// Puts items in the order that the patch asks for; items that it does not know keep their place after the one that
/// they followed.
fn reorder(field: &str, items: &mut Vec<Value>, order: &[Value]) {
    let key = merge_key(field, items);
    let rank = |item: &Value| {
        order.iter().position(|wanted| match key {
            Some(key) => wanted.get(key) == item.get(key),
            None => wanted == item,
        })
    };
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        last = rank(&item).unwrap_or(last);
        ranked.push((last, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    items.extend(ranked.into_iter().map(|(_, item)| item));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(mut target: Value, patch: Value, expected: Value) {
        merge(&mut target, &patch).unwrap();
        assert_eq!(target, expected);
    }

    #[test]
    fn maps_merge_and_null_removes() {
        check(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        );
    }

    #[test]
    fn lists_with_keys_merge_by_them() {
        check(
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y"}]}, {"name": "b", "$patch": "delete"},
                {"name": "c"}]}),
            json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]},
                {"name": "c"}]}),
        );
        check(
            json!({"conditions": [{"type": "Ready", "status": "False"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "New", "status": "True"}]}),
        );
        check(
            json!({"ports": [{"containerPort": 80, "name": "a"}]}),
            json!({"ports": [{"containerPort": 80, "name": "b"}, {"containerPort": 81}]}),
            json!({"ports": [{"containerPort": 80, "name": "b"}, {"containerPort": 81}]}),
        );
    }

    #[test]
    fn other_lists_are_replaced() {
        check(json!({"args": ["a", "b"]}), json!({"args": ["c"]}), json!({"args": ["c"]}));
        let secrets = |name: &str| json!({"imagePullSecrets": [{"name": name}]});
        check(secrets("a"), secrets("b"), secrets("b"));
        check(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": []}), json!({"tolerations": []}));
    }

    #[test]
    fn sets_and_their_directives() {
        check(
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}),
            json!({"finalizers": ["b", "c"]}),
        );
    }

    #[test]
    fn lists_that_would_take_minutes_are_refused() {
        let names: Vec<String> = (0..5000).map(|number| format!("f{number}")).collect();
        let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        for patch in [
            json!({"finalizers": names}),
            json!({"env": items}),
            json!({"$deleteFromPrimitiveList/args": names}),
            json!({"$setElementOrder/args": names}),
            json!({"data": {"$retainKeys": names}}),
        ] {
            let data: Map<String, Value> = names.iter().map(|name| (name.clone(), json!(""))).collect();
            let refused = merge(&mut json!({"args": names, "data": data}), &patch).unwrap_err();
            assert!(refused.contains("too many items"), "{refused}");
        }
        check(json!({"args": []}), json!({"args": names}), json!({"args": names}));
    }

    #[test]
    fn directives() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "x": 1}]}),
            json!({"containers": [{"name": "b"}, {"name": "a", "x": 1}]}),
        );
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
        );
        check(
            json!({"data": {"a": "1"}}),
            json!({"data": {"$patch": "replace", "b": "2"}}),
            json!({"data": {"b": "2"}}),
        );
        check(
            json!({"volumes": [{"name": "a"}, {"name": "b"}]}),
            json!({"volumes": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"volumes": [{"name": "c"}]}),
        );
        assert!(merge(&mut json!({}), &json!({"a": {"$patch": "what"}})).is_err());
        assert!(merge(&mut json!({}), &json!({"containers": [{"image": "x"}]})).is_err());
    }
}
