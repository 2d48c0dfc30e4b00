//! Columns of nodes.

use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::{self, list, text};
use serde_json::{Value, json};

use super::{AGE, Cell, Column, NAME, or_none};

/// Columns of nodes.
pub const COLUMNS: &[Column] = &[
    NAME,
    Column::new("Status", Cell::Made(status)),
    Column::new("Roles", Cell::Made(roles)),
    AGE,
    Column::new("Version", Cell::At("/status/nodeInfo/kubeletVersion")),
    Column::new("Internal-IP", Cell::Made(|node| address(node, "InternalIP"))).wide(),
    Column::new("External-IP", Cell::Made(|node| address(node, "ExternalIP"))).wide(),
    Column::new("OS-Image", Cell::Made(|node| or_unknown(node, "/status/nodeInfo/osImage"))).wide(),
    Column::new("Kernel-Version", Cell::Made(|node| or_unknown(node, "/status/nodeInfo/kernelVersion")))
        .wide(),
    Column::new(
        "Container-Runtime",
        Cell::Made(|node| or_unknown(node, "/status/nodeInfo/containerRuntimeVersion")),
    )
    .wide(),
];

fn or_unknown(node: &Value, pointer: &str) -> Value {
    let value = text(node, pointer);
    json!(if value.is_empty() { "<unknown>" } else { value })
}

fn status(node: &Value) -> Value {
    let ready = match condition::find(node, "Ready").map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true);
    json!(if cordoned { format!("{ready},SchedulingDisabled") } else { ready.to_owned() })
}

fn roles(node: &Value) -> Value {
    let labels = json::fields(node, "/metadata/labels");
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == "kubernetes.io/role"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    or_none(&roles.join(","))
}

fn address(node: &Value, kind: &str) -> Value {
    let found = list(node, "/status/addresses").find(|address| text(address, "type") == kind);
    or_none(found.map_or("", |address| text(address, "address")))
}
