//! Whether a pod fits a node, as the scheduler asks before it binds the pod, and as the node asks again: anybody who makes a
//! pod can name its node and pass the scheduler by.

use std::collections::BTreeMap;
use std::fmt;

use ferrovirt_kubernetes::json::{self, list, text};
use ferrovirt_kubernetes::object;
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_kubernetes::selector::Requirement;
use serde_json::Value;

/// Amounts by resource name, in thousandths of the resource's unit (bytes, CPUs, pieces).
pub type Amounts = BTreeMap<String, i128>;

fn amounts(object: &Value, place: &str) -> Amounts {
    let fields = json::entries(object, place);
    fields
        .filter_map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((name.clone(), Amount::parse(&text).ok()?.thousandths()))
        })
        .collect()
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

/// What a pod asks for: the sum of its containers, at least its largest init container, its overhead, and one place.
pub fn requests(pod: &Value) -> Amounts {
    let mut sum = Amounts::new();
    for container in list(pod, "/spec/containers") {
        add(&mut sum, &amounts(container, "/resources/requests"));
    }
    for container in list(pod, "/spec/initContainers") {
        let requested = amounts(container, "/resources/requests");
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, &requested);
            continue;
        }
        for (name, amount) in requested {
            let have = sum.entry(name).or_default();
            *have = (*have).max(amount);
        }
    }
    add(&mut sum, &amounts(pod, "/spec/overhead"));
    add(&mut sum, &Amounts::from([("pods".to_owned(), 1000)]));
    sum
}

/// Whether a pod on a node still takes from it.
pub fn takes(pod: &Value) -> bool {
    !["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
}

/// Why a pod does not fit a node. Displays as the scheduler words it, after the number of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The node takes no new pods.
    Unschedulable,
    /// The node is not ready.
    NotReady,
    /// A taint that the pod does not tolerate.
    Taint {
        /// The taint's key.
        key: String,
        /// The taint's value.
        value: String,
    },
    /// Node selector or required node affinity.
    Selector,
    /// Too little is left of a resource. Amounts in thousandths.
    Resource {
        /// Name of the resource.
        name: String,
        /// What the pod asks for.
        needed: i128,
        /// What other pods have.
        used: i128,
        /// What there is.
        total: i128,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::NotReady => {
                f.write_str("node(s) had untolerated taint(s) {node.kubernetes.io/not-ready: }")
            }
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint(s) {{{key}: {value}}}"),
            Self::Selector => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Resource { name, needed, used, total } => {
                f.write_str(&insufficient(name, *needed, total.saturating_sub(*used).max(0), *total))
            }
        }
    }
}

/// Why the scheduler cannot send the pod to the node; empty when it can.
pub fn misfits(pod: &Value, node: &Value, used: &Amounts) -> Vec<Misfit> {
    let mut out = Vec::new();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true))
        && !tolerates(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule")
    {
        out.push(Misfit::Unschedulable);
    }
    let ready = list(node, "/status/conditions").find(|c| text(c, "type") == "Ready");
    if ready.is_none_or(|ready| text(ready, "status") != "True") {
        out.push(Misfit::NotReady);
    }
    out.extend(taints(pod, node, |key, effect| {
        // The two above are about the same facts.
        let own = key == "node.kubernetes.io/unschedulable" || key == "node.kubernetes.io/not-ready";
        effect != "PreferNoSchedule" && !own
    }));
    if !selected(pod, node) {
        out.push(Misfit::Selector);
    }
    out.extend(lacks(pod, node, used));
    out
}

/// The taints, of those that `count` by key and effect, that the pod does not tolerate.
fn taints(pod: &Value, node: &Value, count: impl Fn(&str, &str) -> bool) -> Vec<Misfit> {
    let mut out = Vec::new();
    for taint in list(node, "/spec/taints") {
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        if count(key, effect) && !tolerates(pod, key, value, effect) {
            out.push(Misfit::Taint { key: key.to_owned(), value: value.to_owned() });
        }
    }
    out
}

fn lacks(pod: &Value, node: &Value, used: &Amounts) -> Vec<Misfit> {
    let allocatable = amounts(node, "/status/allocatable");
    let mut out = Vec::new();
    for (name, needed) in requests(pod).into_iter().filter(|(_, needed)| *needed > 0) {
        let total = allocatable.get(&name).copied().unwrap_or(0);
        let used = used.get(&name).copied().unwrap_or(0);
        if needed > total.saturating_sub(used) {
            out.push(Misfit::Resource { name, needed, used, total });
        }
    }
    out
}

