//! The conditions of the KubeVirt object.

use std::sync::Arc;

use ferrovirt_api::kubevirt::{KubeVirt, KubeVirtCondition};
use ferrovirt_api::text::plain;
use ferrovirt_kubernetes::typed_condition::{Condition as _, set};
use ferrovirt_kubernetes::{json, object};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::Value;

use super::patch;
use crate::render::api;

/// Most characters of what the API server says of a service.
const LONGEST: usize = 512;

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
    /// By which requests for the subresources of machines are forwarded to it.
    pub services: &'a [Arc<APIService>],
}

/// What makes the API server ask `kubevirt-api` something, and whom it trusts for that.
struct Entry {
    /// Kind and name.
    object: String,
    /// The authorities, as PEM; empty where there are none.
    bundle: String,
}

impl Parts<'_> {
    /// What machines lack, in words; nothing when they can run.
    fn missing(&self) -> Vec<String> {
        let mut out = Vec::new();
        for deployment in [self.controller, self.api].into_iter().flatten() {
            if replicas(deployment) < 1 {
                out.push(format!("no replica of {} is available", name(deployment)));
            }
        }
        if self.api.is_none() {
            out.push("there is no Deployment kubevirt-api: apply the manifest again".to_owned());
        }
        out.extend(self.unasked());
        out.extend(self.untrusted());
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
        for name in api::service_names() {
            if !self.services.iter().any(|service| service.metadata.name.as_ref() == Some(&name)) {
                out.push(format!("there is no APIService {name}: apply the manifest again"));
            }
        }
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

    /// Where the API server asks `kubevirt-api` something, an entry for each certificate bundle.
    fn entries(&self) -> Vec<Entry> {
        let text = |bundle: Option<&ByteString>| {
            bundle.map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned()).unwrap_or_default()
        };
        let services = self.services.iter().map(|service| Entry {
            object: format!("APIService {}", service.metadata.name.as_deref().unwrap_or_default()),
            bundle: text(service.spec.as_ref().and_then(|spec| spec.ca_bundle.as_ref())),
        });
        let mutating = self.mutating.into_iter().flat_map(|found| found.webhooks.iter().flatten());
        let mutating = mutating.map(|webhook| ("MutatingWebhookConfiguration", &webhook.client_config));
        let validating = self.validating.into_iter().flat_map(|found| found.webhooks.iter().flatten());
        let validating = validating.map(|webhook| ("ValidatingWebhookConfiguration", &webhook.client_config));
        let webhooks = mutating.chain(validating).map(|(kind, client)| Entry {
            object: format!("{kind} {}", api::NAME),
            bundle: text(client.ca_bundle.as_ref()),
        });
        services.chain(webhooks).collect()
    }

    /// Where the API server cannot know `kubevirt-api`, in words: it trusts nobody there, or somebody else than elsewhere. While a
    /// certificate is replaced, the authority before the last one is still beside it.
    fn untrusted(&self) -> Vec<String> {
        let entries = self.entries();
        let named = entries.iter().find(|entry| self.answers(&entry.object));
        let current = named.or_else(|| entries.iter().find(|entry| !entry.bundle.is_empty()));
        let mut out = Vec::new();
        for entry in &entries {
            if entry.bundle.is_empty() {
                out.push(format!("the {} names no authority of kubevirt-api (caBundle)", entry.object));
            } else if let Some(current) = current
                && !agree(&entry.bundle, &current.bundle)
            {
                out.push(format!(
                    "the {} names another authority of kubevirt-api than the {} (caBundle)",
                    entry.object, current.object
                ));
            }
        }
        out.dedup();
        out
    }

    /// Whether the API server has reached `kubevirt-api` by this entry.
    fn answers(&self, object: &str) -> bool {
        self.services.iter().any(|service| {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            object.strip_prefix("APIService ") == Some(name) && available(service).is_ok_and(|known| known)
        })
    }

    /// What is wrong with an installation of which `kubevirt-api` answers, in words: it writes its authorities itself, and then
    /// the API server reaches it. Before that they are waited for.
    fn degraded(&self) -> Vec<String> {
        if self.api.is_none_or(|api| replicas(api) < 1) {
            return Vec::new();
        }
        let mut out = self.unasked();
        out.extend(self.untrusted());
        for service in self.services {
            if let Err(why) = available(service) {
                let name = service.metadata.name.as_deref().unwrap_or_default();
                out.push(format!("the API server cannot use the APIService {name}: {why}"));
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

/// The replicas that are available.
fn replicas(deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Whether the API server says that it reaches a service; `false` where it has not tried.
///
/// # Errors
/// Why it does not, in its words.
fn available(service: &APIService) -> Result<bool, String> {
    let status = service.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    match conditions.into_iter().find(|condition| condition.type_ == "Available") {
        Some(condition) if condition.status == "False" => {
            Err(plain(condition.message.as_deref().unwrap_or_default(), LONGEST))
        }
        Some(condition) => Ok(condition.status == "True"),
        None => Ok(false),
    }
}

/// Whether one of two bundles has the newest certificate of the other, which comes first.
fn agree(one: &str, other: &str) -> bool {
    const END: &str = "-----END CERTIFICATE-----";
    let newest = |bundle: &str| bundle.split_inclusive(END).next().unwrap_or_default().trim().to_owned();
    one.contains(&newest(other)) || other.contains(&newest(one))
}

fn name(deployment: &Deployment) -> &str {
    deployment.metadata.name.as_deref().unwrap_or_default()
}

/// What the cluster lacks without image volumes, and what to change.
pub const NO_IMAGE_VOLUMES: &str = "the API server takes image volumes out of pods: containers of the images, beside the launcher, \
    give out what is in them; to have volumes again switch the feature gate ImageVolume of API server and kubelets on (it is from \
    Kubernetes 1.35). Of every new pod it is asked again";

/// Whether the cluster mounts images into launcher pods: the KubeVirt object's condition `ImageVolumes`. By the last answer
/// about a pod with one; nothing before there was one.
pub fn images(kept: Option<bool>) -> Option<KubeVirtCondition> {
    let say = |status, reason, message| KubeVirtCondition::new("ImageVolumes", status, reason, message);
    Some(match kept? {
        false => say("False", "ApiServer", NO_IMAGE_VOLUMES),
        true => say("True", "Mounted", "the API server keeps image volumes in launcher pods"),
    })
}

/// The patch of the status of the KubeVirt object that says whether machines can run, how far the installation is, and
/// `problem`, what is wrong with its configuration; empty when the object says so already. On one machine there are no
/// `parts`. While machines end with the object, `ending` says which ones are waited for. `found` is what
/// [`images`] and [`crate::user_namespace::condition`] say.
pub fn cluster_status(
    cluster: &KubeVirt,
    version: &str,
    problem: Option<&str>,
    parts: Option<Parts<'_>>,
    ending: Option<&str>,
    found: Vec<KubeVirtCondition>,
    now: Timestamp,
) -> Vec<Value> {
    const ALL: (&str, &str) = ("AllComponentsReady", "All components are ready.");
    let mut new = cluster.clone();
    let (missing, pending, wrong) =
        parts.map_or_else(Default::default, |parts| (parts.missing(), parts.pending(), parts.degraded()));
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
    let wrong = Some(wrong.join("; ")).filter(|text| !text.is_empty());
    let (degraded, what) = match (problem, &wrong) {
        (None, None) => ("False", ALL),
        (Some(problem), _) => ("True", ("InvalidConfiguration", problem)),
        (None, Some(text)) => ("True", ("NotRegistered", text.as_str())),
    };
    for (kind, value, (reason, message)) in [
        ("Available", available, why),
        ("Progressing", progressing, how),
        ("Degraded", degraded, what),
        ("Created", "True", ("AllResourcesCreated", "All resources were created.")),
    ] {
        set(&mut status.conditions, KubeVirtCondition::new(kind, value, reason, message), now);
    }
    for condition in found {
        set(&mut status.conditions, condition, now);
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
        let (mutating, validating) = (
            serde_json::from_value(trusting(mutating, OLD)).unwrap(),
            serde_json::from_value(trusting(validating, OLD)).unwrap(),
        );
        let services = services(OLD, None);
        let parts = Parts {
            controller: Some(&controller),
            api: Some(&api),
            handler: Some(&handler),
            mutating: Some(&mutating),
            validating: Some(&validating),
            services: &services,
        };
        read(kind, Some(parts))
    }

    const OLD: &str = "-----BEGIN CERTIFICATE-----\nb2xk\n-----END CERTIFICATE-----\n";
    const NEW: &str = "-----BEGIN CERTIFICATE-----\nbmV3\n-----END CERTIFICATE-----\n";

    /// An object of ours with a bundle wherever it has one.
    fn trusting(mut object: Value, bundle: &str) -> Value {
        let bundle = json!(ByteString(bundle.as_bytes().to_vec()));
        if object["kind"] == "APIService" {
            object["spec"]["caBundle"] = bundle.clone();
        }
        for webhook in object["webhooks"].as_array_mut().into_iter().flatten() {
            webhook["clientConfig"]["caBundle"] = bundle.clone();
        }
        object
    }

    /// The APIServices, of which the API server may have said why it does not reach them.
    fn services(bundle: &str, why: Option<&str>) -> Vec<Arc<APIService>> {
        let one = |service| {
            let mut service = trusting(service, bundle);
            let status = if why.is_some() { "False" } else { "True" };
            service["status"] =
                json!({"conditions": [{"type": "Available", "status": status, "message": why}]});
            Arc::new(serde_json::from_value(service).unwrap())
        };
        api::services().into_iter().map(one).collect()
    }

    /// What a part of an installation says in which both replicas of everything are there.
    fn with(
        services: &[Arc<APIService>],
        mutating: &str,
        validating: &str,
        apis: i32,
    ) -> (String, String, String) {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "kubevirt-api", "generation": 1},
            "status": {"observedGeneration": 1, "availableReplicas": apis, "updatedReplicas": 2},
        }))
        .unwrap();
        let [first, second] = api::configurations();
        let first = serde_json::from_value(trusting(first, mutating)).unwrap();
        let second = serde_json::from_value(trusting(second, validating)).unwrap();
        let parts = Parts {
            api: Some(&deployment),
            mutating: Some(&first),
            validating: Some(&second),
            services,
            ..Parts::default()
        };
        let (degraded, why) = read("Degraded", Some(parts));
        (degraded, why, read("Available", Some(parts)).1)
    }

    #[test]
    fn whom_the_api_server_does_not_trust_it_cannot_ask() {
        let both = format!("{NEW}{OLD}");
        // As it is, and in the middle of a change of certificates.
        for bundles in [[OLD, OLD], [&both, OLD], [&both, &both]] {
            let (degraded, why, available) = with(&services(OLD, None), bundles[0], bundles[1], 2);
            assert_eq!(degraded, "False", "{why}");
            assert!(!available.contains("authority"), "{available}");
        }
        for (mutating, validating, words) in [
            ("", OLD, "the MutatingWebhookConfiguration kubevirt-api names no authority"),
            (OLD, NEW, "the ValidatingWebhookConfiguration kubevirt-api names another authority"),
        ] {
            let (degraded, why, available) = with(&services(OLD, None), mutating, validating, 2);
            assert_eq!(degraded, "True");
            assert!(why.contains(words) && available.contains(words), "{why} {available}");
            assert_eq!(why.matches("caBundle").count(), 1, "each is named once: {why}");
            // Until it answers, it is waited for.
            let (degraded, _, available) = with(&services(OLD, None), mutating, validating, 0);
            assert!(degraded == "False" && available.contains(words), "{degraded} {available}");
        }
        // Of two that are not the same the one is right by which the API server reaches it.
        let (_, why, _) = with(&services(NEW, None), OLD, OLD, 2);
        assert!(why.contains("MutatingWebhookConfiguration kubevirt-api names another authority"), "{why}");
        let (_, why, available) = with(&[], OLD, OLD, 2);
        let words = "there is no APIService v1.subresources.kubevirt.io: apply the manifest again";
        assert!(why.contains(words) && available.contains(words), "{why} {available}");
    }

    #[test]
    fn subresources_that_are_not_reached_are_said_and_machines_can_run() {
        let (degraded, why, available) = with(&services(OLD, Some("no route to host")), OLD, OLD, 2);
        assert_eq!(degraded, "True");
        assert!(
            why.contains("cannot use the APIService v1.subresources.kubevirt.io: no route to host"),
            "{why}"
        );
        assert!(!available.contains("APIService"), "{available}");
    }

    #[test]
    fn a_machine_that_nobody_is_asked_about_is_no_available_installation() {
        let [mutating, validating] = api::configurations();
        let mutating: MutatingWebhookConfiguration = serde_json::from_value(mutating).unwrap();
        let validating: ValidatingWebhookConfiguration = serde_json::from_value(validating).unwrap();
        let said = |mutating, validating| {
            let services = services(OLD, None);
            Parts { mutating, validating, services: &services, ..Parts::default() }.unasked().join("; ")
        };
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
        let ops = cluster_status(&cluster, "1", None, parts, None, Vec::new(), Timestamp::UNIX_EPOCH);
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
