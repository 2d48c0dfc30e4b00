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

/// The release of KubeVirt whose clients' requests are known to be answered: virtctl warns, at each error, of a server whose
/// first two numbers are not its own.
const COMPATIBLE: &str = "1.9.0";

/// What virtctl compares itself with, and, behind the plus, which version of ours it is.
#[must_use]
pub fn version() -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ours = format!("v{COMPATIBLE}+ferrovirt-{}", env!("CARGO_PKG_VERSION"));
    json!({
        "gitVersion": ours, "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
        "compiler": "rustc", "platform": format!("linux/{architecture}"),
    })
}
