//! The part of a VirtualMachineInstance's status that the agent owns, as a patch: pure.

use super::redacted::Redacted;
use ferrovirt_api::kubevirt::{
    VirtualMachineInstance, VirtualMachineInstanceCondition, VirtualMachineInstanceNetworkInterface,
};
use ferrovirt_kubernetes::typed_condition::{Condition, find, remove, set};
pub use ferrovirt_plan::decide::place::{NO_NETWORK, NOT_AS_RENDERED, NOT_READY};
use serde_json::{Value, json};

/// What the agent knows about a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// How far it got.
    pub phase: Phase,
    /// Why it ended as it did, or cannot start.
    pub reason: Option<String>,
    /// vCPUs are stopped by request.
    pub paused: bool,
    /// Interfaces as `status.interfaces` shows them.
    pub interfaces: Vec<VirtualMachineInstanceNetworkInterface>,
    /// Bytes of guest memory.
    pub memory: u64,
    /// (sockets, cores, threads)
    pub topology: (u32, u32, u32),
    /// QEMU machine type.
    pub machine_type: String,
    /// Where the machine cannot be started now: reason and message of the condition Synchronized.
    pub trouble: Option<(&'static str, Redacted)>,
    /// SELinux context of the launcher's process, or `none`; empty where nobody here can see it.
    pub selinux: String,
    /// Whether it is enforced: status, reason and message of the condition SELinuxEnforced.
    pub enforced: Option<(&'static str, &'static str, String)>,
}

/// How far a machine got on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not started yet: the controller owns the phase.
    #[default]
    Starting,
    /// vCPUs exist.
    Running,
    /// The guest shut down.
    Succeeded,
    /// It ended in another way.
    Failed,
}

impl Phase {
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Starting => None,
            Self::Running => Some("Running"),
            Self::Succeeded => Some("Succeeded"),
            Self::Failed => Some("Failed"),
        }
    }
}

/// Whether the agent may write yet, and what.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Everything is as known.
    Done,
    /// The controller has not handed the object over yet.
    Wait,
    /// A merge patch.
    Patch(Value),
}

/// The next step from `vmi` towards `known`. `now` is an RFC 3339 time stamp.
pub fn step(vmi: &VirtualMachineInstance, known: &Known, now: &str) -> Step {
    let empty = Default::default();
    let status = vmi.status.as_ref().unwrap_or(&empty);
    let current = status.phase.as_deref().unwrap_or_default();
    if matches!(current, "Succeeded" | "Failed") {
        return Step::Done;
    }
    let time = now.parse().unwrap_or_default();
    let owned = matches!(current, "Scheduled" | "Running");
    let mut conditions = status.conditions.clone();
    match &known.trouble {
        Some((reason, message)) => {
            set(&mut conditions, Condition::new("Synchronized", "False", reason, message.as_str()), time)
        }
        None => {
            let ours =
                |c: &VirtualMachineInstanceCondition| c.status() == "False" && TROUBLES.contains(&c.reason());
            if find(&conditions, "Synchronized").is_some_and(ours) {
                remove(&mut conditions, "Synchronized");
            }
        }
    }
    let mut patch = json!({});
    if known.phase != Phase::Starting && !owned {
        return Step::Wait;
    }
    if let Some(phase) = known.phase.name() {
        let running = known.phase == Phase::Running;
        if phase != current {
            let mut stamps = serde_json::to_value(&status.phase_transition_timestamps).unwrap_or_default();
            if let Some(list) = stamps.as_array_mut() {
                list.push(json!({"phase": phase, "phaseTransitionTimestamp": now}));
            }
            put(&mut patch, "phase", json!(phase));
            put(&mut patch, "phaseTransitionTimestamps", stamps);
            // Only together with the phase: afterwards the condition is the controller's, which mirrors the pod's. Two
            // writers that both insist would overwrite each other for as long as a stopping guest takes.
            if running {
                set(&mut conditions, Condition::new("Ready", "True", "", ""), time);
            } else {
                let message = "Guest VM is not reported as running";
                set(&mut conditions, Condition::new("Ready", "False", "GuestNotRunning", message), time);
            }
        }
        if let Some((status, reason, message)) = &known.enforced {
            set(&mut conditions, Condition::new("SELinuxEnforced", status, reason, message), time);
        }
        if known.paused && running {
            set(
                &mut conditions,
                Condition::new("Paused", "True", "PausedByUser", "VMI was paused by user"),
                time,
            );
        } else {
            remove(&mut conditions, "Paused");
        }
        let reason = if running { None } else { known.reason.clone() };
        if reason != status.reason {
            put(&mut patch, "reason", json!(reason));
        }
        fill(&mut patch, status, known);
    }
    if serde_json::to_value(&conditions).ok() != serde_json::to_value(&status.conditions).ok() {
        put(&mut patch, "conditions", json!(conditions));
    }
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Step::Done;
    }
    let version = vmi.metadata.resource_version.clone().unwrap_or_default();
    Step::Patch(json!({"metadata": {"resourceVersion": version}, "status": patch}))
}

