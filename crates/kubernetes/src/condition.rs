//! Conditions: what a status says of an object, one type each.

use serde_json::Value;

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
