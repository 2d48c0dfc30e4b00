//! When the launcher pod of an instance is written down, and when it is said that it cannot be:
//! [`crate::decide::accept::record()`].
//!
//! A pod is made first and looked at in a later round, when it has come back: a controller that is killed in between leaves a pod that
//! the next round finds and looks at. What is written down stays: a pod that somebody puts in the place of the first one is
//! compared with what is rendered then.

use ferrovirt_api::kubevirt::{LauncherPodRecord, VirtualMachineInstance};
use k8s_openapi::api::core::v1::Pod;

use super::place::NOT_AS_RENDERED;
use super::pods;
use super::start::{is_final, uid};
use super::start_in_vain;
use super::vmi_status::Trouble;
use crate::decide::accept::{Difference, Standing, record_of, refusal};
use crate::render::pod::pod_name;

/// What a look at the pod in the API server has brought: what is to be written down, or how it differs from its rendering.
pub type Look = Result<LauncherPodRecord, Vec<Difference>>;

/// The launcher pod of an instance that is to be looked at, among pods that say that they were made for it.
pub fn unrecorded<'a>(vmi: &VirtualMachineInstance, pods: &[&'a Pod]) -> Option<&'a Pod> {
    if is_final(vmi) || vmi.metadata.deletion_timestamp.is_some() || record_of(vmi).is_some() {
        return None;
    }
    let name = pod_name(vmi.metadata.name.as_deref().unwrap_or_default(), uid(&vmi.metadata));
    pods.iter()
        .copied()
        .find(|pod| pods::name(pod) == name && !pods::is_down(pod) && !start_in_vain::is_given_up(vmi, pod))
}

/// Writes down what was found; what is wrong, as long as no node says it.
pub(super) fn note(new: &mut VirtualMachineInstance, pods: &[&Pod], look: &Look) -> Option<Trouble> {
    let pod = unrecorded(new, pods)?;
    match look {
        Ok(record) if record.uid == pods::uid(pod) => {
            let status = new.status.get_or_insert_default();
            status.launcher_pod = Some(record.clone());
            status
                .conditions
                .retain(|c| c.r#type != "Synchronized" || c.reason.as_deref() != Some(NOT_AS_RENDERED));
            None
        }
        Ok(_) => None,
        Err(wrong) => {
            let message = refusal(wrong, &Standing::Unrecorded);
            pods::node(pod).is_none().then_some(Trouble { reason: NOT_AS_RENDERED, message })
        }
    }
}
