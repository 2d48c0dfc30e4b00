//! Who dies first when memory runs out: pods before the system, by their quality of service as a kubelet orders them.

use crate::status::memory;
use ferrovirt_kubernetes::quantity::Amount;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use std::{fs, sync::OnceLock};

/// What a pod has whose requests are its limits; -998 and under are for the node's own processes.
const GUARANTEED: i64 = -997;
/// What a pod has that asks for nothing.
const BEST_EFFORT: i64 = 1000;

/// The value of `oom_score_adj` for a pod on this node. Without CAP_SYS_RESOURCE nothing goes under this process's own.
pub fn score(pod: &Pod) -> i64 {
    static NODE: OnceLock<(u64, i64)> = OnceLock::new();
    let (capacity, lowest) = *NODE.get_or_init(|| {
        let capacity = bytes(&memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()));
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let may_lower = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE));
        (capacity, if may_lower { -1000 } else { own.trim().parse().unwrap_or_default() })
    });
    adjust(pod, capacity).max(lowest)
}

/// The kubelet's rule (`GetContainerOOMScoreAdjust`): Burstable pods by their share of the node's memory in bytes.
fn adjust(pod: &Pod, capacity: u64) -> i64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let all: Vec<ResourceRequirements> =
        containers.map(|container| container.resources.clone().unwrap_or_default()).collect();
    let of = |all: &ResourceRequirements, name: &str, limit: bool| {
        let list = if limit { &all.limits } else { &all.requests };
        list.as_ref().and_then(|list| list.get(name)).map(|quantity| quantity.0.clone())
    };
    let names = ["cpu", "memory"];
    let full = |resources: &ResourceRequirements| {
        names.iter().all(|name| match (of(resources, name, true), of(resources, name, false)) {
            (Some(limit), Some(request)) => limit == request,
            (limit, _) => limit.is_some(),
        })
    };
    let asks = |resources: &ResourceRequirements| {
        names.iter().any(|name| of(resources, name, true).is_some() || of(resources, name, false).is_some())
    };
    if !all.is_empty() && all.iter().all(full) {
        return GUARANTEED;
    }
    if !all.iter().any(asks) {
        return BEST_EFFORT;
    }
    // Where only a limit is named it is the request too.
    let request = |resources| of(resources, "memory", false).or_else(|| of(resources, "memory", true));
    let request: u64 = all.iter().filter_map(request).map(|text| bytes(&text)).fold(0, u64::saturating_add);
    let share = u128::from(request).saturating_mul(1000) / u128::from(capacity.max(1));
    (1000 - i64::try_from(share).unwrap_or(1000)).clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}

fn bytes(quantity: &str) -> u64 {
    Amount::parse(quantity).and_then(Amount::bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn adjusted(resources: serde_json::Value) -> i64 {
        let container = json!({"name": "compute", "resources": resources});
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}});
        adjust(&serde_json::from_value(pod).unwrap(), 16 << 30)
    }

    #[test]
    fn pods_die_by_their_quality_of_service() {
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(adjusted(json!({"limits": all, "requests": all})), -997);
        assert_eq!(adjusted(json!({"limits": all})), -997);
        assert_eq!(adjusted(json!({})), 1000);
        assert_eq!(adjusted(json!({"requests": {"memory": "4Gi"}})), 750);
        assert_eq!(adjusted(json!({"requests": {"memory": "1Mi"}})), 999);
        assert_eq!(adjusted(json!({"requests": {"memory": "900Gi"}})), 3);
        assert_eq!(adjusted(json!({"requests": {"cpu": "100m"}})), 999);
    }
}
