//! What a launcher pod says about itself.

use ferrovirt_api::text::plain;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use super::{CREATED_BY_LABEL, DOMAIN_ANNOTATION};

/// Most characters of what a runtime says.
const LONGEST: usize = 512;

/// Container in which the launcher runs.
const COMPUTE: &str = "compute";

/// The pod was made for the instance with this UID.
pub(super) fn is_for(pod: &Pod, uid: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(CREATED_BY_LABEL)).is_some_and(|by| by == uid)
}

/// The pod was made for an instance of this name.
pub(super) fn is_named(pod: &Pod, vmi: &str) -> bool {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(DOMAIN_ANNOTATION)).is_some_and(|name| name == vmi)
}

/// Deletion was requested.
pub(super) fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// No process of the pod runs any more, and none will.
pub(super) fn is_down(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

pub(super) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(super) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

pub(super) fn containers(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default()
}

fn compute(pod: &Pod) -> Option<&ContainerStatus> {
    containers(pod).iter().find(|c| c.name == COMPUTE)
}

/// The launcher's container runs, every other container is ready, and the pod is not on its way down.
pub(super) fn is_up(pod: &Pod) -> bool {
    !is_going(pod)
        && !is_down(pod)
        && compute(pod).and_then(|c| c.state.as_ref()).is_some_and(|s| s.running.is_some())
        && containers(pod).iter().all(|c| c.name == COMPUTE || c.ready)
}

/// How the launcher's container ended.
fn ended(pod: &Pod) -> Option<&ContainerStateTerminated> {
    compute(pod)?.state.as_ref()?.terminated.as_ref()
}

/// The launcher ended with the code that means an orderly shutdown of the guest.
pub(super) fn ended_well(pod: &Pod) -> bool {
    ended(pod).is_some_and(|t| t.exit_code == 0)
}

pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    ended(pod)?.finished_at.as_ref().map(|t| t.0)
}

/// The pod has a user namespace of its own.
pub(super) fn has_own_users(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
}

/// What the runtime said when it could not start the launcher's container at all.
pub(super) fn start_trouble(pod: &Pod) -> Option<String> {
    const STATES: [&str; 4] =
        ["CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"];
    let state = compute(pod)?.state.as_ref()?;
    let waiting = state.waiting.as_ref().map(|waiting| (&waiting.reason, &waiting.message));
    let ended = state.terminated.as_ref().map(|ended| (&ended.reason, &ended.message));
    let (reason, message) = waiting.or(ended)?;
    let reason = reason.as_deref().filter(|reason| STATES.contains(reason))?;
    Some(format!("{reason}: {}", plain(message.as_deref().unwrap_or_default(), LONGEST)))
}

/// Whether the launcher's container waits for another try. One that has ended is not tried again: its pod ends with it.
pub(super) fn is_tried_again(pod: &Pod) -> bool {
    compute(pod).and_then(|status| status.state.as_ref()).is_some_and(|state| state.waiting.is_some())
}

/// Since when the pod is bound and its kubelet has made nothing for its containers to run in (kubelets from 1.29 say so).
pub(super) fn waits_for_sandbox(pod: &Pod) -> Option<Timestamp> {
    let find = |kind: &str| {
        pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
    };
    find("PodReadyToStartContainers").filter(|condition| condition.status == "False")?;
    let bound = find("PodScheduled").filter(|condition| condition.status == "True")?;
    bound.last_transition_time.as_ref().map(|time| time.0)
}

/// What the pod says about a bad end, for people.
pub(super) fn last_words(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let terminated = ended(pod);
    let message = terminated
        .and_then(|t| t.message.as_deref())
        .or_else(|| status.and_then(|s| s.message.as_deref()))
        .filter(|m| !m.trim().is_empty());
    let reason = status
        .and_then(|s| s.reason.as_deref())
        .or_else(|| terminated.and_then(|t| t.reason.as_deref()))
        .unwrap_or("no reason given");
    let code = terminated.map(|t| format!(", exit code {}", t.exit_code)).unwrap_or_default();
    match message {
        Some(message) => format!("{reason}{code}: {}", message.trim()),
        None => format!("{reason}{code}"),
    }
}

/// Why a container cannot get its image, and the runtime's message.
pub(super) fn image_trouble(pod: &Pod) -> Option<(&'static str, String)> {
    containers(pod).iter().find_map(|c| {
        let waiting = c.state.as_ref()?.waiting.as_ref()?;
        let reason = match waiting.reason.as_deref()? {
            "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" => "ErrImagePull",
            "ImagePullBackOff" => "ImagePullBackOff",
            _ => return None,
        };
        let message = waiting.message.clone().unwrap_or_else(|| format!("image {} cannot be used", c.image));
        Some((reason, message))
    })
}
