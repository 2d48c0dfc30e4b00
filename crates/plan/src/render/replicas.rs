//! What runs as several replicas of one pod: the parts of the control plane.

use crate::config::NAMESPACE;
use serde_json::{Value, json};

/// Two replicas, on different nodes where there are such, in pods that anybody may have, under the account of their name.
pub(super) fn deployment(name: &str, container: Value) -> Value {
    let labels = json!({"kubevirt.io": name});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
        "spec": {
            "replicas": 2,
            // One is enough for it to be available.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": name,
                    "enableServiceLinks": false,
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
                            "labelSelector": {"matchLabels": labels},
                        },
                    }]}},
                    "containers": [container],
                },
            },
        },
    })
}

/// A drain takes one replica at a time.
pub(super) fn disruption_budget(name: &str) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"kubevirt.io": name}}},
    })
}
