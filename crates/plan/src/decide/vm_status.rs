//! The status of a VirtualMachine.

use ferrovirt_api::kubevirt::{
    VirtualMachineCondition, VirtualMachineInstance, VirtualMachineInstanceCondition, VirtualMachineStatus,
};
use k8s_openapi::jiff::Timestamp;

use super::start::{self, is_final, phase};
use super::vm::VmSnapshot;
use super::{ClaimState, GENERATION_ANNOTATION, TEMPLATE_ANNOTATION};
use ferrovirt_kubernetes::typed_condition::{Condition, find, is_true, remove, set};

/// Conditions that the VM controller writes itself; every other one mirrors the instance's.
const OWN: [&str; 4] = ["Ready", "Failure", "RestartRequired", "ManualRecoveryRequired"];

/// What the status is made from.
pub(super) struct Observed<'a> {
    pub(super) snapshot: &'a VmSnapshot<'a>,
    /// The instance, if the machine owns it.
    pub(super) vmi: Option<&'a VirtualMachineInstance>,
    /// An instance of the name exists that belongs to somebody else.
    pub(super) foreign: bool,
    pub(super) strategy: &'a str,
    /// An instance is being created in this round.
    pub(super) starting: bool,
}

/// The new status, but for requests, failed starts and the printable word, which depend on the decision.
pub(super) fn status(observed: &Observed<'_>, now: Timestamp) -> VirtualMachineStatus {
    let machine = observed.snapshot.vm;
    let mut status = machine.status.clone().unwrap_or_default();
    let vmi = observed.vmi;
    let note = |key: &str| vmi.and_then(|vmi| vmi.metadata.annotations.as_ref()?.get(key));

    status.created = Some(vmi.is_some());
    status.desired_generation = machine.metadata.generation;
    if let Some(generation) = note(GENERATION_ANNOTATION).and_then(|text| text.parse().ok()) {
        status.observed_generation = Some(generation);
    }
    // Only when an instance was seen: see `start::is_first`. The other strategies have no first time.
    if vmi.is_some() || !matches!(observed.strategy, "Once" | "RerunOnFailure") {
        status.run_strategy = Some(observed.strategy.to_owned());
    }

    let theirs: &[VirtualMachineInstanceCondition] =
        vmi.and_then(|vmi| vmi.status.as_ref()).map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ready = match find(theirs, "Ready") {
        Some(ready) => mirrored(ready),
        None => VirtualMachineCondition::new("Ready", "False", "VMINotExists", "VMI does not exist"),
    };
    status.ready = Some(ready.status == "True");
    let list = &mut status.conditions;
    set(list, ready, now);
    list.retain(|c| OWN.contains(&c.kind()) || find(theirs, c.kind()).is_some());
    for condition in theirs.iter().filter(|c| !OWN.contains(&c.kind())) {
        set(list, mirrored(condition), now);
    }

    if observed.foreign && observed.starting_wanted() {
        let name = machine.metadata.name.as_deref().unwrap_or_default();
        let message = format!(
            "a VirtualMachineInstance named {name} exists that does not belong to this VirtualMachine; delete it so that this one can start"
        );
        set(list, VirtualMachineCondition::new("Failure", "True", "FailedCreate", &message), now);
    } else if vmi.is_some() || observed.strategy == "Halted" {
        remove(list, "Failure");
    }

    let differs =
        note(TEMPLATE_ANNOTATION).is_some_and(|made_from| *made_from != start::template_digest(machine));
    if differs && vmi.is_some_and(|vmi| !is_final(vmi)) {
        let message =
            "the template has changed since the machine was started; restart it to apply the changes";
        set(list, VirtualMachineCondition::new("RestartRequired", "True", "RestartRequired", message), now);
    } else {
        remove(list, "RestartRequired");
    }
    status
}

impl Observed<'_> {
    /// The strategy would have an instance if the name were free.
    fn starting_wanted(&self) -> bool {
        self.strategy != "Halted"
    }
}

fn mirrored(condition: &VirtualMachineInstanceCondition) -> VirtualMachineCondition {
    VirtualMachineCondition::new(
        condition.kind(),
        condition.status(),
        condition.reason(),
        condition.message.as_deref().unwrap_or_default(),
    )
}

/// The word that `kubectl get vm` shows; the first that fits.
pub(super) fn printable(observed: &Observed<'_>, status: &VirtualMachineStatus) -> &'static str {
    let vmi = observed.vmi;
    let theirs: &[VirtualMachineInstanceCondition] =
        vmi.and_then(|vmi| vmi.status.as_ref()).map(|s| s.conditions.as_slice()).unwrap_or_default();
    let live = vmi.filter(|vmi| !is_final(vmi));
    let preparing = live.is_some_and(|vmi| phase(vmi) != "Running");
    let synchronized =
        find(theirs, "Synchronized").filter(|c| c.status() == "False").map_or("", Condition::reason);
    let lacks = |state| observed.snapshot.claims.iter().any(|claim| claim.state == state);

    if live.is_some_and(|vmi| vmi.metadata.deletion_timestamp.is_some()) {
        "Stopping"
    } else if live.is_some() && is_true(theirs, "Paused") {
        "Paused"
    } else if live.is_some() && !preparing {
        "Running"
    } else if preparing && (synchronized == "FailedPvcNotFound" || lacks(ClaimState::Missing)) {
        "ErrorPvcNotFound"
    } else if preparing && find(theirs, "PodScheduled").is_some_and(|c| c.reason() == "Unschedulable") {
        "ErrorUnschedulable"
    } else if preparing && is_true(theirs, "Provisioning") {
        "Provisioning"
    } else if preparing && lacks(ClaimState::Pending) {
        "WaitingForVolumeBinding"
    } else if preparing && synchronized == "ErrImagePull" {
        "ErrImagePull"
    } else if preparing && synchronized == "ImagePullBackOff" {
        "ImagePullBackOff"
    } else if preparing || observed.starting {
        "Starting"
    } else if matches!(observed.strategy, "Always" | "RerunOnFailure" | "Once")
        && status.start_failure.as_ref().and_then(|f| f.consecutive_fail_count).unwrap_or(0) > 0
    {
        "CrashLoopBackOff"
    } else {
        "Stopped"
    }
}
