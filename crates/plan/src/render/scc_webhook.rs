//! What brings SCC admission to a cluster that has none: `deploy/scc-webhook.yaml`. The definition of SCCs comes before it,
//! in a file of its own ([`super::scc_crd`]): kubectl knows a kind only after its definition is there.

use super::{applicable, cluster, install, rbac};
use ferrovirt_model::Profile;
use ferrovirt_privilege::{Subject, cluster_grants};
use serde_json::{Value, json};

/// Namespace, account, role, Deployment and Service.
pub const NAME: &str = "scc-webhook";
/// Both webhook configurations.
pub const CONFIGURATION: &str = "scc-webhook";
/// Secret with the certificate.
pub const SECRET: &str = "scc-webhook-certificate";
/// Config map with the blocks of user ids that were given out.
pub const LEDGER: &str = "scc-uid";
/// Name of the definition of SCCs.
pub const CRD: &str = "securitycontextconstraints.security.openshift.io";
/// Label and value that distinguish our definition from the cluster's own.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "ferrovirt");

const PORT: u16 = 8443;
/// Longer than a pod waits for the values of its namespace.
const TIMEOUT_SECONDS: u8 = 15;
/// Namespaces whose pods are never sent, so that the cluster itself does not depend on the webhook.
const EXEMPT: [&str; 4] = ["kube-node-lease", "kube-public", "kube-system", NAME];

/// The manifests in the order of their application; the webhook is registered last. `image_prefix`: registry and path of the
/// image.
pub fn manifests(image_prefix: &str) -> Vec<Value> {
    let grants = cluster_grants(Profile::default());
    let metadata = json!({"name": NAME, "namespace": NAME});
    let mut out = vec![
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAME, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
    ];
    out.extend(rbac::roles(&grants, Subject::SccWebhook));
    out.extend(install::platform_sccs());
    out.extend([
        // Made here so that the account needs no right to make secrets and config maps; filled by the webhook.
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LEDGER, "namespace": NAME}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAME}}),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": NAME}, "ports": [{"port": 443, "targetPort": PORT}]},
        }),
        deployment(&cluster::image(image_prefix, "ferrovirt")),
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": NAME}}},
        }),
    ]);
    out.extend(configurations());
    applicable(out)
}

fn deployment(image: &str) -> Value {
    let probe =
        |path: &str| json!({"httpGet": {"path": path, "port": PORT, "scheme": "HTTPS"}, "periodSeconds": 5});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAME},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "serviceAccountName": NAME,
                    "priorityClassName": "system-cluster-critical",
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"app": NAME}},
                        },
                    }]}},
                    "containers": [{
                        "name": NAME,
                        "image": image,
                        "args": [
                            "serve",
                            "webhook",
                            format!("--listen=0.0.0.0:{PORT}"),
                            format!("--self-signed-secret={SECRET}"),
                            "--ranges",
                        ],
                        "ports": [{"containerPort": PORT}],
                        "livenessProbe": probe("/healthz"),
                        "readinessProbe": probe("/readyz"),
                        "resources": {
                            "requests": {"cpu": "50m", "memory": "32Mi"},
                            "limits": {"memory": "192Mi"},
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": {"drop": ["ALL"]},
                            "readOnlyRootFilesystem": true,
                        },
                    }],
                },
            },
        },
    })
}

/// The two webhook configurations. Writes of a pod's status are another resource and never sent.
pub fn configurations() -> [Value; 2] {
    let rule = |operations: &[&str], group: &str, resources: &[&str], scope: &str| json!({"operations": operations, "apiGroups": [group], "apiVersions": ["v1"], "resources": resources, "scope": scope});
    let pods = json!([
        rule(&["CREATE", "UPDATE"], "", &["pods"], "Namespaced"),
        rule(&["UPDATE"], "", &["pods/ephemeralcontainers", "pods/resize"], "Namespaced"),
    ]);
    let objects = json!([rule(
        &["CREATE", "UPDATE"],
        "security.openshift.io",
        &["securitycontextconstraints"],
        "Cluster",
    )]);
    let entry = json!([rule(&["CONNECT"], "", &["pods/exec", "pods/attach"], "Namespaced")]);
    let webhook = |name: &str, path: &str, rules: &Value, namespaced: bool| {
        let mut webhook = json!({
            "name": format!("{name}.scc.ferrovirt.io"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": NAME, "namespace": NAME, "path": path, "port": 443}},
            // A pod that nobody judged must not run: anybody who can stop the webhook could run anything.
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT_SECONDS,
            "rules": rules,
        });
        if let (true, Value::Object(fields)) = (namespaced, &mut webhook) {
            fields.insert("namespaceSelector".to_owned(), selector());
        }
        webhook
    };
    let mut first = webhook("pods", "/mutate/pods", &pods, true);
    if let Value::Object(fields) = &mut first {
        // Another webhook may change the pod after this one.
        fields.insert("reinvocationPolicy".to_owned(), json!("IfNeeded"));
    }
    let configuration = |kind: &str, webhooks: Vec<Value>| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": CONFIGURATION, "labels": {MANAGED_BY.0: MANAGED_BY.1}},
            "webhooks": webhooks,
        })
    };
    let object = |pass: &str| format!("/{pass}/securitycontextconstraints");
    [
        configuration(
            "MutatingWebhookConfiguration",
            vec![first, webhook("objects", &object("mutate"), &objects, false)],
        ),
        configuration(
            "ValidatingWebhookConfiguration",
            vec![
                webhook("pods", "/validate/pods", &pods, true),
                webhook("entry", "/validate/entry", &entry, true),
                webhook("objects", &object("validate"), &objects, false),
            ],
        ),
    ]
}

/// Which namespaces are not exempt: by name, and by the labels that keep SCC admission away on OKD too.
fn selector() -> Value {
    json!({"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": EXEMPT},
        {"key": "openshift.io/run-level", "operator": "NotIn", "values": ["0", "1"]},
        {"key": "security.openshift.io/disable-securitycontextconstraints", "operator": "NotIn", "values": ["true"]},
    ]})
}
