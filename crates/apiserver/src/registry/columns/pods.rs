//! Columns of pods. The STATUS column is not a field: it is the worst thing that the containers say.

use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::{list, text};
use ferrovirt_kubernetes::object;
use serde_json::{Value, json};

use super::{AGE, Cell, Column, NAME, or_none, since};

/// Columns of pods.
pub const COLUMNS: &[Column] = &[
    NAME,
    Column::new("Ready", Cell::Made(ready)),
    Column::new("Status", Cell::Made(status)),
    Column::new("Restarts", Cell::Made(restarts)),
    AGE,
    Column::new("IP", Cell::Made(ip)).wide(),
    Column::new("Node", Cell::Made(|pod| or_none(text(pod, "/spec/nodeName")))).wide(),
    Column::new("Nominated Node", Cell::Made(|pod| or_none(text(pod, "/status/nominatedNodeName")))).wide(),
    Column::new("Readiness Gates", Cell::Made(gates)).wide(),
];

fn ready(pod: &Value) -> Value {
    let ready = list(pod, "/status/containerStatuses")
        .filter(|status| {
            status.get("ready").and_then(Value::as_bool) == Some(true)
                && status.pointer("/state/running").is_some()
        })
        .count();
    json!(format!("{ready}/{}", list(pod, "/spec/containers").len()))
}

fn restarts(pod: &Value) -> Value {
    let statuses = list(pod, "/status/containerStatuses");
    let count: u64 =
        statuses.clone().filter_map(|status| status.get("restartCount").and_then(Value::as_u64)).sum();
    let last = statuses
        .filter_map(|status| status.pointer("/lastState/terminated/finishedAt"))
        .max_by_key(|time| time.as_str().map(str::to_owned));
    match (count, last) {
        (1.., Some(time)) => {
            json!(format!("{count} ({} ago)", since(Some(time)).as_str().unwrap_or_default()))
        }
        _ => json!(count.to_string()),
    }
}

fn status(pod: &Value) -> Value {
    let mut reason = text(pod, "/status/phase").to_owned();
    if !text(pod, "/status/reason").is_empty() {
        reason = text(pod, "/status/reason").to_owned();
    }
    if list(pod, "/status/conditions").any(|condition| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    }) {
        reason = "SchedulingGated".to_owned();
    }
    let mut initializing = false;
    let of_init = list(pod, "/spec/initContainers").len();
    for (index, container) in list(pod, "/status/initContainerStatuses").enumerate() {
        if let Some(code) = exit_code(container) {
            if code == 0 {
                continue;
            }
            reason = format!("Init:{}", terminated(container, code));
        } else if !matches!(text(container, "/state/waiting/reason"), "" | "PodInitializing") {
            reason = format!("Init:{}", text(container, "/state/waiting/reason"));
        } else {
            reason = format!("Init:{index}/{of_init}");
        }
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for container in list(pod, "/status/containerStatuses").rev() {
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(code) = exit_code(container) {
                reason = terminated(container, code);
            } else if container.get("ready").and_then(Value::as_bool) == Some(true)
                && container.pointer("/state/running").is_some()
            {
                running = true;
            }
        }
        if reason == "Completed" && running {
            reason = "Running".to_owned();
        }
    }
    if object::is_deleting(pod) {
        let phase = text(pod, "/status/phase");
        if text(pod, "/status/reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    Value::String(reason)
}

fn exit_code(container: &Value) -> Option<i64> {
    container.pointer("/state/terminated")?;
    Some(container.pointer("/state/terminated/exitCode").and_then(Value::as_i64).unwrap_or_default())
}

fn terminated(container: &Value, code: i64) -> String {
    let reason = text(container, "/state/terminated/reason");
    let signal = container.pointer("/state/terminated/signal").and_then(Value::as_i64).unwrap_or_default();
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{code}"),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn ip(pod: &Value) -> Value {
    let first = text(pod, "/status/podIPs/0/ip");
    or_none(if first.is_empty() { text(pod, "/status/podIP") } else { first })
}

fn gates(pod: &Value) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.len() == 0 {
        return or_none("");
    }
    let all = gates.len();
    let met = gates.filter(|gate| condition::is_true(pod, text(gate, "conditionType"))).count();
    json!(format!("{met}/{all}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status_field: Value, expected: &str) {
        assert_eq!(status(&json!({"metadata": {}, "spec": {}, "status": status_field})), expected);
    }

    #[test]
    fn the_status_column_says_what_containers_say() {
        check(json!({"phase": "Pending"}), "Pending");
        let waiting = json!([{"state": {"waiting": {"reason": "ErrImagePull"}}}]);
        check(json!({"phase": "Pending", "containerStatuses": waiting}), "ErrImagePull");
        let ended = json!([{"state": {"terminated": {"exitCode": 3}}}]);
        check(json!({"phase": "Failed", "containerStatuses": ended}), "ExitCode:3");
        let init = json!([{"state": {"running": {}}}]);
        check(json!({"phase": "Pending", "initContainerStatuses": init}), "Init:0/0");
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_terminating() {
        let pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(status(&pod), "Terminating");
    }
}
