//! Whether a pod fits a node: pure, and in the words of the scheduler's messages.

use std::collections::BTreeMap;

use ferrovirt_api::quantity::Amount;
use serde_json::Value;

use super::object::{list, text};

/// Amounts by resource name, in thousandths of the resource's unit (bytes, CPUs, pieces).
pub(super) type Amounts = BTreeMap<String, i128>;

fn amounts(map: Option<&Value>) -> Amounts {
    let fields = map.and_then(Value::as_object).into_iter().flatten();
    fields
        .filter_map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((name.clone(), Amount::parse(&text).ok()?.thousandths()))
        })
        .collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

/// What a pod asks for: the sum of its containers, at least its largest init container, its overhead, and one place.
pub(super) fn requests(pod: &Value) -> Amounts {
    let mut sum = Amounts::new();
    for container in list(pod, "/spec/containers") {
        add(&mut sum, &amounts(container.pointer("/resources/requests")));
    }
    for container in list(pod, "/spec/initContainers") {
        let one = amounts(container.pointer("/resources/requests"));
        if text(container, "/restartPolicy") == "Always" {
            add(&mut sum, &one);
            continue;
        }
        for (name, amount) in one {
            let have = sum.entry(name).or_default();
            *have = (*have).max(amount);
        }
    }
    add(&mut sum, &amounts(pod.pointer("/spec/overhead")));
    add(&mut sum, &Amounts::from([("pods".to_owned(), 1000)]));
    sum
}