/// Reasons of the condition Synchronized that are this agent's.
const TROUBLES: [&str; 14] = [
    NOT_READY,
    NO_NETWORK,
    NOT_AS_RENDERED,
    "PodRejected",
    "MachineEnded",
    "Evicted",
    "SELinuxTypeUnknown",
    "SELinuxTypeUnreachable",
    "ErrImagePull",
    "InvalidImageName",
    "InsufficientHugePages",
    "CreateContainerConfigError",
    "CreateContainerError",
    "FailedStart",
];

fn fill(patch: &mut Value, status: &ferrovirt_api::kubevirt::VirtualMachineInstanceStatus, known: &Known) {
    let interfaces = json!(known.interfaces);
    if serde_json::to_value(&status.interfaces).ok().as_ref() != Some(&interfaces) {
        put(patch, "interfaces", interfaces);
    }
    let (sockets, cores, threads) = known.topology;
    let size = ferrovirt_model::Bytes(known.memory).to_string();
    let fixed = [
        (
            "memory",
            json!({"guestAtBoot": size, "guestCurrent": size, "guestRequested": size}),
            status.memory.is_some(),
        ),
        (
            "currentCPUTopology",
            json!({"sockets": sockets, "cores": cores, "threads": threads}),
            status.current_cpu_topology.is_some(),
        ),
        ("machine", json!({"type": known.machine_type}), status.machine.is_some()),
        (
            "selinuxContext",
            json!(known.selinux),
            known.selinux.is_empty() || status.selinux_context.is_some(),
        ),
    ];
    for (name, value, there) in fixed {
        if !there {
            put(patch, name, value);
        }
    }
}

fn put(patch: &mut Value, name: &str, value: Value) {
    if let Some(fields) = patch.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn vmi(status: Value) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "m", "namespace": "n", "resourceVersion": "7"},
            "spec": {"domain": {"devices": {}}}, "status": status,
        }))
        .unwrap()
    }

    fn running() -> Known {
        Known {
            phase: Phase::Running,
            memory: 64 << 20,
            topology: (1, 4, 1),
            selinux: "none".to_owned(),
            ..Known::default()
        }
    }

    #[test]
    fn the_controller_hands_over_first() {
        assert_eq!(step(&vmi(json!({"phase": "Scheduling"})), &running(), NOW), Step::Wait);
        let Step::Patch(patch) = step(&vmi(json!({"phase": "Scheduled"})), &running(), NOW) else { panic!() };
        assert_eq!(patch["status"]["phase"], "Running");
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["status"]["conditions"][0]["type"], "Ready");
        assert_eq!(patch["status"]["memory"]["guestAtBoot"], "64Mi");
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let Step::Patch(patch) = step(&vmi(json!({"phase": "Scheduled"})), &running(), NOW) else { panic!() };
        assert_eq!(step(&vmi(patch["status"].clone()), &running(), "2026-09-09T09:09:09Z"), Step::Done);
    }

    #[test]
    fn a_context_that_nobody_sees_is_not_written() {
        let known = Known { selinux: String::new(), ..running() };
        let Step::Patch(patch) = step(&vmi(json!({"phase": "Scheduled"})), &known, NOW) else { panic!() };
        assert_eq!(patch["status"].get("selinuxContext"), None);
        assert_eq!(step(&vmi(patch["status"].clone()), &known, NOW), Step::Done);
    }

    #[test]
    fn pausing_comes_and_goes() {
        let Step::Patch(first) = step(&vmi(json!({"phase": "Scheduled"})), &running(), NOW) else { panic!() };
        let mut status = first["status"].clone();
        let paused = Known { paused: true, ..running() };
        let Step::Patch(patch) = step(&vmi(status.clone()), &paused, NOW) else { panic!() };
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|c| c["type"] == "Paused" && c["status"] == "True"));
        status["conditions"] = patch["status"]["conditions"].clone();
        let Step::Patch(patch) = step(&vmi(status), &running(), NOW) else { panic!() };
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        assert!(!conditions.iter().any(|c| c["type"] == "Paused"));
    }

    #[test]
    fn an_end_is_final() {
        let failed = Known { phase: Phase::Failed, reason: Some("QEMU died".to_owned()), ..running() };
        let Step::Patch(patch) = step(&vmi(json!({"phase": "Running"})), &failed, NOW) else { panic!() };
        assert_eq!(patch["status"]["phase"], "Failed");
        assert_eq!(patch["status"]["reason"], "QEMU died");
        assert_eq!(step(&vmi(json!({"phase": "Failed"})), &running(), NOW), Step::Done);
    }

    #[test]
    fn trouble_is_a_condition_no_matter_who_owns_the_phase() {
        let trouble =
            |reason| Known { trouble: Some((reason, Redacted::ours("put it there"))), ..Known::default() };
        for reason in ["ErrImagePull", NO_NETWORK, NOT_AS_RENDERED] {
            let scheduling = vmi(json!({"phase": "Scheduling"}));
            let Step::Patch(patch) = step(&scheduling, &trouble(reason), NOW) else { panic!() };
            assert_eq!(patch["status"]["conditions"][0]["reason"], reason);
            let with = vmi(patch["status"].clone());
            let Step::Patch(patch) = step(&with, &Known::default(), NOW) else { panic!() };
            assert_eq!(patch["status"]["conditions"], json!([]), "{reason}");
        }
    }
}
