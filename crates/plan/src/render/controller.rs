//! `kubevirt-controller` on a cluster: what is applied for its pods beside its account and roles.

use super::replicas;
use crate::config::NAMESPACE;
use ferrovirt_model::Profile;
use serde_json::{Value, json};

/// Account, roles, Deployment, disruption budget and Lease.
pub const NAME: &str = "kubevirt-controller";
/// Where the kubelet asks whether a replica is ready.
const PORT: u16 = 8080;

/// The Lease that says which replica works. It is made here so that the account needs no right to make any; the replicas
/// fill it.
pub fn lease() -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
    })
}

/// Of its replicas one works; `image` is the control plane's and `launcher` that of launcher pods. Profile and group are those
/// of the KubeVirt object that is made where there is none.
pub fn deployment(image: &str, launcher: &str, profile: Profile, volume_group: Option<u32>) -> Value {
    let mut args = vec![
        "serve".to_owned(),
        "controller".to_owned(),
        format!("--listen=0.0.0.0:{PORT}"),
        format!("--launcher-image={launcher}"),
        format!("--profile={}", profile.name()),
    ];
    args.extend(volume_group.map(|group| format!("--volume-group={group}")));
    let container = json!({
        "name": NAME,
        "image": image,
        "args": args,
        "ports": [{"containerPort": PORT, "name": "health"}],
        // And no probe of liveness: a process that has lost the Lease ends by itself, and anyone who reaches the port could
        // keep others from it.
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": PORT}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        },
    });
    replicas::deployment(NAME, container)
}