/// A pod that its node does not take: reason and message of its status, in the words of a kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A word in CamelCase, such as `OutOfcpu`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Why the node itself does not take a pod that was bound to it, as a kubelet decides: resources, then selector and
/// affinity, then taints with the effect NoExecute. That it is cordoned or not ready is no reason there.
pub fn rejection(pod: &Value, node: &Value, used: &Amounts) -> Option<Rejection> {
    if let Some(Misfit::Resource { name, needed, used, total }) = lacks(pod, node, used).into_iter().next() {
        // A kubelet counts processors in thousandths, everything else in whole units.
        let unit = if name == "cpu" { 1 } else { 1000 };
        let (needed, used, total) = (needed / unit, used / unit, total / unit);
        return Some(Rejection {
            reason: format!("OutOf{name}"),
            message: format!(
                "Node didn't have enough resource: {name}, requested: {needed}, used: {used}, capacity: {total}"
            ),
        });
    }
    let predicate = |name: &str, misfit: &Misfit| Rejection {
        reason: name.to_owned(),
        message: format!("Predicate {name} failed: {misfit}"),
    };
    if !selected(pod, node) {
        return Some(predicate("NodeAffinity", &Misfit::Selector));
    }
    let taint = taints(pod, node, |_, effect| effect == "NoExecute").into_iter().next();
    taint.map(|taint| predicate("TaintToleration", &taint))
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
        let (k, e) = (text(t, "key"), text(t, "effect"));
        let exists = text(t, "operator") == "Exists";
        (e.is_empty() || e == effect)
            && ((k.is_empty() && exists) || (k == key && (exists || text(t, "value") == value)))
    })
}

/// Node selector and required node affinity.
fn selected(pod: &Value, node: &Value) -> bool {
    let label = |key: &str| object::label(node, key);
    let selector = json::fields(pod, "/spec/nodeSelector");
    if !selector
        .into_iter()
        .flatten()
        .all(|(key, value)| value.as_str().is_some_and(|value| label(key) == Some(value)))
    {
        return false;
    }
    let affinity = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let Some(required) = pod.pointer(affinity).filter(|r| !r.is_null()) else { return true };
    let name = object::name(node);
    list(required, "nodeSelectorTerms").any(|term| {
        let expressions = list(term, "matchExpressions").count() + list(term, "matchFields").count();
        expressions > 0
            && list(term, "matchExpressions").map(Requirement::of_node).all(|r| r.is_met(label(r.key())))
            && list(term, "matchFields")
                .map(Requirement::of_node)
                .all(|r| r.key() == "metadata.name" && r.is_met(Some(name)))
    })
}

/// Sums the requests of pods.
pub fn sum<'a>(pods: impl Iterator<Item = &'a Value>) -> Amounts {
    let mut total = Amounts::new();
    for pod in pods {
        add(&mut total, &requests(pod));
    }
    total
}

/// What is taken when this pod comes in addition.
pub fn sum_of(taken: &Amounts, pod: &Value) -> Amounts {
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

    fn words(pod: &Value, node: &Value, used: &Amounts) -> Vec<String> {
        misfits(pod, node, used).iter().map(Misfit::to_string).collect()
    }

    fn check(pod: &Value, used: &Amounts, expected: &[&str]) {
        assert_eq!(words(pod, &node(), used), expected);
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
            words(&pod(json!({})), &tainted, &none),
            ["node(s) were unschedulable", "node(s) had untolerated taint(s) {gpu: x}"]
        );
        let mut tolerant = pod(json!({}));
        tolerant["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        assert_eq!(words(&tolerant, &tainted, &none), [""; 0]);
    }

    #[test]
    fn a_node_takes_what_a_kubelet_takes_and_says_no_in_its_words() {
        let none = Amounts::new();
        let reject = |pod: &Value, node: &Value, used: &Amounts| {
            rejection(pod, node, used).map(|Rejection { reason, message }| (reason, message))
        };
        let said = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
        assert_eq!(reject(&pod(json!({"cpu": "1"})), &node(), &none), None);
        assert_eq!(
            reject(
                &pod(json!({"cpu": "500"})),
                &node(),
                &sum(std::iter::once(&pod(json!({"cpu": "1500m"}))))
            ),
            said(
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 500000, used: 1500, capacity: 2000"
            )
        );
        for (resource, amount, reason) in [
            ("memory", "900Gi", "OutOfmemory"),
            ("hugepages-2Mi", "64Gi", "OutOfhugepages-2Mi"),
            ("devices.kubevirt.io/tun", "1", "OutOfdevices.kubevirt.io/tun"),
        ] {
            let found = reject(&pod(json!({resource: amount})), &node(), &none);
            assert_eq!(found.map(|(reason, _)| reason).as_deref(), Some(reason));
        }
        // Two pods are there already, which is all.
        let full = sum([pod(json!({})), pod(json!({}))].iter());
        assert_eq!(
            reject(&pod(json!({})), &node(), &full).map(|(reason, _)| reason).as_deref(),
            Some("OutOfpods")
        );
        let mut wrong = pod(json!({}));
        wrong["spec"]["nodeSelector"] = json!({"zone": "b"});
        assert_eq!(
            reject(&wrong, &node(), &none),
            said(
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
            )
        );
        // Cordoned, not ready and NoSchedule: the scheduler's business. NoExecute: the node's.
        let mut tainted = node();
        tainted["status"]["conditions"] = json!([]);
        tainted["spec"] = json!({"unschedulable": true, "taints": [{"key": "gpu", "effect": "NoSchedule"}]});
        assert_eq!(reject(&pod(json!({})), &tainted, &none), None);
        tainted["spec"]["taints"][0]["effect"] = json!("NoExecute");
        assert_eq!(
            reject(&pod(json!({})), &tainted, &none),
            said(
                "TaintToleration",
                "Predicate TaintToleration failed: node(s) had untolerated taint(s) {gpu: }"
            )
        );
    }
}
