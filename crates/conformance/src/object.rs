//! SCC objects: what is stored, and what is wrong with them.

use ferrovirt_scc::{SecurityContextConstraints, default_object, validate_object};
use serde_json::Value;

use crate::meaning::places;
use crate::texts;

pub(crate) fn differences(case: &Value) -> Result<Vec<String>, String> {
    let input = case.get("scc").ok_or("a case needs an scc")?;
    let mut scc: SecurityContextConstraints =
        serde_json::from_value(input.clone()).map_err(|e| format!("the SCC cannot be read: {e}"))?;
    default_object(&mut scc);
    let mut stored = serde_json::to_value(&scc).map_err(|e| e.to_string())?;
    // Some objects were recorded without their type, which the store always writes.
    if let Some(map) = stored.as_object_mut() {
        map.retain(|key, _| !matches!(key.as_str(), "apiVersion" | "kind") || input.get(key).is_some());
    }
    let mut list = places(case.get("defaulted").unwrap_or(&Value::Null), &stored);
    let errors: Vec<String> = validate_object(&scc).iter().map(ToString::to_string).collect();
    let want = texts(case, "errors");
    if want != errors {
        list.push(format!("errors: want {want:#?}, have {errors:#?}"));
    }
    if case.get("valid").and_then(Value::as_bool) != Some(errors.is_empty()) {
        list.push(format!("valid: have {}", errors.is_empty()));
    }
    Ok(list)
}
