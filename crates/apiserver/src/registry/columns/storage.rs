//! Columns of volumes, claims and storage classes.

use ferrovirt_kubernetes::json::text;
use ferrovirt_kubernetes::object;
use serde_json::{Value, json};

use super::{AGE, Cell, Column, NAME, access_modes};

/// Columns of persistent volumes.
pub const VOLUMES: &[Column] = &[
    NAME,
    Column::new("Capacity", Cell::Made(|volume| json!(text(volume, "/spec/capacity/storage")))),
    Column::new("Access Modes", Cell::Made(|volume| json!(access_modes(volume, "/spec/accessModes")))),
    Column::new(
        "Reclaim Policy",
        Cell::Made(|volume| json!(text(volume, "/spec/persistentVolumeReclaimPolicy"))),
    ),
    Column::new("Status", Cell::Made(|volume| json!(phase(volume)))),
    Column::new("Claim", Cell::Made(claim)),
    Column::new("StorageClass", Cell::Made(|volume| json!(text(volume, "/spec/storageClassName")))),
    Column::new("VolumeAttributesClass", Cell::Made(attributes)),
    Column::new("Reason", Cell::Made(|volume| json!(text(volume, "/status/reason")))),
    AGE,
    Column::new("VolumeMode", Cell::Made(mode)).wide(),
];

/// Columns of claims.
pub const CLAIMS: &[Column] = &[
    NAME,
    Column::new("Status", Cell::Made(|claim| json!(phase(claim)))),
    Column::new("Volume", Cell::Made(|claim| json!(text(claim, "/spec/volumeName")))),
    Column::new(
        "Capacity",
        Cell::Made(|claim| json!(if_bound(claim, text(claim, "/status/capacity/storage")))),
    ),
    Column::new(
        "Access Modes",
        Cell::Made(|claim| json!(if_bound(claim, &access_modes(claim, "/status/accessModes")))),
    ),
    Column::new("StorageClass", Cell::Made(|claim| json!(text(claim, "/spec/storageClassName")))),
    Column::new("VolumeAttributesClass", Cell::Made(attributes)),
    AGE,
    Column::new("VolumeMode", Cell::Made(mode)).wide(),
];

/// Columns of storage classes.
pub const CLASSES: &[Column] = &[
    Column { cell: Cell::Made(class_name), ..NAME },
    Column::new("Provisioner", Cell::At("/provisioner")),
    Column::new("ReclaimPolicy", Cell::Made(|class| or(text(class, "reclaimPolicy"), "Delete"))),
    Column::new("VolumeBindingMode", Cell::Made(|class| or(text(class, "volumeBindingMode"), "Immediate"))),
    Column::new("AllowVolumeExpansion", Cell::Made(expansion)),
    AGE,
];

fn or(text: &str, otherwise: &str) -> Value {
    json!(if text.is_empty() { otherwise } else { text })
}

fn phase(object: &Value) -> &str {
    if object::is_deleting(object) { "Terminating" } else { text(object, "/status/phase") }
}

fn if_bound(claim: &Value, value: &str) -> String {
    if text(claim, "/spec/volumeName").is_empty() { String::new() } else { value.to_owned() }
}

fn claim(volume: &Value) -> Value {
    let name = text(volume, "/spec/claimRef/name");
    let namespace = text(volume, "/spec/claimRef/namespace");
    json!(if name.is_empty() { String::new() } else { format!("{namespace}/{name}") })
}

fn attributes(object: &Value) -> Value {
    or(text(object, "/spec/volumeAttributesClassName"), "<unset>")
}

fn mode(object: &Value) -> Value {
    or(text(object, "/spec/volumeMode"), "<unset>")
}

fn class_name(class: &Value) -> Value {
    let default = object::annotation(class, "storageclass.kubernetes.io/is-default-class");
    let name = object::name(class);
    json!(if default == Some("true") { format!("{name} (default)") } else { name.to_owned() })
}

fn expansion(class: &Value) -> Value {
    json!(class.get("allowVolumeExpansion").and_then(Value::as_bool).unwrap_or_default())
}
