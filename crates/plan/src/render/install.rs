//! Everything that an installation applies to a cluster.

use super::{rbac, scc};
use crate::config::{ClusterConfig, KUBEVIRT, NAMESPACE, World};
use crate::decide::uninstall::BLOCK;
use ferrovirt_kubernetes::subject;
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
        out.push(account(name));
    }
    // The node's role is the embedded default's, whose API server does what the machine API does elsewhere; the SCC webhook
    // has manifests of its own. Of the handler's two sides each has its world.
    let other = match config.world {
        World::Machine => Subject::Api,
        World::Cluster => Subject::NodeAgent,
    };
    let elsewhere = [Subject::Node, Subject::SccWebhook, Subject::MachineApi, other];
    for subject in Subject::ALL.into_iter().filter(|subject| !elsewhere.contains(subject)) {
        out.extend(rbac::roles(&grants, subject));
    }
    out.extend([scc::controller(&grants), scc::machine(&grants)]);
    out.push(kubevirt(config));
    out
}

/// An account of ours.
pub(super) fn account(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
    })
}

/// What the embedded default needs beside [`install`]: the role of its node agent as a kubelet and the platform's SCCs
/// with the roles that let everybody use the restricted ones. OKD has all of it; plain Kubernetes has the role.
pub fn embedded(config: &ClusterConfig) -> Vec<Value> {
    let grants = cluster_grants(config.profile);
    let mut out = rbac::roles(&grants, Subject::Node);
    out.extend(platform_sccs());
    out.push(user_role(scc::CONTROLLER));
    // Everybody may ask what they may do themselves; who edits a namespace may ask about others there.
    let of_all = [
        "podsecuritypolicyreviews",
        "podsecuritypolicyselfsubjectreviews",
        "podsecuritypolicysubjectreviews",
    ];
    out.push(reviews(
        "system:openshift:scc-reviews",
        &of_all,
        json!({"rbac.authorization.k8s.io/aggregate-to-edit": "true"}),
    ));
    let of_oneself = ["podsecuritypolicyselfsubjectreviews"];
    out.push(reviews("system:openshift:scc-self-reviews", &of_oneself, json!({})));
    out.push(for_everybody("scc-self-reviews"));
    out
}

/// The SCCs that a cluster has from the start, and the roles that let everybody use the restricted ones.
pub(super) fn platform_sccs() -> Vec<Value> {
    let defaults = ferrovirt_scc::defaults::all();
    let mut out: Vec<Value> = defaults.iter().filter_map(|scc| serde_json::to_value(scc).ok()).collect();
    out.extend(defaults.iter().map(|scc| user_role(scc.name())));
    out.extend(["scc:restricted-v2", "scc:restricted-v3"].map(for_everybody));
    out
}

/// A role that lets use one SCC. `kubectl create role` does not know the verb, so that there is one to bind for each.
fn user_role(scc: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": format!("system:openshift:scc:{scc}")},
        "rules": [{
            "apiGroups": ["security.openshift.io"],
            "resources": ["securitycontextconstraints"],
            "resourceNames": [scc],
            "verbs": ["use"],
        }],
    })
}

/// A role for asking which SCC would admit a pod.
fn reviews(name: &str, resources: &[&str], labels: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels},
        "rules": [{"apiGroups": ["security.openshift.io"], "resources": resources, "verbs": ["create"]}],
    })
}

/// Gives a role of the platform to everybody who is authenticated.
fn for_everybody(role: &str) -> Value {
    let role = format!("system:openshift:{role}");
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": subject::AUTHENTICATED},
        ],
    })
}

/// The configuration object, with what differs from the defaults.
pub fn kubevirt(config: &ClusterConfig) -> Value {
    let mut configuration = serde_json::Map::new();
    if config.profile != Profile::default() {
        configuration.insert("privilegeProfile".to_owned(), json!(config.profile.name()));
    }
    if config.use_emulation {
        configuration.insert("developerConfiguration".to_owned(), json!({"useEmulation": true}));
    }
    if let Some(group) = config.volume_group {
        configuration.insert("volumeGroup".to_owned(), json!(group));
    }
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": KUBEVIRT, "namespace": NAMESPACE},
        // Said, since upstream ends machines where it is absent.
        "spec": {"configuration": configuration, "uninstallStrategy": BLOCK},
    })
}
