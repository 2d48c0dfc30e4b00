//! Where a Service leads: this server runs on the node, and there is nobody who gives Services addresses of their own.

use ferrovirt_kubernetes::json::{self, list};
use ferrovirt_kubernetes::{condition, object};
use serde_json::Value;

use crate::store::{Key, Prefix, Store};

/// Host and port behind a port of a Service: a ready pod that it selects, or the name that it stands for.
pub(super) fn resolve(
    store: &Store,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), String> {
    let entry = store
        .get(&Key::new("", "services", namespace, name))
        .ok_or_else(|| format!("service {name:?} not found"))?;
    let service = &entry.object;
    let text = |pointer: &str| json::text(service, pointer);
    if text("/spec/type") == "ExternalName" {
        return Ok((text("/spec/externalName").to_owned(), port));
    }
    let wanted = list(service, "/spec/ports")
        .find(|entry| entry.get("port").and_then(Value::as_u64) == Some(port.into()))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let selector = json::fields(service, "/spec/selector");
    let selector = selector.filter(|labels| !labels.is_empty()).ok_or_else(|| {
        format!("service {name:?} has no selector: endpoints by hand are not supported yet")
    })?;
    for (_, entry) in store.list(&Prefix::namespace("", "pods", namespace)).entries {
        let pod = entry.object.as_ref();
        let selected = selector
            .iter()
            .all(|(key, value)| value.as_str().is_some_and(|value| object::label(pod, key) == Some(value)));
        let ip = json::string(pod, "/status/podIP").filter(|ip| !ip.is_empty());
        if let (true, true, Some(ip), Some(port)) = (selected, is_ready(pod), ip, target(wanted, port, pod)) {
            return Ok((ip.to_owned(), port));
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}

fn is_ready(pod: &Value) -> bool {
    !object::is_deleting(pod) && condition::is_true(pod, "Ready")
}

/// The port of the pod: a number, or the name of a container's port.
fn target(wanted: &Value, port: u16, pod: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    match wanted.get("targetPort") {
        None | Some(Value::Null) => Some(port),
        Some(Value::String(name)) => {
            let mut ports = list(pod, "/spec/containers").flat_map(|container| list(container, "ports"));
            let found = ports.find(|port| json::string(port, "name") == Some(name))?;
            number(found.get("containerPort")?)
        }
        Some(value) => number(value),
    }
}
