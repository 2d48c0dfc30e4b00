//! The launcher pod of an instance.

use std::collections::BTreeSet;

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use k8s_openapi::api::core::v1::Pod;

use super::Claim;
use crate::config::ClusterConfig;
use crate::render;

/// Renders the launcher pod of an instance.
///
/// # Errors
/// Every reason why the instance is no valid machine, each with its field.
pub fn launcher_pod(
    vmi: &VirtualMachineInstance,
    config: &ClusterConfig,
    claims: &[Claim],
) -> Result<Pod, Vec<String>> {
    let machine = ferrovirt_api::machine(vmi)
        .map_err(|causes| causes.into_iter().map(|cause| cause.to_string()).collect::<Vec<_>>())?;
    let block: BTreeSet<String> = claims.iter().filter(|c| c.block).map(|c| c.name.clone()).collect();
    Ok(render::pod_with_claims(&machine, vmi, config, &block))
}
