//! When admission has nothing to say.

use ferrovirt_kubernetes::object;
use serde_json::{Map, Value};

use crate::names::POD_NETWORKS;
use crate::pod::equal;

/// Namespaces whose pods are not looked at, by name.
const EXEMPT: [&str; 6] =
    ["default", "kube-system", "kube-public", "openshift", "openshift-node", "openshift-infra"];
/// Sub-resources that cannot change what a pod may do.
const SUBRESOURCES: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Whether requests on this sub-resource are let through.
pub(crate) fn subresource(name: &str) -> bool {
    SUBRESOURCES.contains(&name)
}

/// Whether the cluster's wiring keeps admission away from a namespace: by its name, by the label
/// `openshift.io/run-level` (`0` or `1`), or by `security.openshift.io/disable-securitycontextconstraints=true`.
/// This is the caller's gate; [`crate::Constraints`] looks at every pod that it is given.
pub fn exempt_namespace(name: &str, namespace: Option<&Value>) -> bool {
    let label = |key: &str| object::label(namespace?, key);
    EXEMPT.contains(&name)
        || matches!(label("openshift.io/run-level"), Some("0" | "1"))
        || label("security.openshift.io/disable-securitycontextconstraints") == Some("true")
}

/// Whether an update changed nothing that could matter: only scheduling gates, the network annotation, or the
/// metadata that controllers keep for themselves.
pub fn nothing_relevant_changed(old: &Value, new: &Value) -> bool {
    equal::specs(old, new) && annotations_same(old, new) && equal::pods(old, new)
}

fn annotations(pod: &Value) -> Option<&Map<String, Value>> {
    pod.get("metadata")?.get("annotations")?.as_object()
}

fn annotations_same(old: &Value, new: &Value) -> bool {
    let none = Map::new();
    let (old, new) = (annotations(old).unwrap_or(&none), annotations(new).unwrap_or(&none));
    old.keys().chain(new.keys()).filter(|k| *k != POD_NETWORKS).all(|key| old.get(key) == new.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_counts_as_a_change() {
        let pod = |annotations: Value, labels: Value| json!({"metadata": {"annotations": annotations, "labels": labels}, "spec": {"containers": []}});
        let base = pod(json!({}), json!({}));
        assert!(nothing_relevant_changed(&base, &pod(json!({POD_NETWORKS: "x"}), json!({}))));
        assert!(!nothing_relevant_changed(&base, &pod(json!({"a": ""}), json!({}))));
        assert!(!nothing_relevant_changed(&base, &pod(json!({}), json!({"a": "b"}))));
        assert!(nothing_relevant_changed(&base, &json!({"metadata": {"finalizers": ["x"]}, "spec": {}})));
        assert!(!nothing_relevant_changed(
            &base,
            &json!({"metadata": {}, "spec": {}, "status": {"phase": "Running"}})
        ));
    }

    #[test]
    fn namespaces_out_of_reach() {
        let ns = |labels: Value| json!({"metadata": {"labels": labels}});
        assert!(exempt_namespace("kube-system", None));
        assert!(!exempt_namespace("kube-node-lease", None));
        assert!(exempt_namespace("x", Some(&ns(json!({"openshift.io/run-level": "1"})))));
        assert!(!exempt_namespace("x", Some(&ns(json!({"openshift.io/run-level": ""})))));
        let label = "security.openshift.io/disable-securitycontextconstraints";
        assert!(exempt_namespace("x", Some(&ns(json!({label: "true"})))));
        assert!(!exempt_namespace("x", Some(&ns(json!({label: "True"})))));
    }
}
