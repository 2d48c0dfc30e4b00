//! From stored objects to the bytes that a client asked for.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::negotiate::Form;
use crate::registry::Kind;

/// How one client wants to see objects of one kind.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) kind: &'static Kind,
    pub(crate) version: String,
    pub(crate) form: Form,
    /// For tables: `None`, `Metadata` (or empty) or `Object`.
    pub(crate) include_object: String,
}

/// What the `metadata` of a list says.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListMeta {
    pub(crate) revision: u64,
    pub(crate) continue_from: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn to_json(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Value::Object(fields) = &mut meta {
            if let Some(token) = &self.continue_from {
                fields.insert("continue".to_owned(), json!(token));
            }
            if let Some(count) = self.remaining {
                fields.insert("remainingItemCount".to_owned(), json!(count));
            }
        }
        meta
    }
}

impl Output {
    /// The object in the client's version.
    pub(crate) fn versioned<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        match self.kind.from_stored(object, &self.version) {
            Some(other) => Cow::Owned(other),
            None => Cow::Borrowed(object),
        }
    }

    /// One object as an answer of its own.
    pub(crate) fn object(&self, object: &Value) -> Vec<u8> {
        let versioned = self.versioned(object);
        match self.form {
            Form::Whole => bytes(&versioned),
            Form::Metadata => bytes(&partial(&versioned)),
            Form::Table => {
                let mut meta = Map::new();
                if let Some(revision) = versioned.pointer("/metadata/resourceVersion") {
                    meta.insert("resourceVersion".to_owned(), revision.clone());
                }
                bytes(&self.table(Value::Object(meta), [&*versioned], true))
            }
        }
    }

    /// One object inside a watch event. `first`: nothing was sent before, so a table names its columns.
    pub(crate) fn event_object(&self, object: &Value, first: bool) -> Vec<u8> {
        match self.form {
            Form::Whole | Form::Metadata => self.object(object),
            Form::Table => {
                let versioned = self.versioned(object);
                let revision = versioned.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                bytes(&self.table(json!({"resourceVersion": revision}), [&*versioned], first))
            }
        }
    }

    /// A bookmark: an object that is nothing but its revision.
    pub(crate) fn bookmark(&self, revision: u64, end_of_initial_events: bool) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if let (Value::Object(fields), true) = (&mut metadata, end_of_initial_events) {
            fields.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        match self.form {
            Form::Whole => bytes(&json!({
                "kind": self.kind.kind, "apiVersion": self.kind.api_version(&self.version), "metadata": metadata,
            })),
            Form::Metadata => bytes(&json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            })),
            Form::Table => bytes(&self.table(json!({"resourceVersion": revision.to_string()}), [], false)),
        }
    }

    /// What comes before the items of a list, and after them.
    pub(crate) fn list_frame(&self, meta: &ListMeta) -> (Vec<u8>, &'static [u8]) {
        let (head, items) = match self.form {
            Form::Table => {
                let mut table = self.table(meta.to_json(), [], true);
                if let Value::Object(fields) = &mut table {
                    fields.remove("rows");
                }
                (table, "rows")
            }
            Form::Whole => {
                let kind = format!("{}List", self.kind.kind);
                let api_version = self.kind.api_version(&self.version);
                (json!({"kind": kind, "apiVersion": api_version, "metadata": meta.to_json()}), "items")
            }
            Form::Metadata => {
                let kind = "PartialObjectMetadataList";
                (json!({"kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": meta.to_json()}), "items")
            }
        };
        let mut out = bytes(&head);
        // Take the closing brace off again to put the items before it.
        out.pop();
        out.extend_from_slice(format!(",\"{items}\":[").as_bytes());
        (out, b"]}")
    }

    /// One item of a list.
    pub(crate) fn item(&self, object: &Value) -> Vec<u8> {
        match self.form {
            Form::Table => bytes(&self.row(&self.versioned(object))),
            Form::Whole | Form::Metadata => self.object(object),
        }
    }

    /// A list that is short.
    pub(crate) fn list<'a>(&self, meta: &ListMeta, objects: impl Iterator<Item = &'a Value>) -> Vec<u8> {
        let (mut out, end) = self.list_frame(meta);
        for (index, object) in objects.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend(self.item(object));
        }
        out.extend_from_slice(end);
        out
    }

    /// One row of a table.
    fn row(&self, object: &Value) -> Value {
        let cells: Vec<Value> = self.kind.columns.iter().map(|column| column.cell(object)).collect();
        let shown = match self.include_object.as_str() {
            "None" => Value::Null,
            "Object" => object.clone(),
            _ => partial(object),
        };
        json!({"cells": cells, "object": shown})
    }

    fn table<'a>(&self, meta: Value, objects: impl IntoIterator<Item = &'a Value>, columns: bool) -> Value {
        let definitions: Vec<Value> = if columns {
            self.kind
                .columns
                .iter()
                .map(|column| {
                    json!({
                        "name": column.name, "type": column.kind, "format": column.format(),
                        "description": "", "priority": column.priority,
                    })
                })
                .collect()
        } else {
            Vec::new()
        };
        let rows: Vec<Value> = objects.into_iter().map(|object| self.row(object)).collect();
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            "columnDefinitions": definitions, "rows": rows,
        })
    }
}

/// The object's metadata and nothing else.
fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
