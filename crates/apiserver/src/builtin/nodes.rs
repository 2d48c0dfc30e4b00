//! Node lifecycle: a node whose agent does not renew its lease is not ready, and neither are its pods: nobody knows
//! whether they still run. Their machines say the same, because their controller takes Ready from the pod.
//! One that is short of disk space is tainted.
//!
//! As upstream, what counts is when the renewal was seen here, by a clock that nobody sets. The time in the lease is the
//! agent's own: after a jump of the clock it lies hours back, or hours ahead.

use std::collections::HashMap;
use std::time::Duration;

use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::{list, set, text};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Wake, events};
use crate::clock;
use crate::store::{Change, Key, Prefix, Store, StoreError};

/// Namespace of the agents' leases.
pub const LEASES: &str = "kube-node-lease";
/// A lease older than this means that the agent is gone: Kubernetes' grace period.
const GRACE: Duration = Duration::from_secs(50);
/// Our reason in the Ready condition: only what we set, we take back.
const SILENT: &str = "NodeStatusUnknown";

/// What each lease said last, and since when.
#[derive(Default)]
struct Leases(HashMap<String, (String, Instant)>);

impl Leases {
    /// Until when the node counts as alive whose lease says this. What is new was renewed now.
    fn alive_until(&mut self, node: &str, renewed: &str, now: Instant) -> Instant {
        match self.0.get(node) {
            Some((known, since)) if known == renewed => *since + GRACE,
            _ => {
                self.0.insert(node.to_owned(), (renewed.to_owned(), now));
                now + GRACE
            }
        }
    }
}

/// Watches leases until the store closes.
pub async fn run(store: Store) {
    let prefixes =
        vec![Prefix::resource("", "nodes"), Prefix::namespace("coordination.k8s.io", "leases", LEASES)];
    let mut wake = Wake::new(&store, prefixes);
    // After a restart of the server itself nobody could renew anything: everybody gets a full period.
    let mut leases = Leases::default();
    loop {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let nodes = store.list(&Prefix::resource("", "nodes")).entries;
        leases.0.retain(|name, _| nodes.iter().any(|(key, _)| key.name() == name));
        for (key, node) in nodes {
            if let Err(error) = taint(&store, &key, &node.object).await {
                tracing::warn!(%error, node = key.name(), "the node's taints could not be written");
            }
            let lease = store.get(&Key::new("coordination.k8s.io", "leases", LEASES, key.name()));
            let Some(lease) = lease else { continue };
            let end = leases.alive_until(key.name(), text(&lease.object, "/spec/renewTime"), now);
            if end > now {
                next = Some(next.map_or(end, |n| n.min(end)));
            }
            let silent = end <= now;
            if let Err(error) = judge(&store, &key, &node.object, silent).await {
                tracing::warn!(%error, node = key.name(), "the node's condition could not be written");
            }
            if let Err(error) = pods(&store, key.name(), silent).await {
                tracing::warn!(%error, node = key.name(), "the conditions of its pods could not be written");
            }
        }
        let open = match next {
            Some(end) => tokio::time::timeout_at(end, wake.next()).await.unwrap_or(true),
            None => wake.next().await,
        };
        if !open {
            return;
        }
    }
}

/// As upstream's taints by condition: no new pods on a node that is short of disk space.
const DISK_PRESSURE: &str = "node.kubernetes.io/disk-pressure";

/// Gives the node the taint, or takes it away, as its condition says. `None` when it is as it should be.
fn tainted(node: &Value) -> Option<Value> {
    let is_ours = |taint: &&Value| text(taint, "key") == DISK_PRESSURE;
    let short = list(node, "/status/conditions")
        .any(|condition| text(condition, "type") == "DiskPressure" && text(condition, "status") == "True");
    if short == list(node, "/spec/taints").any(|taint| is_ours(&taint)) {
        return None;
    }
    let mut taints: Vec<Value> =
        list(node, "/spec/taints").filter(|taint| !is_ours(taint)).cloned().collect();
    if short {
        taints.push(json!({"key": DISK_PRESSURE, "effect": "NoSchedule", "timeAdded": clock::stamp()}));
    }
    let mut node = node.clone();
    set(&mut node, &["spec", "taints"], json!(taints));
    Some(node)
}

