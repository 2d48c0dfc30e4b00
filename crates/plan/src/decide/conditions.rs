//! Conditions: the same five fields on three kinds.

use ferrovirt_api::kubevirt::{
    KubeVirt, KubeVirtCondition, VirtualMachineCondition, VirtualMachineInstanceCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::patch;

/// What the kinds' condition types have in common.
pub(super) trait Condition: Clone + PartialEq {
    fn new(kind: &str, status: &str, reason: &str, message: &str) -> Self;
    fn kind(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn same(&self, other: &Self) -> bool;
    fn changed_at(&mut self) -> &mut Option<Time>;
}

macro_rules! conditions {
    ($($kind:ident),*) => {$(
        impl Condition for $kind {
            fn new(kind: &str, status: &str, reason: &str, message: &str) -> Self {
                let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                Self {
                    r#type: kind.to_owned(),
                    status: status.to_owned(),
                    reason: text(reason),
                    message: text(message),
                    ..Self::default()
                }
            }
            fn kind(&self) -> &str {
                &self.r#type
            }
            fn status(&self) -> &str {
                &self.status
            }
            fn reason(&self) -> &str {
                self.reason.as_deref().unwrap_or_default()
            }
            fn same(&self, other: &Self) -> bool {
                self.status == other.status && self.reason == other.reason && self.message == other.message
            }
            fn changed_at(&mut self) -> &mut Option<Time> {
                &mut self.last_transition_time
            }
        }
    )*};
}

conditions!(VirtualMachineInstanceCondition, VirtualMachineCondition, KubeVirtCondition);

/// The condition of a type.
pub(super) fn find<'a, C: Condition>(list: &'a [C], kind: &str) -> Option<&'a C> {
    list.iter().find(|c| c.kind() == kind)
}

/// The condition is there and True.
pub(super) fn is_true<C: Condition>(list: &[C], kind: &str) -> bool {
    find(list, kind).is_some_and(|c| c.status() == "True")
}

/// Puts a condition in its place. The transition time moves only when the status does.
pub(super) fn set<C: Condition>(list: &mut Vec<C>, mut condition: C, now: Timestamp) {
    match list.iter_mut().find(|c| c.kind() == condition.kind()) {
        Some(old) if old.same(&condition) => {}
        Some(old) => {
            *condition.changed_at() =
                if old.status() == condition.status() { old.changed_at().clone() } else { Some(Time(now)) };
            *old = condition;
        }
        None => {
            *condition.changed_at() = Some(Time(now));
            list.push(condition);
        }
    }
}

/// Takes the condition of a type away.
pub(super) fn remove<C: Condition>(list: &mut Vec<C>, kind: &str) {
    list.retain(|c| c.kind() != kind);
}

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
