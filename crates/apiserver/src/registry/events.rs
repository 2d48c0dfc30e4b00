//! Events: one store, two views. The older view (core) is the stored one, the newer (events.k8s.io) names the same
//! fields differently.

use k8s_openapi::api::{core, events};
use serde_json::Value;

use super::columns::events as columns;
use super::{BASE, Kind, View, decode};

/// Field of events.k8s.io, field of core.
const RENAMED: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
];

const EVENT: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short: &["ev"],
    create_on_update: true,
    ..BASE
};

pub(super) const KINDS: &[Kind] = &[
    Kind { columns: columns::COLUMNS, decode: decode::typed::<core::v1::Event>, ..EVENT },
    Kind {
        group: "events.k8s.io",
        columns: columns::NEW_COLUMNS,
        decode: decode::typed::<events::v1::Event>,
        view: Some(View { group: "", version: "v1", to_stored, from_stored }),
        ..EVENT
    },
];

fn to_stored(object: &mut Value) {
    rename(object, RENAMED.iter().copied());
}

fn from_stored(object: &mut Value) {
    rename(object, RENAMED.iter().map(|(new, old)| (*old, *new)));
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Value::Object(fields) = object else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn both_views_of_an_event_are_the_same_event() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "x"},
            "reason": "R", "reportingController": "c", "eventTime": "2026-01-01T00:00:00.000000Z"});
        let kind = super::super::find("events.k8s.io", "events").unwrap();
        let mut stored = new.clone();
        kind.to_stored(&mut stored);
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["involvedObject"]["name"], "x");
        assert_eq!(kind.from_stored(&stored, "v1").unwrap(), new);
        assert_eq!(kind.key("a", "b"), super::super::find("", "events").unwrap().key("a", "b"));
    }
}
