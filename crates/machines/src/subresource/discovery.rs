//! What discovery says of the group.

use serde_json::{Value, json};

use super::VERBS;
use crate::{INSTANCES, MACHINES};

/// The rows of an `APIResourceList`.
#[must_use]
pub fn rows() -> Vec<Value> {
    let row = |(name, verb): &(&str, &str)| json!({"name": name, "singularName": "", "namespaced": true, "kind": "", "verbs": [verb]});
    VERBS.iter().map(row).collect()
}

/// The rows of aggregated discovery: the verbs stand below parents that have none themselves in this group.
#[must_use]
pub fn aggregated_rows() -> Vec<Value> {
    [INSTANCES, MACHINES]
        .iter()
        .map(|parent| {
            let subresources: Vec<Value> = VERBS
                .iter()
                .filter_map(|(name, verb)| {
                    let (resource, subresource) = name.split_once('/')?;
                    (resource == *parent).then(|| json!({"subresource": subresource, "verbs": [verb]}))
                })
                .collect();
            json!({"resource": parent, "singularResource": "", "scope": "Namespaced", "verbs": [],
                "responseKind": {"group": "", "version": "", "kind": ""}, "subresources": subresources})
        })
        .collect()
}

/// What virtctl compares itself with.
#[must_use]
pub fn version() -> Value {
    json!({
        "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")), "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}
