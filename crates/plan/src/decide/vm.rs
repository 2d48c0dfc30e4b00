//! The VirtualMachine controller.

use std::time::Duration;

use ferrovirt_api::kubevirt::{
    VirtualMachine, VirtualMachineCondition, VirtualMachineInstance, VirtualMachineStartFailure,
    VirtualMachineStateChangeRequest,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::start::{self, Want};
use super::vm_status::{self, Observed};
use super::{Action, Claim, Decision, Event, Refused, VM_FINALIZER, patch};
use ferrovirt_kubernetes::typed_condition::{Condition, set};

/// What is known about a VirtualMachine.
#[derive(Clone, Copy, Debug)]
pub struct VmSnapshot<'a> {
    /// The machine.
    pub vm: &'a VirtualMachine,
    /// The instance of the same name, no matter who owns it.
    pub vmi: Option<&'a VirtualMachineInstance>,
    /// The claims that the template names ([`super::claim_names`]).
    pub claims: &'a [Claim],
}

/// Decides about a VirtualMachine. `jitter` is a fresh random number from 0 to 1, used for the back-off alone.
///
/// Whatever must survive the end of an instance (the record of failed starts, a queued start) is stored before the
/// instance is deleted; the finalizer on the instance makes that possible even when somebody else deletes it.
pub fn vm(snapshot: &VmSnapshot<'_>, now: Timestamp, jitter: f64) -> Decision {
    let machine = snapshot.vm;
    let mine = snapshot.vmi.filter(|vmi| is_owned(vmi, machine));
    if machine.metadata.deletion_timestamp.is_some() {
        return deleted(snapshot, mine, now);
    }

    let old = machine.status.clone().unwrap_or_default();
    let strategy = start::strategy(machine);
    let mut requests = start::open_requests(strategy, &old.state_change_requests, mine);
    let failure = start::start_failure(old.start_failure.as_ref(), strategy, mine, now, jitter);
    let want = start::want(strategy, mine, &requests, start::is_first(&old, strategy));
    if want == Want::StopThenStart {
        requests.push(VirtualMachineStateChangeRequest { action: "Start".to_owned(), ..Default::default() });
    }
    let must_store = failure != old.start_failure || want == Want::StopThenStart;

    let mut decision = Decision::default();
    if failure.is_some() {
        // Nothing else may happen until the record is to be cleared.
        decision.requeue_after = mine.and_then(|vmi| start::forgiven_in(vmi, now)).map(Duration::from_secs);
    }
    let wanted = Wanted { want, failure: failure.as_ref(), must_store, requests: &requests };
    let starting = act(snapshot, mine, &wanted, now, &mut decision);

    if let Some(vmi) = mine
        && vmi.metadata.deletion_timestamp.is_some()
        && start::is_final(vmi)
        && !must_store
        && let Some(action) = release(vmi)
    {
        decision.actions.push(action);
    }

    // One patch for each object in a round: the second would be overtaken by the first.
    if !decision.actions.iter().any(|a| matches!(a, Action::PatchVm(_))) {
        let finalizers = with_finalizer(&machine.metadata);
        if let Some(finalizers) = finalizers {
            let mut new = machine.clone();
            new.metadata.finalizers = Some(finalizers);
            decision.actions.push(Action::PatchVm(patch::between(&machine.metadata, machine, &new)));
        } else {
            let observed = Observed {
                snapshot,
                vmi: mine,
                foreign: snapshot.vmi.is_some() && mine.is_none(),
                strategy,
                starting,
            };
            let mut status = vm_status::status(&observed, now);
            status.state_change_requests = requests;
            status.start_failure = failure;
            status.printable_status = Some(vm_status::printable(&observed, &status).to_owned());
            let mut new = machine.clone();
            new.status = Some(status);
            push_patch(
                &mut decision.actions,
                Action::PatchVmStatus,
                patch::between(&machine.metadata, machine, &new),
            );
        }
    }
    decision
}

/// What is to become of the instance, and what that depends on.
struct Wanted<'a> {
    want: Want,
    failure: Option<&'a VirtualMachineStartFailure>,
    /// The record is stored first; the write wakes the decision again.
    must_store: bool,
    requests: &'a [VirtualMachineStateChangeRequest],
}

/// Does what is wanted of the instance; whether that starts it.
fn act(
    snapshot: &VmSnapshot<'_>,
    mine: Option<&VirtualMachineInstance>,
    wanted: &Wanted<'_>,
    now: Timestamp,
    decision: &mut Decision,
) -> bool {
    let machine = snapshot.vm;
    match wanted.want {
        Want::Nothing(why) => decision.explanation = why.to_owned(),
        Want::StopThenStart => decision.explanation = "queueing a start after the failure".to_owned(),
        Want::Stop(why) => {
            decision.explanation = format!("stopping: {why}");
            if let (false, Some(vmi)) = (wanted.must_store, mine) {
                let uid = start::uid(&vmi.metadata).to_owned();
                decision.actions.push(Action::DeleteVmi { uid });
                decision.actions.push(Event::normal(
                    "SuccessfulDelete",
                    format!(
                        "Stopped the virtual machine by deleting the virtual machine instance {}",
                        uid_of(vmi)
                    ),
                ));
            }
        }
        Want::BecomeAlways => {
            decision.explanation = "a start was requested: setting the run strategy to Always".to_owned();
            let mut new = machine.clone();
            set_running(&mut new, true);
            decision.actions.push(Action::PatchVm(patch::between(&machine.metadata, machine, &new)));
        }
        Want::Start => match start::retry_at(wanted.failure, now) {
            Some(retry) => {
                decision.requeue_after = Duration::try_from(retry.duration_since(now)).ok();
                decision.explanation = format!("waiting until {retry} before the next start");
            }
            None if snapshot.vmi.is_some() => {
                decision.explanation =
                    "an instance of this name exists that this machine does not own".to_owned();
            }
            None => {
                decision.explanation = "starting".to_owned();
                let vmi = start::instance(machine, start::starts_paused(wanted.requests));
                decision.actions.push(Action::CreateVmi(Box::new(vmi)));
                decision.actions.push(Event::normal(
                    "SuccessfulCreate",
                    format!(
                        "Started the virtual machine by creating the new virtual machine instance {}",
                        name(machine)
                    ),
                ));
                return true;
            }
        },
    }
    false
}

