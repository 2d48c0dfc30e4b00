//! The definition of SecurityContextConstraints as a custom resource, for clusters that have none.
//!
//! The schema says what one field can say by itself. Rules between fields are the webhook's.

use super::scc_webhook::{CRD, MANAGED_BY};
use serde_json::{Map, Value, json};

/// Fields that every stored object writes out; the webhook fills them in before the schema is looked at.
const REQUIRED: [&str; 14] = [
    "allowHostDirVolumePlugin",
    "allowHostIPC",
    "allowHostNetwork",
    "allowHostPID",
    "allowHostPorts",
    "allowPrivilegedContainer",
    "allowedCapabilities",
    "defaultAddCapabilities",
    "priority",
    "readOnlyRootFilesystem",
    "requiredDropCapabilities",
    "runAsUser",
    "seLinuxContext",
    "volumes",
];

/// The definition.
pub fn crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD, "labels": {MANAGED_BY.0: MANAGED_BY.1}},
        "spec": {
            "group": "security.openshift.io",
            "names": {
                "kind": "SecurityContextConstraints",
                "listKind": "SecurityContextConstraintsList",
                "plural": "securitycontextconstraints",
                "singular": "securitycontextconstraints",
                "shortNames": ["scc"],
            },
            "scope": "Cluster",
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "additionalPrinterColumns": columns(),
                "schema": {"openAPIV3Schema": schema()},
            }],
        },
    })
}

fn columns() -> Value {
    let columns = [
        ("Priv", ".allowPrivilegedContainer"),
        ("Caps", ".allowedCapabilities"),
        ("SELinux", ".seLinuxContext.type"),
        ("RunAsUser", ".runAsUser.type"),
        ("FSGroup", ".fsGroup.type"),
        ("SupGroup", ".supplementalGroups.type"),
        ("Priority", ".priority"),
        ("ReadOnlyRootFS", ".readOnlyRootFilesystem"),
        ("Volumes", ".volumes"),
    ];
    columns
        .map(|(name, path)| json!({"name": name, "type": "string", "jsonPath": path}))
        .into_iter()
        .collect()
}

const GROUPS: [&str; 2] = ["MustRunAs", "RunAsAny"];

/// An SCC that no pod can be checked under keeps every pod of the cluster away, also those that another SCC admits. OKD
/// stores it all the same; here the schema refuses it, also while the webhook is away.
fn rules() -> Value {
    json!([
        {"rule": "self.type != 'MustRunAs' || has(self.uid)", "message": "MustRunAs requires a UID"},
        {
            "rule": "self.type != 'MustRunAsRange' || has(self.uidRangeMin) == has(self.uidRangeMax)",
            "message": "MustRunAsRange requires both uidRangeMin and uidRangeMax, or none of them",
        },
    ])
}

fn schema() -> Value {
    let flag = |text: &str| json!({"type": "boolean", "description": text});
    let optional_flag = |text: &str| json!({"type": "boolean", "nullable": true, "description": text});
    let list = |text: &str| json!({"type": "array", "items": {"type": "string"}, "nullable": true, "description": text});
    let id = || json!({"type": "integer", "format": "int64", "minimum": 0});
    let bound = || json!({"type": "integer", "format": "int64"});
    let strategy = |types: &[&str], more: Value, text: &str| {
        let mut properties = Map::new();
        properties.insert("type".to_owned(), json!({"type": "string", "enum": types}));
        if let Value::Object(more) = more {
            properties.extend(more);
        }
        json!({"type": "object", "description": text, "required": ["type"], "properties": properties})
    };
    // As the defaulting of SCCs has it, also where nobody but the schema looks.
    let group_strategy = |ranges: Value, text: &str| {
        let mut strategy = strategy(&GROUPS, ranges, text);
        if let Value::Object(fields) = &mut strategy {
            fields.insert("default".to_owned(), json!({"type": "RunAsAny"}));
        }
        if let Some(Value::Object(kind)) = strategy.pointer_mut("/properties/type") {
            kind.insert("default".to_owned(), json!("RunAsAny"));
        }
        strategy
    };
    let ranges = json!({"ranges": {"type": "array", "nullable": true, "items": {
        "type": "object",
        "properties": {
            "min": {"type": "integer", "format": "int64", "minimum": 0},
            "max": {"type": "integer", "format": "int64", "minimum": 0},
        },
    }}});
    let label = ["user", "role", "type", "level"].map(|part| (part.to_owned(), json!({"type": "string"})));
    let label: Map<String, Value> = label.into_iter().collect();
    let mut user = strategy(
        &["MustRunAs", "MustRunAsNonRoot", "MustRunAsRange", "RunAsAny"],
        json!({"uid": id(), "uidRangeMin": bound(), "uidRangeMax": bound()}),
        "Which user ids.",
    );
    if let Value::Object(fields) = &mut user {
        fields.insert("x-kubernetes-validations".to_owned(), rules());
    }
    let properties = json!({
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "priority": {"type": "integer", "format": "int32", "nullable": true, "minimum": 0,
            "description": "Higher is tried first; absent is 0."},
        "users": list("Names of users who may use it without a role."),
        "groups": list("Groups that may use it without a role."),
        "allowPrivilegedContainer": flag("Containers may be privileged."),
        "allowPrivilegeEscalation": optional_flag("False: every container must refuse escalation."),
        "defaultAllowPrivilegeEscalation": optional_flag("Given to containers that do not say."),
        "allowedCapabilities": list("Capabilities that may be added; * for all."),
        "defaultAddCapabilities": list("Capabilities that are added unless they are dropped."),
        "requiredDropCapabilities": list("Capabilities that are dropped."),
        "allowHostDirVolumePlugin": flag("Puts hostPath among the volumes."),
        "volumes": list("Kinds of volumes; * for all, none for none."),
        "allowedFlexVolumes": {"type": "array", "nullable": true, "description": "Drivers of FlexVolumes; empty for any.",
            "items": {"type": "object", "required": ["driver"], "properties": {"driver": {"type": "string"}}}},
        "allowHostNetwork": flag("The host's network."),
        "allowHostPorts": flag("Ports of the host."),
        "allowHostPID": flag("The host's processes."),
        "allowHostIPC": flag("The host's IPC."),
        "userNamespaceLevel": {"type": "string", "enum": ["AllowHostLevel", "RequirePodLevel"],
            "default": "AllowHostLevel", "description": "RequirePodLevel demands hostUsers: false."},
        "readOnlyRootFilesystem": flag("The root file system must be read-only."),
        "runAsUser": user,
        "seLinuxContext": strategy(
            &GROUPS,
            json!({"seLinuxOptions": {"type": "object", "nullable": true, "properties": label}}),
            "Which SELinux labels.",
        ),
        "fsGroup": group_strategy(ranges.clone(), "Which group of volumes."),
        "supplementalGroups": group_strategy(ranges, "Which further groups."),
        "seccompProfiles": list("Seccomp profiles that may be used; the first one is the default."),
        "allowedUnsafeSysctls": list("Sysctls beyond the safe ones."),
        "forbiddenSysctls": list("Sysctls that are refused."),
    });
    json!({
        "type": "object",
        "description": "What a pod must look like to be admitted, and who may use it for their pods.",
        "required": REQUIRED,
        "properties": properties,
    })
}
