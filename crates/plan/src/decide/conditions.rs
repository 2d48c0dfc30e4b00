//! The conditions of the KubeVirt object.

use ferrovirt_api::kubevirt::{KubeVirt, KubeVirtCondition};
use ferrovirt_kubernetes::typed_condition::{Condition as _, set};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::patch;

/// The patch of the status of the KubeVirt object that says that the controllers are at work, and `problem`, what is
/// wrong with its configuration; empty when the object says so already.
pub fn cluster_status(
    cluster: &KubeVirt,
    version: &str,
    problem: Option<&str>,
    now: Timestamp,
) -> Vec<Value> {
    let mut new = cluster.clone();
    let status = new.status.get_or_insert_default();
    status.phase = Some("Deployed".to_owned());
    status.observed_generation = cluster.metadata.generation;
    status.observed_kube_virt_version = Some(version.to_owned());
    status.operator_version = Some(version.to_owned());
    let (degraded, reason, message) = match problem {
        None => ("False", "AllComponentsReady", "All components are ready."),
        Some(problem) => ("True", "InvalidConfiguration", problem),
    };
    for (kind, value, reason, message) in [
        ("Available", "True", "AllComponentsReady", "All components are ready."),
        ("Progressing", "False", "AllComponentsReady", "All components are ready."),
        ("Degraded", degraded, reason, message),
        ("Created", "True", "AllResourcesCreated", "All resources were created."),
    ] {
        set(&mut status.conditions, KubeVirtCondition::new(kind, value, reason, message), now);
    }
    patch::between(&cluster.metadata, cluster, &new)
}
