//! The status of a pod, as a merge patch: pure.

use super::record::Exit;
use crate::redacted::Redacted;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// What the agent knows of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Not started: reason and message for the waiting container.
    Waiting { reason: &'static str, message: Redacted },
    /// Its container is about to run, at this address.
    Creating { ip: Ipv4Addr },
    /// The node does not take it, as a kubelet says it.
    Rejected { reason: String, message: Redacted },
    /// Its container runs.
    Running { ip: Ipv4Addr, started: String },
    /// Its container ended.
    Ended { ip: Option<Ipv4Addr>, started: String, exit: Exit },
}

/// The patch of the status subresource. `now` is an RFC 3339 time stamp.
pub(super) fn patch(pod: &Pod, known: &Known, now: &str) -> Value {
    if let Known::Rejected { reason, message } = known {
        let message = format!("Pod was rejected: {message}");
        return json!({"status": {"phase": "Failed", "reason": reason, "message": message, "startTime": now}});
    }
    let phase = match known {
        Known::Waiting { .. } | Known::Creating { .. } => "Pending",
        Known::Running { .. } => "Running",
        Known::Ended { exit, .. } if exit.code == 0 && !exit.evicted => "Succeeded",
        Known::Ended { .. } | Known::Rejected { .. } => "Failed",
    };
    let ready = matches!(known, Known::Running { .. });
    let ip = match known {
        Known::Running { ip, .. } | Known::Creating { ip } => Some(*ip),
        Known::Ended { ip, .. } => *ip,
        _ => None,
    };
    let started = match known {
        Known::Running { started, .. } | Known::Ended { started, .. } => started.clone(),
        _ => now.to_owned(),
    };
    let evicted = match known {
        Known::Ended { exit, .. } if exit.evicted => Some(exit),
        _ => None,
    };
    json!({"status": {
        "phase": phase,
        // In a kubelet's words.
        "reason": evicted.map(|_| "Evicted"),
        "message": evicted.map(|exit| &exit.message),
        "startTime": started,
        "podIP": ip,
        "podIPs": ip.map(|ip| json!([{"ip": ip}])),
        "conditions": conditions(pod, known, ready, now),
        "containerStatuses": containers(pod, known, ready),
        "qosClass": pod.status.as_ref().and_then(|status| status.qos_class.clone()),
    }})
}

fn containers(pod: &Pod, known: &Known, ready: bool) -> Value {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let all = pod.spec.iter().flat_map(|spec| &spec.containers);
    let state = match known {
        Known::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        Known::Creating { .. } => json!({"waiting": {"reason": "ContainerCreating"}}),
        Known::Running { started, .. } => json!({"running": {"startedAt": started}}),
        Known::Ended { started, exit, .. } => json!({"terminated": {
            "exitCode": exit.code,
            "reason": if exit.code == 0 { "Completed" } else { "Error" },
            "message": exit.message,
            "startedAt": started,
            "finishedAt": exit.finished,
            "containerID": format!("crun://{uid}"),
        }}),
        Known::Rejected { .. } => Value::Null,
    };
    let there = !matches!(known, Known::Waiting { .. } | Known::Creating { .. });
    all.map(|container| {
        json!({
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "containerID": there.then(|| format!("crun://{uid}")),
            "ready": ready,
            "started": ready,
            "restartCount": 0,
            "state": state,
        })
    })
    .collect()
}

fn conditions(pod: &Pod, known: &Known, ready: bool, now: &str) -> Value {
    let mut known_before: Vec<PodCondition> =
        pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let why = match known {
        Known::Ended { exit, .. } if exit.code == 0 => "PodCompleted",
        Known::Ended { .. } => "PodFailed",
        _ => "ContainersNotReady",
    };
    for (kind, holds) in
        [("PodScheduled", true), ("Initialized", true), ("ContainersReady", ready), ("Ready", ready)]
    {
        let status = if holds { "True" } else { "False" };
        let reason = (!holds).then(|| why.to_owned());
        let time = serde_json::from_value(json!(now)).ok();
        match known_before.iter_mut().find(|c| c.type_ == kind) {
            Some(condition) => {
                if condition.status != status {
                    condition.status = status.to_owned();
                    condition.last_transition_time = time;
                }
                condition.reason = reason;
            }
            None => known_before.push(PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason,
                last_transition_time: time,
                ..Default::default()
            }),
        }
    }
    if let Known::Ended { exit, .. } = known
        && exit.evicted
        && !known_before.iter().any(|condition| condition.type_ == "DisruptionTarget")
    {
        known_before.push(PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(exit.message.to_string()),
            last_transition_time: serde_json::from_value(json!(now)).ok(),
            ..Default::default()
        });
    }
    json!(known_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "compute", "image": "i"}]},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_running_pod_is_ready_and_keeps_the_schedulers_condition() {
        let known = Known::Running { ip: Ipv4Addr::new(10, 244, 0, 2), started: NOW.to_owned() };
        let status = &patch(&pod(), &known, NOW)["status"];
        assert_eq!((&status["phase"], &status["podIP"]), (&json!("Running"), &json!("10.244.0.2")));
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "2025-01-01T00:00:00Z");
        assert!(status["conditions"].as_array().unwrap().iter().all(|c| c["status"] == "True"));
        assert_eq!(status["containerStatuses"][0]["ready"], true);
    }

    #[test]
    fn the_address_of_a_pod_is_known_before_its_container_runs() {
        let status = &patch(&pod(), &Known::Creating { ip: Ipv4Addr::new(10, 244, 0, 2) }, NOW)["status"];
        assert_eq!((&status["phase"], &status["podIPs"][0]["ip"]), (&json!("Pending"), &json!("10.244.0.2")));
        let container = &status["containerStatuses"][0];
        assert_eq!((&container["ready"], &container["containerID"]), (&json!(false), &Value::Null));
        assert_eq!(container["state"]["waiting"]["reason"], "ContainerCreating");
    }

    #[test]
    fn an_evicted_pod_has_failed_in_a_kubelets_words() {
        let exit =
            Exit { code: 0, message: Redacted::ours("too much"), finished: NOW.to_owned(), evicted: true };
        let status = &patch(&pod(), &Known::Ended { ip: None, started: NOW.to_owned(), exit }, NOW)["status"];
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
        assert_eq!(status["message"], "too much");
        let all = status["conditions"].as_array().unwrap();
        let target = all.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
        assert_eq!(target["reason"], "TerminationByKubelet");
    }

    #[test]
    fn a_pod_that_the_node_does_not_take_has_failed_as_on_a_kubelet() {
        let known = Known::Rejected { reason: "OutOfcpu".to_owned(), message: Redacted::ours("too large") };
        let status = &patch(&pod(), &known, NOW)["status"];
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("OutOfcpu")));
        assert_eq!(status["message"], "Pod was rejected: too large");
        assert_eq!(status.get("containerStatuses"), None, "there is no container");
    }

    #[test]
    fn the_exit_code_decides_the_last_phase() {
        for (code, phase, reason) in [(0, "Succeeded", "Completed"), (1, "Failed", "Error")] {
            let exit = Exit { code, message: Redacted::ours("m"), finished: NOW.to_owned(), evicted: false };
            let known = Known::Ended { ip: None, started: NOW.to_owned(), exit };
            let status = &patch(&pod(), &known, NOW)["status"];
            assert_eq!(status["phase"], phase);
            let state = &status["containerStatuses"][0]["state"]["terminated"];
            assert_eq!((&state["exitCode"], &state["reason"]), (&json!(code), &json!(reason)));
        }
    }
}
