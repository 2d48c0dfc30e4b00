//! The VirtualMachineInstance controller.

use std::collections::BTreeSet;
use std::time::Duration;

use ferrovirt_api::kubevirt::{VirtualMachineInstance, VirtualMachineInstanceSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::refusal::hint;
use super::start::{is_final, phase, uid};
use super::start_in_vain::{self, NodeLack, Verdict};
use super::vm::{push_patch, without};
use super::vmi_status::{self, Trouble};
use super::{
    Action, Claim, ClaimState, Decision, Event, FOREGROUND_FINALIZER, Look, Refused, patch, pods, record,
};
use crate::selinux::label::Mcs;
use crate::user_namespace;

/// How long the node agent may take to report the end of a guest whose launcher has ended. Generous: it only matters
/// when the agent is down, and then nothing runs that could be run twice.
const AGENT_SLACK: Duration = Duration::from_secs(5);
/// How long the launcher of a guest that has ended may take to end itself.
const LAUNCHER_SLACK: Duration = Duration::from_secs(30);
/// Seconds that a launcher pod's own grace period is longer than its machine's, as rendered.
const POD_GRACE_EXTRA: i64 = 30;
/// Grace period of a machine that names none, in seconds.
const DEFAULT_GRACE: i64 = 30;

/// What is known about a VirtualMachineInstance.
#[derive(Clone, Copy)]
pub struct VmiSnapshot<'a> {
    /// The instance.
    pub vmi: &'a VirtualMachineInstance,
    /// Launcher pods of its namespace that were made for it or for another instance of the same name.
    pub pods: &'a [&'a Pod],
    /// The claims that it names ([`claim_names`]).
    pub claims: &'a [Claim],
    /// MCS pairs of other instances and of their pods ([`held_pair`], [`pod_pair`]); `None` where launcher pods are not
    /// labelled.
    pub taken: Option<&'a BTreeSet<Mcs>>,
    /// Renders the launcher pod, or says why this is no valid machine. Pure, and the pod's name depends on the
    /// instance's UID alone, so that creating it twice is impossible.
    pub launcher: &'a dyn Fn(&VirtualMachineInstance) -> Result<Pod, Vec<String>>,
    /// What keeps a node from giving pods a user namespace, where `userNamespaces` is Auto.
    pub lack: Option<&'a NodeLack<'a>>,
    /// What the API server has said of the pod that is not recorded yet ([`super::unrecorded`]), where it was asked.
    pub look: Option<&'a Look>,
}

