//! Conditions in the status of an object in its JSON form: one condition of each type.

use serde_json::{Value, json};

use crate::json;

/// The condition of a type in an object's status.
#[must_use]
pub fn find<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    json::list(object, "/status/conditions").find(|condition| json::text(condition, "type") == kind)
}

/// Whether an object's status has the condition of a type and says True.
#[must_use]
pub fn is_true(object: &Value, kind: &str) -> bool {
    find(object, kind).is_some_and(|condition| json::text(condition, "status") == "True")
}

/// Sets a condition in an object's status; the transition time becomes `now` only when the status changes. An empty reason
/// or message is left out.
pub fn set(object: &mut Value, kind: &str, status: &str, (reason, message): (&str, &str), now: &str) {
    let old = find(object, kind).filter(|old| json::text(old, "status") == status);
    let since = old.map_or(now, |old| json::text(old, "lastTransitionTime"));
    let mut new = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
    for (field, value) in [("reason", reason), ("message", message)] {
        if !value.is_empty() {
            json::set(&mut new, &[field], value.into());
        }
    }
    if json::at(object, "/status/conditions").is_none_or(|list| !list.is_array()) {
        json::set(object, &["status", "conditions"], json!([]));
    }
    if let Some(Value::Array(conditions)) = object.pointer_mut("/status/conditions") {
        match conditions.iter_mut().find(|condition| json::text(condition, "type") == kind) {
            Some(place) => *place = new,
            None => conditions.push(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let mut object = json!({});
        for (now, status, reason, since) in
            [("1", "True", "A", "1"), ("2", "True", "B", "1"), ("3", "False", "", "3")]
        {
            set(&mut object, "Ready", status, (reason, ""), now);
            let found = find(&object, "Ready").unwrap();
            assert_eq!(
                (json::text(found, "lastTransitionTime"), json::text(found, "reason")),
                (since, reason)
            );
            assert!(found.get("message").is_none());
        }
        set(&mut object, "Paused", "True", ("", ""), "4");
        assert_eq!(json::list(&object, "/status/conditions").len(), 2);
    }

    #[test]
    fn a_condition_that_is_absent_or_unknown_is_not_true() {
        let object = json!({"status": {"conditions": [
            {"type": "A", "status": "True"}, {"type": "B", "status": "False"}, {"type": "C", "status": "Unknown"}]}});
        assert!(is_true(&object, "A"));
        assert!(!is_true(&object, "B") && !is_true(&object, "C") && !is_true(&object, "D"));
        assert_eq!(find(&object, "B").map(|found| json::text(found, "status")), Some("False"));
        assert!(find(&Value::Null, "A").is_none());
    }
}
