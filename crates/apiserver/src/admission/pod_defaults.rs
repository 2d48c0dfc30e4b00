//! The defaults that Kubernetes' API gives a pod.

use ferrovirt_kubernetes::json::{self, default, text};
use serde_json::{Value, json};

use super::items_mut;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills in what the pod leaves open.
pub(super) fn apply(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    default(spec, "enableServiceLinks", true);
    default(spec, "priority", 0);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in LISTS {
        for item in items_mut(spec, list) {
            container(item, host_network && list != "ephemeralContainers", list != "ephemeralContainers");
        }
    }
    for item in items_mut(spec, "volumes") {
        volume(item);
    }
    tolerations(spec);
}

fn container(container: &mut Value, host_network: bool, with_resources: bool) {
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(container, "image"));
    default(container, "imagePullPolicy", policy);
    if with_resources {
        default(container, "resources", json!({}));
        requests_from_limits(container);
    }
    for port in items_mut(container, "ports") {
        default(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for variable in items_mut(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|p| p.is_object()) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                default(probe, field, value);
            }
            if let Some(http) = probe.get_mut("httpGet").filter(|h| h.is_object()) {
                default(http, "path", "/");
                default(http, "scheme", "HTTP");
            }
        }
    }
}

/// `Always` for images that can change under their name.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// A limit without a request is also the request.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else { return };
    let Some(limits) = json::fields(resources, "limits").cloned() else { return };
    default(resources, "requests", json!({}));
    if let Some(requests) = resources.get_mut("requests") {
        for (name, amount) in limits {
            default(requests, &name, amount);
        }
    }
}

fn volume(volume: &mut Value) {
    let fields = volume.as_object().map_or(0, serde_json::Map::len);
    if fields < 2 {
        default(volume, "emptyDir", json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(kind).filter(|s| s.is_object()) {
            default(source, "defaultMode", 0o644);
        }
    }
    for source in volume.get_mut("projected").into_iter().flat_map(|p| items_mut(p, "sources")) {
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
            default(token, "expirationSeconds", 3600);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|p| p.is_object()) {
        default(path, "type", "");
    }
    if let Some(image) = volume.get_mut("image").filter(|i| i.is_object()) {
        let policy = pull_policy(text(image, "reference"));
        default(image, "pullPolicy", policy);
    }
}

/// Five minutes of grace when the node is away, unless the pod says something about these taints itself.
fn tolerations(spec: &mut Value) {
    let mut missing = Vec::new();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let said = json::list(spec, "tolerations").any(|t| {
            let (k, effect) = (text(t, "key"), text(t, "effect"));
            (k == key || k.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !said {
            missing.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
    if !missing.is_empty() {
        default(spec, "tolerations", json!([]));
        if let Some(Value::Array(list)) = spec.get_mut("tolerations") {
            list.extend(missing);
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn quality_of_service(pod: &Value) -> &'static str {
    let Some(spec) = pod.get("spec") else { return "BestEffort" };
    let (mut any, mut guaranteed) = (false, true);
    for container in ["initContainers", "containers"].into_iter().flat_map(|list| json::list(spec, list)) {
        let get = |kind: &str, name: &str| container.pointer(&format!("/resources/{kind}/{name}"));
        for name in ["cpu", "memory"] {
            let (request, limit) = (get("requests", name), get("limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_gets_kubernetes_defaults() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "a/b", "ports": [{"containerPort": 80}]}],
                                      "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]}});
        apply(&mut pod);
        let expected = json!({"spec": {
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true,
            "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
            "containers": [{"name": "c", "image": "a/b", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}});
        assert_eq!(pod, expected);
        let again = pod.clone();
        apply(&mut pod);
        assert_eq!(pod, again, "defaulting twice changes nothing");
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("h:5000/a", "Always"),
            ("h:5000/a:1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
            ("", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn limits_become_requests_and_decide_the_class() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}});
        assert_eq!(quality_of_service(&json!({"spec": {"containers": [{}]}})), "BestEffort");
        apply(&mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"]["requests"],
            json!({"cpu": "1", "memory": "1Gi"})
        );
        assert_eq!(quality_of_service(&pod), "Guaranteed");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("500m");
        assert_eq!(quality_of_service(&pod), "Burstable");
    }
}
