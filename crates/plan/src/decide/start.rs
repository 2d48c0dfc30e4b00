//! When a VirtualMachine's instance is to start and to stop, and what it is made of.

use std::collections::BTreeMap;

use ferrovirt_api::kubevirt::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineStartFailure, VirtualMachineStateChangeRequest,
    VirtualMachineStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::scc::rights;

use super::{FOREGROUND_FINALIZER, GENERATION_ANNOTATION, TEMPLATE_ANNOTATION, VM_FINALIZER};

/// First delay after a machine that did not stay up, in seconds; the n-th is n squared times this.
const BACK_OFF_BASE: f64 = 10.0;
/// A guest that has run for this many seconds is up: what comes afterwards is no failed start.
const STEADY: i64 = 60;
/// No delay is longer, in seconds.
const BACK_OFF_CAP: f64 = 300.0;

/// The effective run strategy: `spec.runStrategy`, else what the deprecated `spec.running` means.
pub(crate) fn strategy(vm: &VirtualMachine) -> &str {
    match (&vm.spec.run_strategy, vm.spec.running) {
        (Some(strategy), _) => strategy,
        (None, Some(true)) => "Always",
        (None, _) => "Halted",
    }
}

/// The instance's phase; empty before anybody set one.
pub(crate) fn phase(vmi: &VirtualMachineInstance) -> &str {
    vmi.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The instance has ended and will not come back.
pub fn is_final(vmi: &VirtualMachineInstance) -> bool {
    matches!(phase(vmi), "Succeeded" | "Failed")
}

pub(super) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The instance was at some time reported as running.
pub(super) fn has_run(vmi: &VirtualMachineInstance) -> bool {
    phase(vmi) == "Running"
        || vmi.status.as_ref().is_some_and(|s| {
            s.phase_transition_timestamps.iter().any(|t| t.phase.as_deref() == Some("Running"))
        })
}

/// What the run strategy wants of the instance.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Leave things as they are, with the reason.
    Nothing(&'static str),
    /// Create the instance.
    Start,
    /// Delete the instance.
    Stop(&'static str),
    /// Delete the instance and remember that it is to start again.
    StopThenStart,
    /// Set the strategy to Always.
    BecomeAlways,
}

/// The table of run strategies (Always, Halted, Manual, RerunOnFailure, Once). `first` says that no instance has
/// been made under this strategy yet.
pub(super) fn want(
    strategy: &str,
    vmi: Option<&VirtualMachineInstance>,
    requests: &[VirtualMachineStateChangeRequest],
    first: bool,
) -> Want {
    let start = requests.first().is_some_and(|r| r.action == "Start");
    let Some(vmi) = vmi else {
        return match strategy {
            "Always" => Want::Start,
            "RerunOnFailure" if first || start => Want::Start,
            "Once" if first => Want::Start,
            "Manual" if start => Want::Start,
            "Halted" if start => Want::BecomeAlways,
            "RerunOnFailure" => Want::Nothing("the guest has shut down by itself; a start request starts it"),
            "Once" => Want::Nothing("the machine has run once"),
            "Manual" => Want::Nothing("waiting for a start request"),
            "Halted" => Want::Nothing("the machine is halted"),
            _ => Want::Nothing("the run strategy is not supported"),
        };
    };
    if vmi.metadata.deletion_timestamp.is_some() {
        return Want::Nothing("waiting for the instance to go");
    }
    let stop = requests.iter().any(|r| r.action == "Stop" && r.uid.as_deref() == Some(uid(&vmi.metadata)));
    let (ended, failed) = (is_final(vmi), phase(vmi) == "Failed");
    match strategy {
        "Halted" => Want::Stop("the machine is halted"),
        "RerunOnFailure" if failed && !start => Want::StopThenStart,
        "Always" | "RerunOnFailure" if ended => Want::Stop("the guest has ended"),
        // The ended instance is in the way of a start that an earlier strategy queued.
        "Manual" if ended && start => Want::Stop("the guest has ended and a start was requested"),
        _ if stop => Want::Stop("a stop was requested"),
        _ if ended => Want::Nothing("the guest has ended; the instance is kept until a stop request"),
        _ => Want::Nothing("the instance exists"),
    }
}

/// Requests that are not done yet. Only the first one counts at any time, so a queued restart is stop, then start.
pub(super) fn open_requests(
    strategy: &str,
    requests: &[VirtualMachineStateChangeRequest],
    vmi: Option<&VirtualMachineInstance>,
) -> Vec<VirtualMachineStateChangeRequest> {
    let done = |request: &VirtualMachineStateChangeRequest| match request.action.as_str() {
        "Stop" => vmi.is_none_or(|vmi| request.uid.as_deref() != Some(uid(&vmi.metadata))),
        // A request that an earlier strategy left: a machine that runs once is not started by hand, as upstream.
        "Start" if strategy == "Once" => true,
        "Start" => vmi.is_some_and(|vmi| !is_final(vmi) && vmi.metadata.deletion_timestamp.is_none()),
        // A request that nobody understands would block the queue for ever.
        _ => true,
    };
    requests.iter().skip_while(|request| done(request)).cloned().collect()
}

/// For how many seconds the instance has run, or had run when it ended; `None` when it never did.
fn ran(vmi: &VirtualMachineInstance, now: Timestamp) -> Option<i64> {
    let entered = |phase: &str| {
        let transitions = vmi.status.iter().flat_map(|status| &status.phase_transition_timestamps);
        let mut found = transitions.filter(|entry| entry.phase.as_deref() == Some(phase));
        found.next().and_then(|entry| entry.phase_transition_timestamp.as_ref()).map(|time| time.0)
    };
    if !has_run(vmi) {
        return None;
    }
    let end = if is_final(vmi) { entered(phase(vmi)).unwrap_or(now) } else { now };
    Some(entered("Running").map_or(0, |start| end.duration_since(start).as_secs().max(0)))
}

/// Seconds until a machine with failed starts has run for long enough to be forgiven.
pub(super) fn forgiven_in(vmi: &VirtualMachineInstance, now: Timestamp) -> Option<u64> {
    let left = STEADY.saturating_sub(ran(vmi, now)?);
    u64::try_from(left).ok().filter(|left| *left > 0 && !is_final(vmi))
}

/// The record of failed starts after looking at the instance. An instance that ended without running, or soon after,
/// counts once where the strategy starts it again; one that has run for [`STEADY`] seconds, an end that is nobody's
/// failure, or a halted machine, clears the record.
///
/// Upstream counts instances that never ran alone. A guest that powers itself off at once would be started again
/// without a pause for ever, at the cost of everybody on the node.
pub(super) fn start_failure(
    old: Option<&VirtualMachineStartFailure>,
    strategy: &str,
    vmi: Option<&VirtualMachineInstance>,
    now: Timestamp,
    jitter: f64,
) -> Option<VirtualMachineStartFailure> {
    if strategy == "Halted" {
        return None;
    }
    let Some(vmi) = vmi else { return old.cloned() };
    let ran = ran(vmi, now);
    if ran.is_some_and(|seconds| seconds >= STEADY) {
        return None;
    }
    let vmi_uid = uid(&vmi.metadata);
    // A stopped or deleted instance is no failure of the guest.
    let counted = old.is_some_and(|old| old.last_failed_vmi_uid.as_deref() == Some(vmi_uid));
    if !is_final(vmi) || vmi.metadata.deletion_timestamp.is_some() || counted {
        return old.cloned();
    }
    let again = match strategy {
        "Always" => true,
        "RerunOnFailure" => phase(vmi) == "Failed",
        _ => false,
    };
    if ran.is_some() && !again {
        return None;
    }
    let count = old.and_then(|old| old.consecutive_fail_count).unwrap_or(0).max(0).saturating_add(1);
    let retry = now
        .checked_add(SignedDuration::from_secs(i64::from(back_off_seconds(count.unsigned_abs(), jitter))))
        .unwrap_or(now);
    Some(VirtualMachineStartFailure {
        consecutive_fail_count: Some(count),
        last_failed_vmi_uid: Some(vmi_uid.to_owned()),
        retry_after_timestamp: Some(Time(retry)),
    })
}

/// When the next start may be tried; nothing when it may be now. A time that is further away than any delay was written
/// before the clock was set back, and says nothing.
pub(super) fn retry_at(failure: Option<&VirtualMachineStartFailure>, now: Timestamp) -> Option<Timestamp> {
    let retry = failure?.retry_after_timestamp.as_ref()?.0;
    let left = retry.duration_since(now).as_secs_f64();
    (left > 0.0 && left <= BACK_OFF_CAP).then_some(retry)
}

/// Seconds to wait after the `failures`-th failed start in a row: 10 n², plus up to half of it (`jitter` is from 0
/// to 1), at most 300 in all.
pub fn back_off_seconds(failures: u32, jitter: f64) -> u32 {
    let base = BACK_OFF_BASE * f64::from(failures) * f64::from(failures);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    // The cap keeps the value far below the limit of u32.
    (base * (1.0 + jitter / 2.0)).min(BACK_OFF_CAP) as u32
}

/// Digest of what an instance is made from; changes when a restart would change the machine.
pub(super) fn template_digest(vm: &VirtualMachine) -> String {
    let bytes = serde_json::to_vec(&vm.spec.template.spec).unwrap_or_default();
    let digest = Sha256::digest(&bytes);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The instance of a VirtualMachine: its name, its template, and notes about what it was made from.
pub(super) fn instance(vm: &VirtualMachine, paused: bool) -> VirtualMachineInstance {
    let template = &vm.spec.template;
    let mut annotations: BTreeMap<String, String> = template.metadata.annotations.clone().unwrap_or_default();
    annotations
        .insert(GENERATION_ANNOTATION.to_owned(), vm.metadata.generation.unwrap_or_default().to_string());
    annotations.insert(TEMPLATE_ANNOTATION.to_owned(), template_digest(vm));
    // What was decided about the machine holds for its instance; what its template says of that is nobody's word.
    for key in rights::ANNOTATIONS {
        annotations.remove(key);
        if let Some(value) = vm.metadata.annotations.as_ref().and_then(|all| all.get(key)) {
            annotations.insert(key.to_owned(), value.clone());
        }
    }
    let mut spec = template.spec.clone();
    if paused {
        spec.start_strategy = Some("Paused".to_owned());
    }
    VirtualMachineInstance {
        metadata: ObjectMeta {
            name: vm.metadata.name.clone(),
            namespace: vm.metadata.namespace.clone(),
            labels: template.metadata.labels.clone(),
            annotations: Some(annotations),
            finalizers: Some(vec![VM_FINALIZER.to_owned(), FOREGROUND_FINALIZER.to_owned()]),
            owner_references: Some(vec![OwnerReference {
                api_version: "kubevirt.io/v1".to_owned(),
                kind: "VirtualMachine".to_owned(),
                name: vm.metadata.name.clone().unwrap_or_default(),
                uid: uid(&vm.metadata).to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec,
        ..VirtualMachineInstance::default()
    }
}

/// The first open request is a start that leaves the guest paused.
pub(super) fn starts_paused(requests: &[VirtualMachineStateChangeRequest]) -> bool {
    requests
        .first()
        .is_some_and(|r| r.action == "Start" && r.data.get("paused").is_some_and(|paused| paused == "true"))
}

/// No instance has been made yet under the strategy in force. The strategy is written into the status only once an
/// instance was seen, so that a crash between creating and noting cannot make a `Once` machine run twice or never.
pub(super) fn is_first(status: &VirtualMachineStatus, strategy: &str) -> bool {
    status.run_strategy.as_deref() != Some(strategy)
}
