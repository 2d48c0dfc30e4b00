//! The scheduler: each waiting pod goes to a node that it fits, oldest first, or learns why it cannot.

use std::collections::BTreeMap;

use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::{list, set, text};
use ferrovirt_kubernetes::object::is_deleting;
use ferrovirt_plan::decide::fit;
use serde_json::{Value, json};

use super::{Wake, events};
use crate::clock;
use crate::store::{Change, Entry, Key, Prefix, Store, StoreError};

/// The scheduler that pods ask for by name.
const NAME: &str = "default-scheduler";

/// Schedules until the store closes. Woken by changes of pods, nodes and claims.
pub async fn run(store: Store) {
    let prefixes =
        ["pods", "nodes", "persistentvolumeclaims"].into_iter().map(|r| Prefix::resource("", r)).collect();
    let mut wake = Wake::new(&store, prefixes);
    loop {
        if let Err(error) = schedule(&store).await {
            tracing::warn!(%error, "pods could not be scheduled");
        }
        if !wake.next().await {
            return;
        }
    }
}

fn waiting(pod: &Value) -> bool {
    text(pod, "/spec/nodeName").is_empty()
        && text(pod, "/spec/schedulerName") == NAME
        && list(pod, "/spec/schedulingGates").next().is_none()
        && fit::takes(pod)
        && !is_deleting(pod)
}

async fn schedule(store: &Store) -> Result<(), StoreError> {
    let pods = store.list(&Prefix::resource("", "pods")).entries;
    let mut queue: Vec<&(Key, Entry)> = pods.iter().filter(|(_, pod)| waiting(&pod.object)).collect();
    if queue.is_empty() {
        return Ok(());
    }
    queue.sort_by_key(|(_, pod)| text(&pod.object, "/metadata/creationTimestamp").to_owned());
    let nodes = store.list(&Prefix::resource("", "nodes")).entries;
    let mut used: BTreeMap<&str, fit::Amounts> = BTreeMap::new();
    for (key, _) in &nodes {
        let here = pods
            .iter()
            .map(|(_, pod)| pod.object.as_ref())
            .filter(|pod| text(pod, "/spec/nodeName") == key.name() && fit::takes(pod));
        used.insert(key.name(), fit::sum(here));
    }
    for (key, pod) in queue {
        match place(store, &pod.object, &nodes, &used) {
            Ok(node) => {
                if bind(store, key, node).await? {
                    let taken = used.entry(node).or_default();
                    *taken = fit::sum_of(taken, &pod.object);
                }
            }
            Err(message) => refuse(store, key, &message).await?,
        }
    }
    Ok(())
}

/// The first node that takes the pod, or the message why none does.
fn place<'a>(
    store: &Store,
    pod: &Value,
    nodes: &'a [(Key, Entry)],
    used: &BTreeMap<&str, fit::Amounts>,
) -> Result<&'a str, String> {
    if let Some(message) = claims(store, pod) {
        return Err(message);
    }
    if nodes.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let nothing = fit::Amounts::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (key, node) in nodes {
        let refusals = fit::misfits(pod, &node.object, used.get(key.name()).unwrap_or(&nothing));
        if refusals.is_empty() {
            return Ok(key.name());
        }
        for reason in refusals {
            *reasons.entry(reason.to_string()).or_default() += 1;
        }
    }
    let list: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Err(format!("0/{} nodes are available: {}.", nodes.len(), list.join(", ")))
}

/// A pod waits for the claims that it mounts.
fn claims(store: &Store, pod: &Value) -> Option<String> {
    for volume in list(pod, "/spec/volumes") {
        let name = text(volume, "/persistentVolumeClaim/claimName");
        if name.is_empty() {
            continue;
        }
        let key = Key::new("", "persistentvolumeclaims", text(pod, "/metadata/namespace"), name);
        match store.get(&key) {
            None => return Some(format!("persistentvolumeclaim {name:?} not found")),
            Some(claim) if is_deleting(&claim.object) => {
                return Some(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            Some(claim) if text(&claim.object, "/status/phase") != "Bound" => {
                return Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
            Some(_) => {}
        }
    }
    None
}

/// Writes the node into the pod, unless somebody else did meanwhile. True when it was done.
async fn bind(store: &Store, key: &Key, node: &str) -> Result<bool, StoreError> {
    let mut done = false;
    let result = store
        .guaranteed_update(key, |pod| -> Result<Change, StoreError> {
            done = waiting(pod);
            Ok(if done { Change::Write(bound(pod, node)) } else { Change::Keep })
        })
        .await;
    match result {
        Ok(entry) if done => {
            let message = format!("Successfully assigned {}/{} to {node}", key.namespace(), key.name());
            events::record(store, &entry.object, "Pod", "Normal", "Scheduled", &message, NAME).await;
            Ok(true)
        }
        Ok(_) | Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The pod with a node.
#[must_use]
pub fn bound(pod: &Value, node: &str) -> Value {
    let mut pod = pod.clone();
    set(&mut pod, &["spec", "nodeName"], json!(node));
    condition::set(&mut pod, "PodScheduled", "True", ("", ""), &clock::stamp());
    pod
}

async fn refuse(store: &Store, key: &Key, message: &str) -> Result<(), StoreError> {
    let mut news = false;
    let result = store
        .guaranteed_update(key, |pod| -> Result<Change, StoreError> {
            let old = condition::find(pod, "PodScheduled");
            news = waiting(pod) && old.is_none_or(|c| text(c, "message") != message);
            if !news {
                return Ok(Change::Keep);
            }
            let mut pod = pod.clone();
            condition::set(&mut pod, "PodScheduled", "False", ("Unschedulable", message), &clock::stamp());
            Ok(Change::Write(pod))
        })
        .await;
    match result {
        Ok(entry) if news => {
            events::record(store, &entry.object, "Pod", "Warning", "FailedScheduling", message, NAME).await;
            Ok(())
        }
        Ok(_) | Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}
