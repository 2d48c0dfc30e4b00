//! The conditions of the KubeVirt object.

use ferrovirt_api::kubevirt::{KubeVirt, KubeVirtCondition};
use ferrovirt_kubernetes::typed_condition::{Condition as _, set};
use ferrovirt_kubernetes::{json, object};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::patch;
use crate::render::api;

/// What is installed on a cluster beside the controllers that decide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// `kubevirt-controller`; controllers may also run outside of the cluster.
    pub controller: Option<&'a Deployment>,
    /// `kubevirt-api`: without it no machine is made or changed.
    pub api: Option<&'a Deployment>,
    /// `virt-handler`.
    pub handler: Option<&'a DaemonSet>,
    /// By which `kubevirt-api` is asked to complete machines.
    pub mutating: Option<&'a MutatingWebhookConfiguration>,
    /// By which it is asked to check them, and that nobody else writes their status.
    pub validating: Option<&'a ValidatingWebhookConfiguration>,
}

impl Parts<'_> {
    /// What machines lack, in words; nothing when they can run.
    fn missing(&self) -> Vec<String> {
        let mut out = Vec::new();
        for deployment in [self.controller, self.api].into_iter().flatten() {
            let status = deployment.status.as_ref();
            if status.and_then(|status| status.available_replicas).unwrap_or(0) < 1 {
                out.push(format!("no replica of {} is available", name(deployment)));
            }
        }
        if self.api.is_none() {
            out.push("there is no Deployment kubevirt-api: apply the manifest again".to_owned());
        }
        out.extend(self.unasked());
        let Some(handler) = self.handler else {
            out.push("there is no DaemonSet virt-handler: apply the manifest again".to_owned());
            return out;
        };
        let status = handler.status.as_ref();
        if status.and_then(|status| status.number_available).unwrap_or(0) < 1 {
            out.push("virt-handler is available on no node".to_owned());
        }
        out
    }

    /// What the API server does not ask `kubevirt-api` about, in words.
    fn unasked(&self) -> Vec<String> {
        let mutating = self.mutating.map(|found| {
            found.webhooks.iter().flatten().map(|webhook| webhook.name.as_str()).collect::<Vec<_>>()
        });
        let validating = self.validating.map(|found| {
            found.webhooks.iter().flatten().map(|webhook| webhook.name.as_str()).collect::<Vec<_>>()
        });
        let mut out = Vec::new();
        for (wanted, found) in api::configurations().iter().zip([mutating, validating]) {
            let (kind, name) = (object::kind(wanted), object::name(wanted));
            let Some(found) = found else {
                out.push(format!("there is no {kind} {name}: apply the manifest again"));
                continue;
            };
            let names = json::list(wanted, "webhooks").map(|webhook| json::text(webhook, "name"));
            let missing: Vec<_> = names.filter(|name| !found.contains(name)).collect();
            if !missing.is_empty() {
                let missing = missing.join(", ");
                out.push(format!("the {kind} {name} lacks {missing}: apply the manifest again"));
            }
        }
        out
    }

    /// What is still under way, in words.
    fn pending(&self) -> Vec<String> {
        let mut out = Vec::new();
        for deployment in [self.controller, self.api].into_iter().flatten() {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let status = deployment.status.clone().unwrap_or_default();
            let seen = status.observed_generation >= deployment.metadata.generation;
            let updated = if seen { status.updated_replicas.unwrap_or(0) } else { 0 };
            let ready = status.available_replicas.unwrap_or(0).min(updated);
            if ready < wanted {
                out.push(format!("{ready} of {wanted} replicas of {} are available", name(deployment)));
            }
        }
        if let Some(handler) = self.handler {
            let status = handler.status.clone().unwrap_or_default();
            let wanted = status.desired_number_scheduled;
            let seen = status.observed_generation >= handler.metadata.generation;
            let updated = if seen { status.updated_number_scheduled.unwrap_or(0) } else { 0 };
            let ready = status.number_available.unwrap_or(0).min(updated);
            if ready < wanted || !seen {
                out.push(format!("virt-handler is available on {ready} of {wanted} nodes"));
            }
        }
        out
    }
}

fn name(deployment: &Deployment) -> &str {
    deployment.metadata.name.as_deref().unwrap_or_default()
}

