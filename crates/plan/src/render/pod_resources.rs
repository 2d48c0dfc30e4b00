//! Requests and limits of the compute container.

use super::overhead::overhead;
use crate::config::ClusterConfig;
use ferrovirt_model::{Bytes, Machine};
use ferrovirt_privilege::{DeviceSource, GrantSet, Right, Surface};
use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use std::collections::BTreeMap;

/// Scratch space that a launcher takes on the node's disk: logs and small files.
const EPHEMERAL_STORAGE: u64 = 50_000_000;

/// What the pod needs, and the part of its memory that is overhead.
///
/// The rules are applied in upstream's order: memory request, processors, huge pages or overhead, devices, scratch.
pub(super) fn resources(
    machine: &Machine,
    grants: &GrantSet,
    config: &ClusterConfig,
) -> (ResourceRequirements, Bytes) {
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    let guest = machine.memory.guest;
    let request = match (machine.memory.request, machine.memory.limit) {
        (Some(request), _) => request,
        (None, Some(limit)) => limit,
        (None, None) => Bytes(percent(guest.0, config.memory_overcommit)),
    };
    let extra = overhead(machine, request, config.use_emulation);
    // With huge pages the guest is in a resource of its own, and what is asked beyond it stays ordinary memory.
    let ordinary = |bytes: Bytes| match machine.memory.huge_pages {
        Some(_) => bytes.0.saturating_sub(guest.0).saturating_add(extra.0),
        None => bytes.0.saturating_add(extra.0),
    };
    requests.insert("memory".to_owned(), quantity(ordinary(request)));
    if let Some(limit) = machine.memory.limit {
        limits.insert("memory".to_owned(), quantity(ordinary(limit)));
    }

    let vcpus = u64::from(machine.cpu.vcpus());
    let share = vcpus.saturating_mul(1000) / config.cpu_allocation_ratio.max(1);
    let millis = machine.cpu.request_millis.or(machine.cpu.limit_millis).unwrap_or(share);
    requests.insert("cpu".to_owned(), Quantity(format!("{millis}m")));
    if let Some(limit) = machine.cpu.limit_millis {
        limits.insert("cpu".to_owned(), Quantity(format!("{limit}m")));
    }
    requests.insert("ephemeral-storage".to_owned(), Quantity(EPHEMERAL_STORAGE.to_string()));

    for right in grants.on(Surface::Pod) {
        let (name, amount) = match right {
            Right::Resource { name, quantity } => (name, quantity),
            Right::Device { source: DeviceSource::Plugin(name), .. } => (name, "1".to_owned()),
            _ => continue,
        };
        // The scheduler wants both to be equal for such resources.
        requests.insert(name.clone(), Quantity(amount.clone()));
        limits.insert(name, Quantity(amount));
    }
    (
        ResourceRequirements {
            requests: Some(requests),
            limits: Some(limits).filter(|l| !l.is_empty()),
            claims: None,
        },
        extra,
    )
}

fn quantity(bytes: u64) -> Quantity {
    Quantity(Bytes(bytes).to_string())
}

/// Guest memory that is really requested when a guest may have been promised `overcommit` percent of it.
fn percent(bytes: u64, overcommit: u64) -> u64 {
    let wide = u128::from(bytes).saturating_mul(100) / u128::from(overcommit.max(1));
    u64::try_from(wide).unwrap_or(u64::MAX)
}
