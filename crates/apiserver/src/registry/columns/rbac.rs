//! Columns of roles and bindings.

use ferrovirt_kubernetes::json::{list, text};
use serde_json::{Value, json};

use super::{AGE, Cell, Column, NAME};

/// Columns of roles.
pub const ROLES: &[Column] = &[NAME, Column::new("Created At", Cell::At("/metadata/creationTimestamp"))];

/// Columns of bindings.
pub const BINDINGS: &[Column] = &[
    NAME,
    Column::new("Role", Cell::Made(role)),
    AGE,
    Column::new("Users", Cell::Made(|binding| subjects(binding, "User"))).wide(),
    Column::new("Groups", Cell::Made(|binding| subjects(binding, "Group"))).wide(),
    Column::new("ServiceAccounts", Cell::Made(|binding| subjects(binding, "ServiceAccount"))).wide(),
];

fn role(binding: &Value) -> Value {
    json!(format!("{}/{}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name")))
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = list(binding, "subjects")
        .filter(|subject| text(subject, "kind") == kind)
        .map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
            _ => text(subject, "name").to_owned(),
        })
        .collect();
    json!(names.join(", "))
}
