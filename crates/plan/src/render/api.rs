//! `kubevirt-api` on a cluster: the webhooks that complete and check machines, their subresources as an aggregated API, and what
//! serves both.
//!
//! An API server that cannot reach a webhook refuses what it would have asked about (`failurePolicy: Fail`). So it is asked
//! about our own kinds alone, never about a deletion, and not about what must go on without it: changes by our own accounts,
//! and those of which nothing is decided.

use super::{handler, replicas};
use crate::config::NAMESPACE;
use crate::decide::subresource::{GROUP, VERSIONS};
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// Account, roles, Deployment, Service, disruption budget and both webhook configurations.
pub const NAME: &str = "kubevirt-api";
/// Secret with the certificate.
pub const SECRET: &str = "kubevirt-api-certificate";

/// Secrets with the certificate by which it calls handlers, and with the authority of that and theirs.
pub const CLIENT_SECRET: &str = "kubevirt-api-client";
/// See [`CLIENT_SECRET`].
pub const AUTHORITY_SECRET: &str = "kubevirt-handler-authority";

const PORT: u16 = 8443;
/// A person waits for it.
const TIMEOUT_SECONDS: u8 = 5;

/// What the pods need, in the order of its application: it has to be there before the webhooks are registered.
pub fn parts(image: &str) -> Vec<Value> {
    let metadata = json!({"name": NAME, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}});
    let labels = json!({"kubevirt.io": NAME});
    // The replicas fill them, and make one again that was deleted.
    let secret = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
        })
    };
    let mut out: Vec<Value> =
        [SECRET, AUTHORITY_SECRET, handler::CERTIFICATE, CLIENT_SECRET].map(secret).into();
    out.extend([
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": 443, "targetPort": PORT}]},
        }),
        replicas::deployment(NAME, container(image)),
        replicas::disruption_budget(NAME),
    ]);
    out
}

fn container(image: &str) -> Value {
    let probe =
        |path: &str| json!({"httpGet": {"path": path, "port": PORT, "scheme": "HTTPS"}, "periodSeconds": 5});
    json!({
        "name": NAME,
        "image": image,
        "args": [
            "serve",
            "api",
            format!("--listen=0.0.0.0:{PORT}"),
            format!("--self-signed-secret={SECRET}"),
        ],
        "ports": [{"containerPort": PORT, "name": "https"}],
        "livenessProbe": probe("/healthz"),
        "readinessProbe": probe("/readyz"),
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        },
    })
}

/// The names of the `APIServices`.
pub fn service_names() -> Vec<String> {
    VERSIONS.iter().map(|version| format!("{version}.{GROUP}")).collect()
}

/// What makes the cluster's API server forward requests for the subresources of machines. Priorities are upstream's; the group
/// is nobody else's.
pub fn services() -> Vec<Value> {
    let service = |version: &&str| {
        json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": format!("{version}.{GROUP}"), "labels": {"kubevirt.io": ""}},
            "spec": {
                "group": GROUP,
                "version": version,
                "groupPriorityMinimum": 1000,
                "versionPriority": 15,
                "service": {"name": NAME, "namespace": NAMESPACE, "port": 443},
            },
        })
    };
    VERSIONS.iter().map(service).collect()
}

/// The two webhook configurations; the webhooks have upstream's names, which people see in refusals.
pub fn configurations() -> [Value; 2] {
    let (machines, instances, kubevirts) = ("virtualmachines", "virtualmachineinstances", "kubevirts");
    let both = &["CREATE", "UPDATE"][..];
    let configuration = |kind: &str, webhooks: Vec<Value>| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": NAME, "labels": {"kubevirt.io": ""}},
            "webhooks": webhooks,
        })
    };
    [
        configuration(
            "MutatingWebhookConfiguration",
            [("virtualmachines-mutator", machines), ("virtualmachineinstances-mutator", instances)]
                .into_iter()
                .map(|(name, resource)| {
                    let mut webhook = webhook(name, "/mutate", both, resource);
                    if let Some(fields) = webhook.as_object_mut() {
                        // Another webhook may change the machine after this one.
                        fields.insert("reinvocationPolicy".to_owned(), json!("IfNeeded"));
                    }
                    webhook
                })
                .collect(),
        ),
        configuration(
            "ValidatingWebhookConfiguration",
            [
                ("virtualmachine-validator", both, machines),
                ("virtualmachineinstances-create-validator", &["CREATE"], instances),
                ("virtualmachineinstances-update-validator", &["UPDATE"], instances),
                ("kubevirt-create-validator", &["CREATE"], kubevirts),
                ("kubevirt-validator", &["UPDATE"], kubevirts),
            ]
            .into_iter()
            .map(|(name, operations, resource)| webhook(name, "/validate", operations, resource))
            .collect(),
        ),
    ]
}

fn webhook(name: &str, path: &str, operations: &[&str], resource: &str) -> Value {
    let rule = json!({
        "operations": operations,
        "apiGroups": ["kubevirt.io"],
        "apiVersions": ["v1"],
        "resources": [resource],
        "scope": "Namespaced",
    });
    json!({
        "name": format!("{name}.kubevirt.io"),
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": NAME, "namespace": NAMESPACE, "path": path, "port": 443}},
        // A machine that nobody has looked at would get what its author may not have.
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": TIMEOUT_SECONDS,
        "rules": [rule],
        "matchConditions": conditions(resource),
    })
}

/// What is not asked about: changes by our own accounts (states of machines, finalizers), and changes of nothing that is
/// decided about. So a deletion ends, and we can be removed, while nobody answers.
fn conditions(resource: &str) -> Value {
    let accounts = ["kubevirt-controller", "kubevirt-handler", NAME];
    let accounts = accounts.map(|name| format!("'{}'", subject::service_account(NAMESPACE, name))).join(", ");
    let own = format!("request.userInfo.username in [{accounts}]");
    // The controller makes the configuration where there is none, perhaps before this answers.
    let others = match resource {
        "kubevirts" => format!("!({own})"),
        _ => format!("!(request.operation == 'UPDATE' && {own})"),
    };
    let differs = |of: &str, field: &str| format!("object{of}.?{field} != oldObject{of}.?{field}");
    let decided = [
        differs("", "spec"),
        differs("", "status"),
        differs(".metadata", "annotations"),
        differs(".metadata", "labels"),
    ]
    .join(" || ");
    json!([
        {"name": "others", "expression": others},
        {"name": "decided", "expression": format!("request.operation != 'UPDATE' || {decided}")},
    ])
}