async fn taint(store: &Store, key: &Key, node: &Value) -> Result<(), StoreError> {
    if tainted(node).is_none() {
        return Ok(());
    }
    let result = store
        .guaranteed_update(key, |object| -> Result<Change, StoreError> {
            Ok(tainted(object).map_or(Change::Keep, Change::Write))
        })
        .await;
    match result {
        Ok(_) | Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Our reason in the Ready condition of pods.
const NOT_READY: &str = "NodeNotReady";

/// Makes the pods of a silent node not ready, and those that were made so ready again once it is not silent any more.
pub(super) async fn pods(store: &Store, node: &str, silent: bool) -> Result<(), StoreError> {
    let condition = |pod: &Value, kind: &str| {
        let found = list(pod, "/status/conditions").find(|c| text(c, "type") == kind);
        found.map(|c| (text(c, "status").to_owned(), text(c, "reason").to_owned())).unwrap_or_default()
    };
    let wrong = |pod: &Value| {
        let (status, reason) = condition(pod, "Ready");
        if silent {
            status == "True"
        } else {
            // Containers that ended meanwhile are not ready, whatever their node is.
            status == "False" && reason == NOT_READY && condition(pod, "ContainersReady").0 == "True"
        }
    };
    for (key, pod) in store.list(&Prefix::resource("", "pods")).entries {
        if text(&pod.object, "/spec/nodeName") != node || !wrong(&pod.object) {
            continue;
        }
        let change = |object: &Value| -> Result<Change, StoreError> {
            if !wrong(object) {
                return Ok(Change::Keep);
            }
            let mut object = object.clone();
            let (status, reason) = if silent { ("False", NOT_READY) } else { ("True", "") };
            condition::set(&mut object, "Ready", status, (reason, ""), &clock::stamp());
            Ok(Change::Write(object))
        };
        match store.guaranteed_update(&key, change).await {
            Ok(entry) if silent => {
                let source = "node-controller";
                events::record(
                    store,
                    &entry.object,
                    "Pod",
                    "Warning",
                    NOT_READY,
                    "Node is not ready",
                    source,
                )
                .await;
            }
            Ok(_) | Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) async fn judge(store: &Store, key: &Key, node: &Value, silent: bool) -> Result<(), StoreError> {
    let ready = |node: &Value| {
        let condition = list(node, "/status/conditions").find(|c| text(c, "type") == "Ready");
        condition.map(|c| (text(c, "status").to_owned(), text(c, "reason").to_owned()))
    };
    let (wrong, status, reason, message) = match (ready(node), silent) {
        (Some((status, _)), true) if status != "Unknown" => {
            (status, "Unknown", SILENT, "The node's agent stopped renewing its lease.")
        }
        (Some((status, reason)), false) if status == "Unknown" && reason == SILENT => {
            (status, "True", "AgentReady", "The node's agent renews its lease again.")
        }
        _ => return Ok(()),
    };
    let mut changed = false;
    let result = store
        .guaranteed_update(key, |object| -> Result<Change, StoreError> {
            changed = ready(object).is_some_and(|(status, _)| status == wrong);
            if !changed {
                return Ok(Change::Keep);
            }
            let mut object = object.clone();
            condition::set(&mut object, "Ready", status, (reason, message), &clock::stamp());
            Ok(Change::Write(object))
        })
        .await;
    match result {
        Ok(entry) => {
            if changed && silent {
                let message = format!("Node {} status is now: NodeNotReady", key.name());
                events::record(
                    store,
                    &entry.object,
                    "Node",
                    "Normal",
                    "NodeNotReady",
                    &message,
                    "node-controller",
                )
                .await;
            }
            Ok(())
        }
        Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_short_of_disk_space_is_tainted_as_long_as_it_is() {
        let node = |status: &str, taints: Value| json!({"spec": {"taints": taints}, "status": {"conditions": [{"type": "DiskPressure", "status": status}]}});
        let own = json!({"key": "gpu", "effect": "NoSchedule"});
        assert_eq!(tainted(&node("False", json!([own]))), None);
        assert_eq!(tainted(&json!({"metadata": {"name": "n"}})), None);
        let short = tainted(&node("True", json!([own]))).unwrap();
        let keys: Vec<&str> = list(&short, "/spec/taints").map(|taint| text(taint, "key")).collect();
        assert_eq!(keys, ["gpu", DISK_PRESSURE]);
        assert_eq!(tainted(&short), None);
        let over = tainted(&node("False", short["spec"]["taints"].clone())).unwrap();
        assert_eq!(over["spec"]["taints"], json!([own]));
    }

    #[test]
    fn a_node_is_judged_by_when_its_lease_was_seen_whatever_time_the_lease_says() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(leases.alive_until("n", "12:00", at(0)), at(0) + GRACE);
        assert_eq!(leases.alive_until("n", "12:00", at(49)), at(0) + GRACE, "nothing came");
        // The clock is set back by hours, then far forwards; the agent goes on.
        assert_eq!(leases.alive_until("n", "09:00", at(50)), at(50) + GRACE);
        assert_eq!(leases.alive_until("n", "23:00", at(60)), at(60) + GRACE);
        // It is silent, and its last word is ahead of the clock.
        assert_eq!(leases.alive_until("n", "23:00", at(500)), at(60) + GRACE);
    }
}
