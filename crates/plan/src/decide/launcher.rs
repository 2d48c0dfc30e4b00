//! The launcher pod of an instance.

use std::collections::BTreeSet;

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_privilege::Label;
use k8s_openapi::api::core::v1::Pod;

use super::Claim;
use crate::config::ClusterConfig;
use crate::render;
use crate::user_namespace;

/// Renders the launcher pod of an instance. `labelled`: it carries the SELinux type of its machine and the level that is
/// recorded in the instance's status.
///
/// # Errors
/// Every reason why the instance is no valid machine, each with its field.
pub fn launcher_pod(
    vmi: &VirtualMachineInstance,
    config: &ClusterConfig,
    claims: &[Claim],
    labelled: bool,
) -> Result<Pod, Vec<String>> {
    let machine = ferrovirt_api::machine(vmi)
        .map_err(|causes| causes.into_iter().map(|cause| cause.to_string()).collect::<Vec<_>>())?;
    let block: BTreeSet<String> = claims.iter().filter(|c| c.block).map(|c| c.name.clone()).collect();
    let mut surroundings = config.surroundings(&block);
    // The level is recorded before the pod is made; where there is none, only the pod's name is asked for.
    let level = vmi.status.as_ref().and_then(|status| status.selinux_level.clone()).filter(|_| labelled);
    surroundings.label =
        level.map(|level| Label { kind: config.launcher_type(&machine, &surroundings), level });
    // One whose pod did not start in a user namespace gets another one without.
    let auto = ClusterConfig {
        cluster_has_user_namespaces: config.cluster_has_user_namespaces && !user_namespace::gave_up(vmi),
        ..config.clone()
    };
    surroundings.user_namespace = user_namespace::pod_has_one(&machine, &auto, &surroundings);
    Ok(render::pod_in(&machine, vmi, config, &surroundings))
}
