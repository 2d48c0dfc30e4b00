//! The status of a VirtualMachineInstance, as far as the controller writes it.

use ferrovirt_api::kubevirt::{
    VirtualMachineInstance, VirtualMachineInstanceCondition, VirtualMachineInstancePhaseTransitionTimestamp,
    VirtualMachineInstanceStatus,
};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::{Claim, ClaimState, NODE_LABEL, pods};
use crate::user_namespace;
use ferrovirt_kubernetes::typed_condition::{Condition, find, remove, set};

/// Reasons of `Synchronized=False` that are the controller's alone; they end when there is a pod.
const BEFORE_THE_POD: [&str; 4] = ["FailedCreate", "FailedPvcNotFound", "InvalidMachine", "NoFreeLevel"];
/// Reasons that the controller and the node agent both write. The first one is left alone, and they end when the
/// container runs: two writers that both insist would overwrite each other for ever.
const IMAGES: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

/// What keeps the machine from starting.
pub(super) struct Trouble {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Copies what the pod says into the instance, moves the phase, and writes the conditions.
pub(super) fn refresh(
    vmi: &mut VirtualMachineInstance,
    pod: Option<&Pod>,
    own: &[&Pod],
    claims: &[Claim],
    to: Option<&'static str>,
    trouble: Option<&Trouble>,
    now: Timestamp,
) {
    if let Some(pod) = pod.filter(|pod| pods::is_up(pod))
        && let Some(node) = pods::node(pod)
    {
        let labels = vmi.metadata.labels.get_or_insert_default();
        if labels.get(NODE_LABEL).is_none_or(|label| label != node) {
            labels.insert(NODE_LABEL.to_owned(), node.to_owned());
        }
    }
    let status = vmi.status.get_or_insert_default();
    if let Some(phase) = to.filter(|phase| status.phase.as_deref() != Some(phase)) {
        status.phase = Some(phase.to_owned());
        status.phase_transition_timestamps.push(VirtualMachineInstancePhaseTransitionTimestamp {
            phase: Some(phase.to_owned()),
            phase_transition_timestamp: Some(Time(now)),
        });
    }
    copy_pods(status, pod, own);

    let phase = status.phase.clone().unwrap_or_default();
    let list = &mut status.conditions;
    set(list, ready(pod, &phase), now);
    let over = matches!(phase.as_str(), "Succeeded" | "Failed");
    match pod.and_then(|pod| pod_condition(pod, "PodScheduled")).filter(|c| c.status == "False" && !over) {
        Some(condition) => set(list, mirror(condition), now),
        None => remove(list, "PodScheduled"),
    }
    match provisioning(claims).filter(|_| matches!(phase.as_str(), "Pending" | "Scheduling")) {
        Some(condition) => set(list, condition, now),
        None => remove(list, "Provisioning"),
    }
    synchronized(vmi, pod, trouble, now);
}

/// What the pods say: those that are not over, and of the newest its class, and node and image once it is up.
fn copy_pods(status: &mut VirtualMachineInstanceStatus, pod: Option<&Pod>, own: &[&Pod]) {
    status.active_pods = own
        .iter()
        .filter(|pod| !pods::is_down(pod))
        .map(|pod| (pods::uid(pod).to_owned(), pods::node(pod).unwrap_or_default().to_owned()))
        .collect();
    let Some(pod) = pod else { return };
    if let Some(qos) = pod.status.as_ref().and_then(|status| status.qos_class.clone()) {
        status.qos_class = Some(qos);
    }
    if pods::is_up(pod) {
        status.node_name = pods::node(pod).map(str::to_owned).or(status.node_name.take());
        status.migration_transport = Some("Unix".to_owned());
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
        let image = container.and_then(|container| container.image.clone());
        status.launcher_container_image_version = image.or(status.launcher_container_image_version.take());
    }
}

/// `Provisioning`, while claims are not ready.
fn provisioning(claims: &[Claim]) -> Option<VirtualMachineInstanceCondition> {
    let with = |state| {
        let names = claims.iter().filter(|claim| claim.state == state).map(|claim| claim.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let (filling, unbound) = (with(ClaimState::Filling), with(ClaimState::Pending));
    let (reason, message) = match (filling.as_str(), unbound.as_str()) {
        ("", "") => return None,
        ("", names) => ("ClaimsNotBound", format!("waiting for PersistentVolumeClaim {names} to be bound")),
        (names, _) => {
            ("ClaimsNotFilled", format!("waiting for PersistentVolumeClaim {names} to be filled by CDI"))
        }
    };
    Some(VirtualMachineInstanceCondition::new("Provisioning", "True", reason, &message))
}

/// Writes `Synchronized=False`, or takes it away when its reason is over.
fn synchronized(
    vmi: &mut VirtualMachineInstance,
    pod: Option<&Pod>,
    trouble: Option<&Trouble>,
    now: Timestamp,
) {
    let list = &mut vmi.status.get_or_insert_default().conditions;
    let is_about_images = |reason: &str| IMAGES.contains(&reason);
    match (trouble, pod) {
        (Some(trouble), _)
            if is_about_images(trouble.reason)
                && find(list, "Synchronized").is_some_and(|c| is_about_images(c.reason())) => {}
        (Some(trouble), _) => set_trouble(vmi, trouble, now),
        // A refusal stays until the pod is there: the next attempt may be refused again.
        (None, Some(pod)) => {
            let runs = pods::is_up(pod) || pods::is_down(pod);
            list.retain(|c| {
                c.kind() != "Synchronized"
                    || !(BEFORE_THE_POD.contains(&c.reason()) || runs && is_about_images(c.reason()))
            });
        }
        // The claim is there now, and the pod waits for something else.
        (None, None) => list.retain(|c| c.kind() != "Synchronized" || c.reason() != "FailedPvcNotFound"),
    }
}

/// Writes `Synchronized=False`.
pub(super) fn set_trouble(vmi: &mut VirtualMachineInstance, trouble: &Trouble, now: Timestamp) {
    let condition =
        VirtualMachineInstanceCondition::new("Synchronized", "False", trouble.reason, &trouble.message);
    set(&mut vmi.status.get_or_insert_default().conditions, condition, now);
}

/// Writes down that the pod did not start in a user namespace of its own; another pod will be recorded.
pub(super) fn give_up(vmi: &mut VirtualMachineInstance, why: &str, now: Timestamp) {
    let condition = VirtualMachineInstanceCondition::new(
        user_namespace::CONDITION,
        "False",
        user_namespace::NOT_STARTED,
        why,
    );
    let status = vmi.status.get_or_insert_default();
    set(&mut status.conditions, condition, now);
    status.launcher_pod = None;
}

/// Writes down why the pod waits in its user namespace, or takes that away when it is over; whether it is said for the first
/// time. What was said of a pod that was given up stays.
pub(super) fn say_waits(vmi: &mut VirtualMachineInstance, why: Option<&str>, now: Timestamp) -> bool {
    let is_it = |c: &VirtualMachineInstanceCondition| {
        c.kind() == user_namespace::CONDITION && c.reason() == user_namespace::WAITING
    };
    let said = vmi.status.iter().flat_map(|status| &status.conditions).any(is_it);
    match why {
        Some(why) => {
            let condition = VirtualMachineInstanceCondition::new(
                user_namespace::CONDITION,
                "Unknown",
                user_namespace::WAITING,
                why,
            );
            set(&mut vmi.status.get_or_insert_default().conditions, condition, now);
        }
        None if said => vmi.status.get_or_insert_default().conditions.retain(|c| !is_it(c)),
        None => {}
    }
    why.is_some() && !said
}

/// The instance did not say so before.
pub(super) fn is_news(before: &VirtualMachineInstance, after: &VirtualMachineInstance) -> bool {
    let said = |vmi: &VirtualMachineInstance| {
        let list = vmi.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        find(list, "Synchronized").map(|c| (c.reason.clone(), c.message.clone()))
    };
    said(before) != said(after)
}

/// When the phase was entered.
pub(super) fn phase_since(vmi: &VirtualMachineInstance) -> Option<Timestamp> {
    let status = vmi.status.as_ref()?;
    let entry = status.phase_transition_timestamps.iter().rev().find(|t| t.phase == status.phase)?;
    entry.phase_transition_timestamp.as_ref().map(|t| t.0)
}

fn ready(pod: Option<&Pod>, phase: &str) -> VirtualMachineInstanceCondition {
    let not =
        |reason: &str, message: &str| VirtualMachineInstanceCondition::new("Ready", "False", reason, message);
    let Some(pod) = pod else { return not("PodNotExists", "virt-launcher pod does not exist") };
    if pods::is_going(pod) {
        return not("PodTerminating", "virt-launcher pod is terminating");
    }
    if phase != "Running" {
        return not("GuestNotRunning", "Guest VM is not reported as running");
    }
    match pod_condition(pod, "Ready") {
        Some(condition) => mirror(condition),
        None => not("PodConditionMissing", "virt-launcher pod has no Ready condition"),
    }
}

fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn mirror(condition: &PodCondition) -> VirtualMachineInstanceCondition {
    VirtualMachineInstanceCondition::new(
        &condition.type_,
        &condition.status,
        condition.reason.as_deref().unwrap_or_default(),
        condition.message.as_deref().unwrap_or_default(),
    )
}