/// Names of the PersistentVolumeClaims that a machine needs.
pub fn claim_names(spec: &VirtualMachineInstanceSpec) -> Vec<String> {
    let mut names: Vec<String> = spec
        .volumes
        .iter()
        .filter_map(|v| {
            let ephemeral = v.ephemeral.as_ref().and_then(|e| e.persistent_volume_claim.as_ref());
            let direct = v.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
            direct.or_else(|| ephemeral.map(|c| c.claim_name.clone()))
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What a round makes of an instance, beside the facts that every round copies from the pod.
#[derive(Default)]
struct Step {
    /// The new phase.
    phase: Option<&'static str>,
    /// To be done before the patch.
    actions: Vec<Action>,
    /// Events to be written after the patch.
    events: Vec<Action>,
    trouble: Option<Trouble>,
    /// The level to record.
    level: Option<Mcs>,
    /// Let the instance go.
    release: bool,
    /// Why its pod is given up, and made again without a user namespace.
    given_up: Option<String>,
    /// Why its pod waits in a user namespace, and what to look at.
    waits: Option<String>,
    requeue_after: Option<Duration>,
    why: String,
}

impl Step {
    fn wait(why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Self::default() }
    }

    fn to(phase: &'static str, why: impl Into<String>) -> Self {
        Self { phase: Some(phase), why: why.into(), ..Self::default() }
    }
}

/// Decides about a VirtualMachineInstance.
pub fn vmi(snapshot: &VmiSnapshot<'_>, now: Timestamp) -> Decision {
    let vmi = snapshot.vmi;
    let own: Vec<&Pod> =
        snapshot.pods.iter().copied().filter(|pod| pods::is_for(pod, uid(&vmi.metadata))).collect();
    let mut decision = Decision::default();

    // Left over from an earlier instance of the same name: two of them would be the same machine twice.
    let name = vmi.metadata.name.as_deref().unwrap_or_default();
    let earlier: Vec<&Pod> = snapshot
        .pods
        .iter()
        .copied()
        .filter(|pod| pods::is_named(pod, name) && !pods::is_for(pod, uid(&vmi.metadata)))
        .collect();
    for pod in earlier.iter().filter(|pod| !pods::is_going(pod)) {
        decision.actions.push(delete(pod, None));
    }

    let pod = own.iter().copied().find(|pod| !pods::is_down(pod)).or_else(|| own.first().copied());
    let deleting = vmi.metadata.deletion_timestamp.is_some();
    let mut step = if is_final(vmi) {
        ended(vmi, &own, deleting, now)
    } else if deleting {
        going(snapshot, &own, now)
    } else {
        match (phase(vmi), pod) {
            ("" | "Pending", None) => {
                let blocked = earlier.iter().any(|pod| !pods::is_down(pod));
                create(snapshot, blocked)
            }
            ("" | "Pending" | "Scheduling", Some(pod)) => schedule(snapshot, pod, now),
            (_, Some(pod)) => running(pod, now),
            (_, None) => vanished(snapshot),
        }
    };

    let mut new = vmi.clone();
    if step.release {
        new.metadata.finalizers = without(&vmi.metadata, FOREGROUND_FINALIZER);
    } else if !deleting && !is_final(vmi) {
        prepare(&mut new, &mut step);
    }
    if let Some(level) = step.level {
        new.status.get_or_insert_default().selinux_level = Some(level.to_string());
    }
    if let Some(why) = &step.given_up {
        vmi_status::give_up(&mut new, why, now);
    }
    if vmi_status::say_waits(&mut new, step.waits.as_deref(), now) {
        step.events.extend(step.waits.clone().map(|why| Event::warning(user_namespace::WAITING, why)));
    }
    let unfit = snapshot.look.and_then(|look| record::note(&mut new, &own, look));
    step.trouble = step.trouble.or(unfit);
    vmi_status::refresh(&mut new, pod, &own, snapshot.claims, step.phase, step.trouble.as_ref(), now);
    if let Some(trouble) = step.trouble.as_ref().filter(|_| vmi_status::is_news(vmi, &new)) {
        step.events.push(Event::warning(trouble.reason, trouble.message.clone()));
    }

    decision.actions.append(&mut step.actions);
    push_patch(&mut decision.actions, Action::PatchVmi, patch::between(&vmi.metadata, vmi, &new));
    decision.actions.append(&mut step.events);
    decision.requeue_after = step.requeue_after;
    decision.explanation = step.why;
    decision
}

/// The finalizer must be stored before a pod exists, or a fast deletion could leave the pod behind. Admission
/// normally has put it there, together with the phase.
fn prepare(new: &mut VirtualMachineInstance, step: &mut Step) {
    let finalizers = new.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FOREGROUND_FINALIZER) {
        finalizers.push(FOREGROUND_FINALIZER.to_owned());
        step.actions.clear();
        step.events.clear();
        step.why = "adding the finalizer first".to_owned();
    }
    if phase(new).is_empty() && step.phase.is_none() {
        step.phase = Some("Pending");
    }
}

/// No pod yet: make one, or say what is missing.
fn create(snapshot: &VmiSnapshot<'_>, blocked: bool) -> Step {
    let missing: Vec<&str> =
        snapshot.claims.iter().filter(|c| c.state == ClaimState::Missing).map(|c| c.name.as_str()).collect();
    if !missing.is_empty() {
        let message = format!(
            "PersistentVolumeClaim {} not found; create it to let the machine start",
            missing.join(", ")
        );
        let why = message.clone();
        return Step {
            trouble: Some(Trouble { reason: "FailedPvcNotFound", message }),
            why,
            ..Step::default()
        };
    }
    if snapshot.claims.iter().any(|claim| claim.state == ClaimState::Filling) {
        return Step::wait("waiting for a claim to be filled");
    }
    if blocked {
        return Step::wait("waiting for the pod of an earlier instance of this name to end");
    }
    if let Some(step) = snapshot.taken.and_then(|taken| level(snapshot, taken)) {
        return step;
    }
    match (snapshot.launcher)(snapshot.vmi) {
        Ok(pod) => {
            let name = pods::name(&pod).to_owned();
            let actions = vec![
                // A cache may lag behind the whole life of the instance's pod: only who has seen the newest instance
                // makes one, with the level that is recorded now and not one that was given up since.
                Action::PatchVmi(patch::unchanged(&snapshot.vmi.metadata)),
                Action::CreatePod(Box::new(pod)),
                Event::normal("SuccessfulCreate", format!("Created virtual machine pod {name}")),
            ];
            Step { actions, why: format!("creating pod {name}"), ..Step::default() }
        }
        Err(causes) => {
            let message = format!("the machine cannot be run as it is: {}", causes.join("; "));
            let why = message.clone();
            Step { trouble: Some(Trouble { reason: "InvalidMachine", message }), why, ..Step::default() }
        }
    }
}

/// Records an MCS pair that nobody else has; `None` when the instance's own is recorded and nobody else's.
///
/// The pod is made in a later round, when the record has come back and is still the newest. Anyone who records a pair sees
/// then who had recorded it before, since all instances come through one watch, and gives way. What is given up must not
/// be in a pod that the cache does not show yet. So no two pods ever have the same pair, and a kill between any two steps
/// loses nothing.
fn level(snapshot: &VmiSnapshot<'_>, taken: &BTreeSet<Mcs>) -> Option<Step> {
    let vmi = snapshot.vmi;
    let held = held_pair(vmi);
    if held.is_some_and(|own| !taken.contains(&own)) {
        return None;
    }
    let actions = if held.is_some() { confirm(snapshot) } else { Vec::new() };
    // A machine gets its pair back when it starts again, as a rule: the seed is the owner's.
    let owner = vmi.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let seed = owner.map_or(uid(&vmi.metadata), |owner| owner.uid.as_str());
    Some(match Mcs::allocate(seed, taken) {
        Some(pair) => Step {
            level: Some(pair),
            actions,
            ..Step::wait(format!("recording the SELinux level {pair} first"))
        },
        None => {
            let message = "no SELinux level is left: every pair of categories belongs to a machine; stop one"
                .to_owned();
            let why = message.clone();
            Step { trouble: Some(Trouble { reason: "NoFreeLevel", message }), why, ..Step::default() }
        }
    })
}

/// The MCS pair that is recorded for an instance.
pub fn held_pair(vmi: &VirtualMachineInstance) -> Option<Mcs> {
    Mcs::parse(vmi.status.as_ref()?.selinux_level.as_deref()?)
}

/// The MCS pair of a launcher pod whose processes may run.
pub fn pod_pair(pod: &Pod) -> Option<Mcs> {
    let label = pod.spec.as_ref()?.security_context.as_ref()?.se_linux_options.as_ref()?;
    Mcs::parse(label.level.as_deref()?).filter(|_| !pods::is_down(pod))
}

/// The pod exists, the guest does not.
fn schedule(snapshot: &VmiSnapshot<'_>, pod: &Pod, now: Timestamp) -> Step {
    if start_in_vain::is_given_up(snapshot.vmi, pod) {
        let actions = if pods::is_going(pod) { Vec::new() } else { vec![delete(pod, None)] };
        return Step { actions, ..Step::wait("waiting for the end of the pod that did not start") };
    }
    let mut waits = None;
    let again = match snapshot.lack.filter(|_| !pods::is_up(pod)) {
        None => None,
        Some(lack) => match start_in_vain::judge(pod, lack, now) {
            Verdict::Wait(again) => again,
            Verdict::GiveUp(why) => {
                let events = vec![Event::warning(user_namespace::NOT_STARTED, why.clone())];
                let given_up = Some(why.clone());
                return Step { events, given_up, ..Step::to("Pending", why) };
            }
            Verdict::Say(why) => {
                waits = Some(why);
                None
            }
        },
    };
    if pods::is_down(pod) {
        let message = format!("the launcher pod ended before the guest started: {}", pods::last_words(pod));
        return Step {
            events: vec![Event::warning("Stopped", message.clone())],
            ..Step::to("Failed", message)
        };
    }
    if pods::is_going(pod) {
        return Step::to("Failed", "the launcher pod was deleted before the guest started");
    }
    if pods::is_up(pod) {
        return Step::to("Scheduled", "the launcher runs: handing over to the node agent");
    }
    let trouble = pods::image_trouble(pod).map(|(reason, message)| Trouble { reason, message });
    Step {
        trouble,
        waits,
        requeue_after: again,
        ..Step::to("Scheduling", "waiting for the launcher's container")
    }
}

/// The node agent owns the instance; only the end of the pod matters here.
fn running(pod: &Pod, now: Timestamp) -> Step {
    if !pods::is_down(pod) {
        return Step::wait("the node agent has the machine");
    }
    if let Some(rest) = pods::ended_at(pod).and_then(|at| remaining(at, AGENT_SLACK, now)) {
        return Step {
            requeue_after: Some(rest),
            ..Step::wait("waiting for the node agent to report the end")
        };
    }
    if pods::ended_well(pod) {
        return Step::to("Succeeded", "the launcher ended in an orderly way");
    }
    let message = format!("the launcher pod failed: {}", pods::last_words(pod));
    Step { events: vec![Event::warning("Stopped", message.clone())], ..Step::to("Failed", message) }
}

/// The pod that should be there is not. A cache may lag; the server is asked before the machine is given up.
fn vanished(snapshot: &VmiSnapshot<'_>) -> Step {
    let message = "the launcher pod is gone";
    Step {
        actions: confirm(snapshot),
        events: vec![Event::warning("Stopped", message)],
        ..Step::to("Failed", message)
    }
}

/// Deletion was requested while the machine had not ended.
fn going(snapshot: &VmiSnapshot<'_>, own: &[&Pod], now: Timestamp) -> Step {
    let active: Vec<&Pod> = own.iter().copied().filter(|pod| !pods::is_down(pod)).collect();
    if !active.is_empty() {
        let actions = active.iter().filter_map(|pod| take_down(snapshot.vmi, pod)).collect::<Vec<_>>();
        let events = if active.iter().any(|pod| !pods::is_going(pod)) {
            active.iter().map(|pod| deleted_event(pod)).collect()
        } else {
            Vec::new()
        };
        return Step { actions, events, ..Step::wait("waiting for the launcher pod to end") };
    }
    match own.first() {
        Some(pod) => running(pod, now),
        None => Step {
            actions: confirm(snapshot),
            release: true,
            ..Step::to("Failed", "deleted; no pod of the instance is left")
        },
    }
}

/// The machine has ended. The instance is held while one of its pods may still run something.
fn ended(vmi: &VirtualMachineInstance, own: &[&Pod], deleting: bool, now: Timestamp) -> Step {
    let active: Vec<&Pod> = own.iter().copied().filter(|pod| !pods::is_down(pod)).collect();
    if active.is_empty() {
        return Step { release: true, ..Step::wait("the machine has ended") };
    }
    let since = vmi_status::phase_since(vmi);
    if let (false, Some(rest)) = (deleting, since.and_then(|at| remaining(at, LAUNCHER_SLACK, now))) {
        return Step { requeue_after: Some(rest), ..Step::wait("waiting for the launcher to end") };
    }
    let actions = active.iter().filter_map(|pod| take_down(vmi, pod)).collect();
    Step { actions, ..Step::wait("waiting for the launcher pod to end") }
}

/// Deletes a pod, or shortens a deletion that is under way, so that the machine's grace period holds.
///
/// The launcher keeps to the period that it was started with; the pod's own is longer by a margin. Only when the
/// machine's was shortened since (a stop with a grace period) is the pod given less. Never less than one second:
/// zero would take the object away while its processes still run.
fn take_down(vmi: &VirtualMachineInstance, pod: &Pod) -> Option<Action> {
    let wanted = vmi.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE).max(0);
    let rendered = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let shortened = rendered.is_some_and(|seconds| wanted < seconds.saturating_sub(POD_GRACE_EXTRA));
    let grace = shortened.then(|| wanted.max(1));
    if !pods::is_going(pod) {
        return Some(delete(pod, grace));
    }
    let current = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
    grace.filter(|grace| *grace < current).map(|grace| delete(pod, Some(grace)))
}