/// Whether a pod on a node still takes from it.
pub(super) fn takes(pod: &Value) -> bool {
    !["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
}

/// Why the pod cannot go to the node, each as it stands in the message after the number of nodes; empty when it can.
pub(super) fn refusals(pod: &Value, node: &Value, used: &Amounts) -> Vec<String> {
    let mut out = Vec::new();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true))
        && !tolerates(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule")
    {
        out.push("node(s) were unschedulable".to_owned());
    }
    let ready = list(node, "/status/conditions").find(|c| text(c, "/type") == "Ready");
    if ready.is_none_or(|ready| text(ready, "/status") != "True") {
        out.push("node(s) had untolerated taint(s) {node.kubernetes.io/not-ready: }".to_owned());
    }
    for taint in list(node, "/spec/taints") {
        let (key, value, effect) = (text(taint, "/key"), text(taint, "/value"), text(taint, "/effect"));
        // The two above are about the same facts.
        let own = key == "node.kubernetes.io/unschedulable" || key == "node.kubernetes.io/not-ready";
        if effect != "PreferNoSchedule" && !own && !tolerates(pod, key, value, effect) {
            out.push(format!("node(s) had untolerated taint(s) {{{key}: {value}}}"));
        }
    }
    if !selected(pod, node) {
        out.push("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let allocatable = amounts(node.pointer("/status/allocatable"));
    for (name, needed) in requests(pod).iter().filter(|(_, needed)| **needed > 0) {
        let total = allocatable.get(name).copied().unwrap_or(0);
        let free = total.saturating_sub(used.get(name).copied().unwrap_or(0));
        if *needed > free {
            out.push(insufficient(name, *needed, free.max(0), total));
        }
    }
    out
}

fn insufficient(name: &str, needed: i128, free: i128, total: i128) -> String {
    if name == "pods" {
        return "Too many pods".to_owned();
    }
    let Some(size) = name.strip_prefix("hugepages-") else { return format!("Insufficient {name}") };
    let Some(page) = Amount::parse(size).ok().map(Amount::thousandths).filter(|page| *page > 0) else {
        return format!("Insufficient {name}");
    };
    let pages = |amount: i128| amount.saturating_add(page - 1) / page;
    let (needed, free, total) = (pages(needed), free / page, total / page);
    let kilobytes = page / 1000 / 1024;
    let file = if size == "2Mi" {
        "/proc/sys/vm/nr_hugepages".to_owned()
    } else {
        format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB/nr_hugepages")
    };
    format!(
        "Insufficient {name} ({needed} pages needed, {free} of {total} free; reserve them on the node: echo {} > {file})",
        total.saturating_add(needed).saturating_sub(free)
    )
}

fn tolerates(pod: &Value, key: &str, value: &str, effect: &str) -> bool {
    list(pod, "/spec/tolerations").any(|t| {
        let (k, e) = (text(t, "/key"), text(t, "/effect"));
        let exists = text(t, "/operator") == "Exists";
        (e.is_empty() || e == effect)
            && ((k.is_empty() && exists) || (k == key && (exists || text(t, "/value") == value)))
    })
}

/// Node selector and required node affinity.
fn selected(pod: &Value, node: &Value) -> bool {
    let label = |key: &str| node.pointer("/metadata/labels").and_then(|l| l.get(key)).and_then(Value::as_str);
    let selector = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
    if !selector.into_iter().flatten().all(|(key, value)| label(key) == value.as_str()) {
        return false;
    }
    let affinity = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let Some(required) = pod.pointer(affinity).filter(|r| !r.is_null()) else { return true };
    let name = text(node, "/metadata/name");
    list(required, "/nodeSelectorTerms").any(|term| {
        let expressions = list(term, "/matchExpressions").count() + list(term, "/matchFields").count();
        expressions > 0
            && list(term, "/matchExpressions").all(|e| holds(e, label(text(e, "/key"))))
            && list(term, "/matchFields").all(|e| text(e, "/key") == "metadata.name" && holds(e, Some(name)))
    })
}

fn holds(expression: &Value, have: Option<&str>) -> bool {
    let listed = || list(expression, "/values").any(|v| v.as_str() == have && have.is_some());
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let bound = || number(list(expression, "/values").next().and_then(Value::as_str));
    match text(expression, "/operator") {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => number(have).zip(bound()).is_some_and(|(have, bound)| have > bound),
        "Lt" => number(have).zip(bound()).is_some_and(|(have, bound)| have < bound),
        _ => false,
    }
}

/// Sums the requests of pods.
pub(super) fn sum<'a>(pods: impl Iterator<Item = &'a Value>) -> Amounts {
    let mut total = Amounts::new();
    for pod in pods {
        add(&mut total, &requests(pod));
    }
    total
}

/// What is taken when this pod comes in addition.
pub(super) fn sum_of(taken: &Amounts, pod: &Value) -> Amounts {
    let mut total = taken.clone();
    add(&mut total, &requests(pod));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Value {
        json!({"metadata": {"name": "n", "labels": {"zone": "a"}},
               "status": {"conditions": [{"type": "Ready", "status": "True"}],
                          "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "2", "hugepages-2Mi": "256Mi",
                                          "devices.kubevirt.io/kvm": "1k"}}})
    }

    fn pod(requests: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
    }

    fn check(pod: &Value, used: &Amounts, expected: &[&str]) {
        assert_eq!(refusals(pod, &node(), used), expected);
    }

    #[test]
    fn resources_must_fit_what_is_left() {
        let none = Amounts::new();
        check(&pod(json!({"cpu": "1500m", "memory": "1Gi", "devices.kubevirt.io/kvm": "1"})), &none, &[]);
        check(
            &pod(json!({"cpu": "3", "memory": "1Ti"})),
            &none,
            &["Insufficient cpu", "Insufficient memory"],
        );
        check(
            &pod(json!({"devices.kubevirt.io/tun": "1"})),
            &none,
            &["Insufficient devices.kubevirt.io/tun"],
        );
        let used = sum([pod(json!({"cpu": "1"})), pod(json!({}))].iter());
        check(&pod(json!({"cpu": "1500m"})), &used, &["Insufficient cpu", "Too many pods"]);
    }

    #[test]
    fn missing_huge_pages_are_counted_and_the_remedy_is_named() {
        let used = sum(std::iter::once(&pod(json!({"hugepages-2Mi": "64Mi"}))));
        check(
            &pod(json!({"hugepages-2Mi": "512Mi"})),
            &used,
            &[
                "Insufficient hugepages-2Mi (256 pages needed, 96 of 128 free; reserve them on the node: echo 288 > /proc/sys/vm/nr_hugepages)",
            ],
        );
        check(
            &pod(json!({"hugepages-1Gi": "2Gi"})),
            &Amounts::new(),
            &[
                "Insufficient hugepages-1Gi (2 pages needed, 0 of 0 free; reserve them on the node: echo 2 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages)",
            ],
        );
    }

    #[test]
    fn taints_selectors_and_affinity_are_respected() {
        let none = Amounts::new();
        let mut wrong = pod(json!({}));
        wrong["spec"]["nodeSelector"] = json!({"zone": "b"});
        check(&wrong, &none, &["node(s) didn't match Pod's node affinity/selector"]);
        let mut near = pod(json!({}));
        near["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}});
        check(&near, &none, &[]);
        let mut tainted = node();
        tainted["spec"] = json!({"unschedulable": true, "taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "gpu", "value": "x", "effect": "NoSchedule"}]});
        assert_eq!(
            refusals(&pod(json!({})), &tainted, &none),
            ["node(s) were unschedulable", "node(s) had untolerated taint(s) {gpu: x}"]
        );
        let mut tolerant = pod(json!({}));
        tolerant["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        assert_eq!(refusals(&tolerant, &tainted, &none), [""; 0]);
    }
}
