//! The SCCs of the controller's account: `kubevirt-controller`, and `kubevirt-machine` for labelled pods.

use ferrovirt_privilege::{GrantSet, Right, Surface};
use serde_json::{Map, Value, json};

/// Name of the SCC, of the account that uses it and of its role.
pub const CONTROLLER: &str = "kubevirt-controller";

/// Name of the SCC for labelled pods of the minimal profile.
pub const MACHINE: &str = "kubevirt-machine";

/// The SCC of the controller's account, from the grants.
pub fn controller(grants: &GrantSet) -> Value {
    let description =
        "What virt-launcher pods may have beyond ordinary pods. Each value and its reason: ferrovirt matrix.";
    let rights = grants.on(Surface::Scc).into_iter().filter_map(|right| match right {
        Right::Scc { field, value } => Some((field, value)),
        _ => None,
    });
    constraints(CONTROLLER, description, false, rights)
}

/// The SCC for labelled pods of the minimal profile: restricted-v2, and an SELinux label of one's own.
pub fn machine(grants: &GrantSet) -> Value {
    let description = "restricted-v2 for virt-launcher pods with the SELinux type of their machine and an MCS pair of \
                       their own. Each value and its reason: ferrovirt matrix.";
    let rights = grants.on(Surface::MachineScc).into_iter().filter_map(|right| match right {
        Right::MachineScc { field, value } => Some((field, value)),
        _ => None,
    });
    constraints(MACHINE, description, true, rights)
}

/// `strict`: no capability is kept and the root is read-only, whatever the pod says.
fn constraints(
    name: &str,
    description: &str,
    strict: bool,
    rights: impl Iterator<Item = (String, String)>,
) -> Value {
    // What no grant asks for is refused.
    let mut out = match json!({
        "apiVersion": "security.openshift.io/v1",
        "kind": "SecurityContextConstraints",
        "metadata": {
            "name": name,
            "annotations": {"kubernetes.io/description": description},
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
        "readOnlyRootFilesystem": strict,
        "requiredDropCapabilities": if strict { json!(["ALL"]) } else { Value::Null },
        "groups": [],
        "users": [],
        "volumes": [],
    }) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (field, value) in rights {
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
