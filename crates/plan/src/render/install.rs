//! Everything that an installation applies to a cluster.

use super::{rbac, scc};
use crate::config::{ClusterConfig, KUBEVIRT, NAMESPACE};
use ferrovirt_model::Profile;
use ferrovirt_privilege::{Subject, cluster_grants};
use serde_json::{Value, json};

/// The manifests in the order of their application: definitions, the namespace, accounts, roles, SCCs, configuration.
///
/// Roles and SCC are the same in both profiles: the profile of a running cluster can be changed.
pub fn install(config: &ClusterConfig) -> Vec<Value> {
    let grants = cluster_grants(config.profile);
    let mut out: Vec<Value> =
        ferrovirt_api::crd().iter().filter_map(|crd| serde_json::to_value(crd).ok()).collect();
    out.push(json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"kubevirt.io": ""}},
    }));
    for name in ["kubevirt-controller", "kubevirt-handler"] {
        out.push(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
        }));
    }
    for subject in Subject::ALL.into_iter().filter(|subject| *subject != Subject::Node) {
        out.extend(rbac::roles(&grants, subject));
    }
    out.extend([scc::controller(&grants), scc::machine(&grants)]);
    out.push(kubevirt(config));
    out
}

/// What the embedded default needs beside [`install`]: the role of its node agent as a kubelet and the platform's SCCs
/// with the roles that let everybody use the restricted ones. OKD has all of it; plain Kubernetes has the role.
pub fn embedded(config: &ClusterConfig) -> Vec<Value> {
    let grants = cluster_grants(config.profile);
    let mut out = rbac::roles(&grants, Subject::Node);
    let defaults = ferrovirt_scc::defaults::all();
    out.extend(defaults.iter().filter_map(|scc| serde_json::to_value(scc).ok()));
    out.extend(defaults.iter().map(|scc| {
        let name = scc.name();
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": format!("system:openshift:scc:{name}")},
            "rules": [{
                "apiGroups": ["security.openshift.io"],
                "resources": ["securitycontextconstraints"],
                "resourceNames": [name],
                "verbs": ["use"],
            }],
        })
    }));
    out.extend(["restricted-v2", "restricted-v3"].map(|name| {
        let role = format!("system:openshift:scc:{name}");
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"},
            ],
        })
    }));
    out
}

/// The configuration object, with what differs from the defaults.
fn kubevirt(config: &ClusterConfig) -> Value {
    let mut configuration = serde_json::Map::new();
    if config.profile != Profile::default() {
        configuration.insert("privilegeProfile".to_owned(), json!(config.profile.name()));
    }
    if config.use_emulation {
        configuration.insert("developerConfiguration".to_owned(), json!({"useEmulation": true}));
    }
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": KUBEVIRT, "namespace": NAMESPACE},
        "spec": {"configuration": configuration},
    })
}