/// The patch of the status of the KubeVirt object that says whether machines can run, how far the installation is, and
/// `problem`, what is wrong with its configuration; empty when the object says so already. On one machine there are no
/// `parts`. While machines end with the object, `ending` says which ones are waited for.
pub fn cluster_status(
    cluster: &KubeVirt,
    version: &str,
    problem: Option<&str>,
    parts: Option<Parts<'_>>,
    ending: Option<&str>,
    now: Timestamp,
) -> Vec<Value> {
    const ALL: (&str, &str) = ("AllComponentsReady", "All components are ready.");
    let mut new = cluster.clone();
    let (missing, pending) = parts.map_or_else(Default::default, |parts| (parts.missing(), parts.pending()));
    let status = new.status.get_or_insert_default();
    let phase = match (ending, missing.is_empty()) {
        (Some(_), _) => "Deleting",
        (None, true) => "Deployed",
        (None, false) => "Deploying",
    };
    status.phase = Some(phase.to_owned());
    status.observed_generation = cluster.metadata.generation;
    status.observed_kube_virt_version = Some(version.to_owned());
    status.operator_version = Some(version.to_owned());
    let missing = Some(missing.join("; ")).filter(|text| !text.is_empty());
    let pending = Some(pending.join("; ")).filter(|text| !text.is_empty());
    let (available, why) = match &missing {
        None => ("True", ALL),
        Some(text) => ("False", ("ComponentsMissing", text.as_str())),
    };
    let (progressing, how) = match (ending, &pending) {
        (Some(text), _) => ("True", ("DeletionInProgress", text)),
        (None, None) => ("False", ALL),
        (None, Some(text)) => ("True", ("ComponentsNotReady", text.as_str())),
    };
    let (degraded, what) = match problem {
        None => ("False", ALL),
        Some(problem) => ("True", ("InvalidConfiguration", problem)),
    };
    for (kind, value, (reason, message)) in [
        ("Available", available, why),
        ("Progressing", progressing, how),
        ("Degraded", degraded, what),
        ("Created", "True", ("AllResourcesCreated", "All resources were created.")),
    ] {
        set(&mut status.conditions, KubeVirtCondition::new(kind, value, reason, message), now);
    }
    patch::between(&cluster.metadata, cluster, &new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Status and message of a condition, for so many available replicas of the controller and the API, and nodes.
    fn condition(kind: &str, [replicas, apis, nodes]: [i32; 3]) -> (String, String) {
        let deployment = |name: &str, available: i32| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"name": name, "generation": 1},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": 1, "availableReplicas": available, "updatedReplicas": 2},
            }))
            .unwrap()
        };
        let (controller, api) =
            (deployment("kubevirt-controller", replicas), deployment("kubevirt-api", apis));
        let handler: DaemonSet = serde_json::from_value(json!({
            "metadata": {"generation": 1},
            "status": {
                "observedGeneration": 1, "currentNumberScheduled": 2, "desiredNumberScheduled": 2,
                "numberAvailable": nodes, "numberMisscheduled": 0, "numberReady": nodes, "updatedNumberScheduled": 2,
            },
        }))
        .unwrap();
        let [mutating, validating] = api::configurations();
        let (mutating, validating) =
            (serde_json::from_value(mutating).unwrap(), serde_json::from_value(validating).unwrap());
        let parts = Parts {
            controller: Some(&controller),
            api: Some(&api),
            handler: Some(&handler),
            mutating: Some(&mutating),
            validating: Some(&validating),
        };
        read(kind, Some(parts))
    }

    #[test]
    fn a_machine_that_nobody_is_asked_about_is_no_available_installation() {
        let [mutating, validating] = api::configurations();
        let mutating: MutatingWebhookConfiguration = serde_json::from_value(mutating).unwrap();
        let validating: ValidatingWebhookConfiguration = serde_json::from_value(validating).unwrap();
        let said =
            |mutating, validating| Parts { mutating, validating, ..Parts::default() }.unasked().join("; ");
        assert_eq!(said(Some(&mutating), Some(&validating)), "");
        let none = said(None, None);
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            assert!(none.contains(&format!("there is no {kind} kubevirt-api")), "{none}");
        }
        let mut fewer = validating.clone();
        let webhooks = fewer.webhooks.as_mut().unwrap();
        webhooks.retain(|webhook| webhook.name != "virtualmachineinstances-update-validator.kubevirt.io");
        let less = said(Some(&mutating), Some(&fewer));
        assert!(less.contains("lacks virtualmachineinstances-update-validator.kubevirt.io:"), "{less}");
    }

    fn read(kind: &str, parts: Option<Parts<'_>>) -> (String, String) {
        let cluster: KubeVirt = serde_json::from_value(
            json!({"metadata": {"name": "kubevirt", "resourceVersion": "1"}, "spec": {}}),
        )
        .unwrap();
        let ops = cluster_status(&cluster, "1", None, parts, None, Timestamp::UNIX_EPOCH);
        let patch = serde_json::to_string(&ops).unwrap();
        let status = ops.iter().find(|op| op["path"] == "/status").map(|op| op["value"].clone());
        let conditions = status.unwrap_or_else(|| panic!("{patch}"))["conditions"].clone();
        let all = conditions.as_array().cloned().unwrap_or_default();
        let found = all
            .iter()
            .find(|condition| condition["type"] == kind)
            .unwrap_or_else(|| panic!("{patch}"))
            .clone();
        (found["status"].as_str().unwrap().to_owned(), found["message"].as_str().unwrap().to_owned())
    }

    #[test]
    fn the_installation_is_available_when_machines_can_run_and_progresses_until_all_is_there() {
        let is = |kind, available, status: &str, words: &str| {
            let (found, message) = condition(kind, available);
            assert_eq!(found, status, "{kind} {available:?}: {message}");
            assert!(message.contains(words), "{kind} {available:?}: {message}");
        };
        is("Available", [2, 2, 2], "True", "All components");
        is("Available", [1, 1, 1], "True", "All components");
        is("Available", [0, 2, 2], "False", "no replica of kubevirt-controller");
        is("Available", [2, 0, 2], "False", "no replica of kubevirt-api");
        is("Available", [2, 2, 0], "False", "virt-handler is available on no node");
        is("Progressing", [2, 2, 2], "False", "All components");
        is("Progressing", [1, 2, 2], "True", "1 of 2 replicas of kubevirt-controller");
        is("Progressing", [2, 1, 2], "True", "1 of 2 replicas of kubevirt-api");
        is("Progressing", [2, 2, 1], "True", "virt-handler is available on 1 of 2 nodes");
    }

    #[test]
    fn on_one_machine_nothing_is_waited_for_and_a_cluster_needs_a_handler() {
        for kind in ["Available", "Progressing"] {
            let wanted = if kind == "Available" { "True" } else { "False" };
            assert_eq!(read(kind, None).0, wanted);
        }
        let (available, message) = read("Available", Some(Parts::default()));
        let missing = [
            "no Deployment kubevirt-api",
            "no DaemonSet virt-handler",
            "no ValidatingWebhookConfiguration kubevirt-api",
        ];
        assert!(available == "False" && missing.iter().all(|what| message.contains(what)), "{message}");
    }
}
