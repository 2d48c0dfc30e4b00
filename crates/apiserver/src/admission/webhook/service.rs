//! Where a Service leads: this server runs on the node, and there is nobody who gives Services addresses of their own.

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
    let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/spec/type") == "ExternalName" {
        return Ok((text("/spec/externalName").to_owned(), port));
    }
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let wanted = ports
        .into_iter()
        .flatten()
        .find(|one| one.get("port").and_then(Value::as_u64) == Some(port.into()))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    let selector = selector.filter(|labels| !labels.is_empty()).ok_or_else(|| {
        format!("service {name:?} has no selector: endpoints by hand are not supported yet")
    })?;
    for (_, entry) in store.list(&Prefix::namespace("", "pods", namespace)).entries {
        let pod = entry.object.as_ref();
        let labels = pod.pointer("/metadata/labels");
        let selected = selector.iter().all(|(key, value)| labels.and_then(|all| all.get(key)) == Some(value));
        let ip = pod.pointer("/status/podIP").and_then(Value::as_str).filter(|ip| !ip.is_empty());
        if let (true, true, Some(ip), Some(port)) = (selected, is_ready(pod), ip, target(wanted, port, pod)) {
            return Ok((ip.to_owned(), port));
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is = |one: &Value, field: &str, value: &str| one.get(field).and_then(Value::as_str) == Some(value);
    pod.pointer("/metadata/deletionTimestamp").is_none()
        && conditions.into_iter().flatten().any(|one| is(one, "type", "Ready") && is(one, "status", "True"))
}

/// The port of the pod: a number, or the name of a container's port.
fn target(wanted: &Value, port: u16, pod: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    match wanted.get("targetPort") {
        None | Some(Value::Null) => Some(port),
        Some(Value::String(name)) => {
            let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
            let mut ports = containers
                .into_iter()
                .flatten()
                .filter_map(|container| container.get("ports")?.as_array())
                .flatten();
            let found = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
            number(found.get("containerPort")?)
        }
        Some(value) => number(value),
    }
}
