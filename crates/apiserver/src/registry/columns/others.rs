//! Columns of small kinds.

use ferrovirt_kubernetes::json::{self, list, text, texts};
use ferrovirt_kubernetes::object;
use serde_json::{Value, json};

use super::{AGE, Cell, Column, NAME, count, joined, or_none};

/// Columns of namespaces.
pub const NAMESPACES: &[Column] = &[NAME, Column::new("Status", Cell::At("/status/phase")), AGE];

/// Columns of secrets.
pub const SECRETS: &[Column] = &[
    NAME,
    Column::new("Type", Cell::At("/type")),
    Column::number("Data", Cell::Made(|secret| json!(count(secret, "/data")))),
    AGE,
];

/// Columns of config maps.
pub const CONFIG_MAPS: &[Column] = &[
    NAME,
    Column::number("Data", Cell::Made(|map| json!(count(map, "/data") + count(map, "/binaryData")))),
    AGE,
];

/// Columns of service accounts.
pub const SERVICE_ACCOUNTS: &[Column] =
    &[NAME, Column::number("Secrets", Cell::Made(|account| json!(count(account, "/secrets")))), AGE];

/// Columns of services.
pub const SERVICES: &[Column] = &[
    NAME,
    Column::new("Type", Cell::Made(|service| json!(service_type(service)))),
    Column::new("Cluster-IP", Cell::Made(|service| or_none(text(service, "/spec/clusterIP")))),
    Column::new("External-IP", Cell::Made(external_ip)),
    Column::new("Port(s)", Cell::Made(ports)),
    AGE,
    Column::new("Selector", Cell::Made(selector)).wide(),
];

/// Columns of leases.
pub const LEASES: &[Column] =
    &[NAME, Column::new("Holder", Cell::Made(|lease| json!(text(lease, "/spec/holderIdentity")))), AGE];

/// Columns of webhook configurations.
pub const WEBHOOKS: &[Column] =
    &[NAME, Column::number("Webhooks", Cell::Made(|object| json!(count(object, "/webhooks")))), AGE];

/// Columns of kinds that show when they were made.
pub const NAME_CREATED: &[Column] =
    &[NAME, Column::new("Created At", Cell::At("/metadata/creationTimestamp"))];

/// Columns of priority classes.
pub const PRIORITY_CLASSES: &[Column] = &[
    NAME,
    Column::number("Value", Cell::At("/value")),
    Column::new("Global-Default", Cell::Made(global_default)),
    AGE,
    Column::new("PreemptionPolicy", Cell::Made(preemption)),
];

/// Columns of controller revisions.
pub const CONTROLLER_REVISIONS: &[Column] = &[
    NAME,
    Column::new("Controller", Cell::Made(controller)),
    Column::number("Revision", Cell::At("/revision")),
    AGE,
];

/// Columns of security context constraints, as `oc get scc` shows them.
pub const SCCS: &[Column] = &[
    NAME,
    Column::new("Priv", Cell::At("/allowPrivilegedContainer")),
    Column::new("Caps", Cell::Made(|scc| written(scc.get("allowedCapabilities")))),
    Column::new("SELinux", Cell::At("/seLinuxContext/type")),
    Column::new("RunAsUser", Cell::At("/runAsUser/type")),
    Column::new("FSGroup", Cell::At("/fsGroup/type")),
    Column::new("SupGroup", Cell::At("/supplementalGroups/type")),
    Column::new("Priority", Cell::Made(|scc| written(scc.get("priority")))),
    Column::new("ReadOnlyRootFS", Cell::At("/readOnlyRootFilesystem")),
    Column::new("Volumes", Cell::Made(|scc| written(scc.get("volumes")))),
];

/// How columns of custom resources write lists and nothing.
fn written(value: Option<&Value>) -> Value {
    match value {
        None | Some(Value::Null) => json!("<no value>"),
        Some(value) => json!(value.to_string()),
    }
}

fn service_type(service: &Value) -> &str {
    match text(service, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn external_ip(service: &Value) -> Value {
    if service_type(service) == "ExternalName" {
        return or_none(text(service, "/spec/externalName"));
    }
    or_none(&joined(texts(service, "/spec/externalIPs")))
}

fn ports(service: &Value) -> Value {
    let ports: Vec<String> = list(service, "/spec/ports")
        .map(|port| {
            let number = |field: &str| port.get(field).and_then(Value::as_u64).unwrap_or_default();
            let protocol = match text(port, "protocol") {
                "" => "TCP",
                protocol => protocol,
            };
            match number("nodePort") {
                0 => format!("{}/{protocol}", number("port")),
                node => format!("{}:{node}/{protocol}", number("port")),
            }
        })
        .collect();
    or_none(&ports.join(","))
}

fn selector(service: &Value) -> Value {
    let labels = json::fields(service, "/spec/selector");
    let labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&labels.join(","))
}

fn global_default(class: &Value) -> Value {
    json!(class.get("globalDefault").and_then(Value::as_bool).unwrap_or_default().to_string())
}

fn preemption(class: &Value) -> Value {
    json!(match text(class, "preemptionPolicy") {
        "" => "PreemptLowerPriority",
        policy => policy,
    })
}

fn controller(revision: &Value) -> Value {
    let Some(owner) = object::controller(revision) else { return or_none("") };
    let group = text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = text(owner, "kind").to_lowercase();
    let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
    json!(format!("{kind}/{}", text(owner, "name")))
}
