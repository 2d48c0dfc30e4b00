//! Columns of events, in both views.

use ferrovirt_kubernetes::json::{at, text};
use serde_json::{Value, json};

use super::{Cell, Column, NAME, since};

/// Columns of core events.
pub const COLUMNS: &[Column] = &[
    Column::new("Last Seen", Cell::Made(last_seen)),
    Column::new("Type", Cell::At("/type")),
    Column::new("Reason", Cell::At("/reason")),
    Column::new("Object", Cell::Made(|event| object(event, "/involvedObject"))),
    Column::new("Subobject", Cell::Made(|event| json!(text(event, "/involvedObject/fieldPath")))).wide(),
    Column::new("Source", Cell::Made(source)).wide(),
    Column::new("Message", Cell::Made(|event| json!(text(event, "message").trim()))),
    Column::new("First Seen", Cell::Made(first_seen)).wide(),
    Column::new("Count", Cell::Made(count)).wide(),
    NAME.wide(),
];

/// Columns of events.k8s.io.
pub const NEW_COLUMNS: &[Column] = &[
    Column::new("Last Seen", Cell::Made(last_seen)),
    Column::new("Type", Cell::At("/type")),
    Column::new("Reason", Cell::At("/reason")),
    Column::new("Object", Cell::Made(|event| object(event, "/regarding"))),
    Column::new("Message", Cell::Made(|event| json!(text(event, "note").trim()))),
    NAME.wide(),
];

fn time<'a>(event: &'a Value, pointers: &[&str]) -> Option<&'a Value> {
    pointers.iter().find_map(|pointer| at(event, pointer))
}

fn last_seen(event: &Value) -> Value {
    let time = time(
        event,
        &[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/deprecatedLastTimestamp",
            "/firstTimestamp",
            "/eventTime",
        ],
    );
    since(time.or_else(|| event.pointer("/metadata/creationTimestamp")))
}

fn first_seen(event: &Value) -> Value {
    let time = time(event, &["/firstTimestamp", "/eventTime"]);
    since(time.or_else(|| event.pointer("/metadata/creationTimestamp")))
}

fn object(event: &Value, pointer: &str) -> Value {
    let kind = text(event, &format!("{pointer}/kind")).to_lowercase();
    let name = text(event, &format!("{pointer}/name"));
    json!(if name.is_empty() { kind } else { format!("{kind}/{name}") })
}

fn source(event: &Value) -> Value {
    let component = match text(event, "/source/component") {
        "" => text(event, "reportingComponent"),
        component => component,
    };
    let host = text(event, "/source/host");
    json!(if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") })
}

fn count(event: &Value) -> Value {
    let of = |pointer| event.pointer(pointer).and_then(Value::as_u64).filter(|count| *count > 0);
    json!(of("/series/count").or_else(|| of("/count")).unwrap_or(1))
}