fn delete(pod: &Pod, grace_seconds: Option<i64>) -> Action {
    Action::DeletePod { name: pods::name(pod).to_owned(), uid: pods::uid(pod).to_owned(), grace_seconds }
}

fn deleted_event(pod: &Pod) -> Action {
    Event::normal("SuccessfulDelete", format!("Deleted virtual machine pod {}", pods::name(pod)))
}

/// A machine that cannot be rendered never had a pod.
fn confirm(snapshot: &VmiSnapshot<'_>) -> Vec<Action> {
    (snapshot.launcher)(snapshot.vmi)
        .map(|pod| Action::ConfirmPodGone { name: pods::name(&pod).to_owned() })
        .into_iter()
        .collect()
}

/// What is left of a period that began at `start`. Clocks of two nodes may differ by as much as the period; a start that
/// is further ahead was written before the clock was set back, and nobody waits until it comes again.
pub(super) fn remaining(start: Timestamp, period: Duration, now: Timestamp) -> Option<Duration> {
    match Duration::try_from(now.duration_since(start)) {
        Ok(passed) => period.checked_sub(passed).filter(|rest| !rest.is_zero()),
        Err(_) => {
            let ahead = Duration::try_from(start.duration_since(now)).unwrap_or(Duration::MAX);
            (ahead <= period).then_some(period)
        }
    }
}

/// What to write on the instance when the API server refused to create its pod.
pub fn vmi_refused(vmi: &VirtualMachineInstance, refused: &Refused, now: Timestamp) -> Vec<Action> {
    let mut message = format!("The launcher pod was not created: {}", refused.message);
    if let Some(hint) = hint(&refused.message) {
        message.push_str(". ");
        message.push_str(hint);
    }
    let mut new = vmi.clone();
    let trouble = Trouble { reason: "FailedCreate", message };
    vmi_status::set_trouble(&mut new, &trouble, now);
    let mut actions = Vec::new();
    push_patch(&mut actions, Action::PatchVmi, patch::between(&vmi.metadata, vmi, &new));
    actions.push(Event::warning(trouble.reason, trouble.message));
    actions
}