/// A VirtualMachine on its way out: its instance goes first, then the finalizer. With the finalizer
/// `orphan` (kubectl delete --cascade=orphan) the instance stays.
fn deleted(snapshot: &VmSnapshot<'_>, mine: Option<&VirtualMachineInstance>, now: Timestamp) -> Decision {
    let machine = snapshot.vm;
    let mut decision = Decision::default();
    let orphan = machine.metadata.finalizers.iter().flatten().any(|f| f == "orphan");
    if let (Some(vmi), false) = (mine, orphan) {
        decision.explanation = "waiting for the instance to go".to_owned();
        if vmi.metadata.deletion_timestamp.is_none() {
            decision.actions.push(Action::DeleteVmi { uid: start::uid(&vmi.metadata).to_owned() });
        } else if start::is_final(vmi)
            && let Some(action) = release(vmi)
        {
            decision.actions.push(action);
        }
        let observed = Observed {
            snapshot,
            vmi: mine,
            foreign: false,
            strategy: start::strategy(machine),
            starting: false,
        };
        let mut status = vm_status::status(&observed, now);
        status.printable_status = Some("Terminating".to_owned());
        let mut new = machine.clone();
        new.status = Some(status);
        push_patch(
            &mut decision.actions,
            Action::PatchVmStatus,
            patch::between(&machine.metadata, machine, &new),
        );
        return decision;
    }
    decision.explanation = "letting the machine go".to_owned();
    if let Some(vmi) = mine
        && let Some(action) = release(vmi)
    {
        decision.actions.push(action);
    }
    let mut new = machine.clone();
    new.metadata.finalizers = without(&machine.metadata, VM_FINALIZER);
    push_patch(&mut decision.actions, Action::PatchVm, patch::between(&machine.metadata, machine, &new));
    decision
}

/// Decides about an instance whose VirtualMachine is gone: nobody else takes the VM controller's finalizer away.
pub fn vm_gone(vmi: &VirtualMachineInstance) -> Decision {
    let actions: Vec<Action> = release(vmi).into_iter().collect();
    Decision { actions, requeue_after: None, explanation: "the instance's machine is gone".to_owned() }
}

/// What to write on the machine when the API server refused to create its instance.
pub fn vm_refused(machine: &VirtualMachine, refused: &Refused, now: Timestamp) -> Vec<Action> {
    let mut new = machine.clone();
    let status = new.status.get_or_insert_default();
    set(
        &mut status.conditions,
        VirtualMachineCondition::new("Failure", "True", "FailedCreate", &refused.message),
        now,
    );
    let mut actions = Vec::new();
    push_patch(&mut actions, Action::PatchVmStatus, patch::between(&machine.metadata, machine, &new));
    actions.push(Event::warning(
        "FailedCreate",
        format!("The virtual machine instance was not created: {}", refused.message),
    ));
    actions
}

/// Writes running or halted in the words that the user chose (`running` or `runStrategy`).
fn set_running(machine: &mut VirtualMachine, running: bool) {
    match machine.spec.running {
        Some(_) => machine.spec.running = Some(running),
        None => machine.spec.run_strategy = Some(if running { "Always" } else { "Halted" }.to_owned()),
    }
}

pub(super) fn push_patch(
    actions: &mut Vec<Action>,
    make: impl FnOnce(Vec<Value>) -> Action,
    ops: Vec<Value>,
) {
    if !ops.is_empty() {
        actions.push(make(ops));
    }
}

/// The finalizers without one; `None` rather than an empty list.
pub(super) fn without(meta: &ObjectMeta, finalizer: &str) -> Option<Vec<String>> {
    let rest: Vec<String> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).cloned().collect();
    (!rest.is_empty()).then_some(rest)
}

fn with_finalizer(meta: &ObjectMeta) -> Option<Vec<String>> {
    let mut all = meta.finalizers.clone().unwrap_or_default();
    if all.iter().any(|f| f == VM_FINALIZER) {
        return None;
    }
    all.push(VM_FINALIZER.to_owned());
    Some(all)
}

/// Takes the VM controller's finalizer off an instance.
fn release(vmi: &VirtualMachineInstance) -> Option<Action> {
    let mut new = vmi.clone();
    new.metadata.finalizers = without(&vmi.metadata, VM_FINALIZER);
    let ops = patch::between(&vmi.metadata, vmi, &new);
    (!ops.is_empty()).then_some(Action::PatchVmi(ops))
}

fn is_owned(vmi: &VirtualMachineInstance, machine: &VirtualMachine) -> bool {
    vmi.metadata
        .owner_references
        .iter()
        .flatten()
        .any(|o| o.controller == Some(true) && o.uid == start::uid(&machine.metadata))
}

fn name(machine: &VirtualMachine) -> &str {
    machine.metadata.name.as_deref().unwrap_or_default()
}

fn uid_of(vmi: &VirtualMachineInstance) -> &str {
    start::uid(&vmi.metadata)
}
