//! What an SCC allows.

use crate::render::scc::MACHINE;
use ferrovirt_kubernetes::object;
use ferrovirt_privilege::Right;
use serde_json::Value;
use std::collections::BTreeSet;

/// Every field that allows something: true booleans, elements of lists, types of strategies. Restrictions (dropped
/// capabilities, a read-only root, forbidden sysctls) grant nothing.
pub fn lift(scc: &Value) -> BTreeSet<Right<String>> {
    let machine = object::name(scc) == MACHINE;
    let mut out = BTreeSet::new();
    let skipped = [
        "apiVersion",
        "kind",
        "metadata",
        "requiredDropCapabilities",
        "readOnlyRootFilesystem",
        "forbiddenSysctls",
    ];
    let fields = scc.as_object().into_iter().flatten();
    for (field, value) in fields.filter(|(field, _)| !skipped.contains(&field.as_str())) {
        let mut add = |value: String| {
            let field = field.clone();
            out.insert(if machine { Right::MachineScc { field, value } } else { Right::Scc { field, value } })
        };
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => {
                add("true".to_owned());
            }
            Value::Array(list) => {
                for element in list {
                    add(element.as_str().map_or_else(|| element.to_string(), str::to_owned));
                }
            }
            Value::Object(map) if map.len() == 1 && map.contains_key("type") => {
                add(map.get("type").and_then(Value::as_str).unwrap_or_default().to_owned());
            }
            other => {
                add(other.to_string());
            }
        }
    }
    out
}
