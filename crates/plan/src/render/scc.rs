//! The SCC `kubevirt-controller`, and those of the platform.

use ferrovirt_privilege::{GrantSet, Right, Surface};
use serde_json::{Map, Value, json};

/// Name of the SCC, of the account that uses it and of its role.
pub const CONTROLLER: &str = "kubevirt-controller";

/// The SCC of the controller's account, from the grants.
pub fn controller(grants: &GrantSet) -> Value {
    // What no grant asks for is refused.
    let mut out = match json!({
        "apiVersion": "security.openshift.io/v1",
        "kind": "SecurityContextConstraints",
        "metadata": {
            "name": CONTROLLER,
            "annotations": {
                "kubernetes.io/description":
                    "What virt-launcher pods may have beyond ordinary pods. Each value and its reason: ferrovirt matrix.",
            },
            "labels": {"kubevirt.io": ""},
        },
        "priority": null,
        "allowHostDirVolumePlugin": false,
        "allowHostIPC": false,
        "allowHostNetwork": false,
        "allowHostPID": false,
        "allowHostPorts": false,
        "allowPrivilegeEscalation": false,
        "allowPrivilegedContainer": false,
        "allowedCapabilities": null,
        "defaultAddCapabilities": null,
        "readOnlyRootFilesystem": false,
        "requiredDropCapabilities": null,
        "groups": [],
        "users": [],
        "volumes": [],
    }) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for right in grants.on(Surface::Scc) {
        let Right::Scc { field, value } = right else { continue };
        match (field.as_str(), value.as_str()) {
            ("runAsUser" | "fsGroup" | "supplementalGroups" | "seLinuxContext", _) => {
                out.insert(field, json!({"type": value}));
            }
            (_, "true") => {
                out.insert(field, json!(true));
            }
            _ => match out.entry(field).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(json!(value)),
                other => *other = json!([value]),
            },
        }
    }
    Value::Object(out)
}
