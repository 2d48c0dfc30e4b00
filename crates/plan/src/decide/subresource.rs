//! Start, stop and restart: what `subresources.kubevirt.io` writes, or why it refuses.
//!
//! Pure functions from the objects as stored to JSON patches. Every patch begins with a test of the resource version
//! that the answer was made from. When that test fails, somebody wrote in between: read the objects again and ask
//! again, for the answer may have become a refusal.

use ferrovirt_api::kubevirt::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineStateChangeRequest as Request,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{is_final, phase, strategy};

/// The API group of the subresources of machines.
pub const GROUP: &str = "subresources.kubevirt.io";
/// Its versions, the preferred one first; all are the same.
pub const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// Body of `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartOptions {
    /// The guest is started paused.
    pub paused: bool,
    /// `["All"]`: check, but change nothing.
    pub dry_run: Vec<String>,
}

/// Body of `stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StopOptions {
    /// Seconds between the request and the end of QEMU; the machine's own period when absent.
    pub grace_period: Option<i64>,
    /// `["All"]`: check, but change nothing.
    pub dry_run: Vec<String>,
}

/// Body of `restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartOptions {
    /// Only 0 is supported: do not wait for the guest.
    pub grace_period_seconds: Option<i64>,
    /// `["All"]`: check, but change nothing.
    pub dry_run: Vec<String>,
}

/// JSON patches to be performed in this order. With `dry_run` all are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patches {
    /// Of the VirtualMachineInstance.
    pub vmi: Vec<Value>,
    /// Of the VirtualMachine's specification.
    pub vm: Vec<Value>,
    /// Of the VirtualMachine's status subresource. Never together with `vm`.
    pub vm_status: Vec<Value>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP code.
    pub code: u16,
    /// Reason of the Status, as in Kubernetes.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    fn conflict(message: impl Into<String>) -> Self {
        Self { code: 409, reason: "Conflict", message: message.into() }
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self { code: 400, reason: "BadRequest", message: message.into() }
    }
}

const NOT_RUNNING: &str = "VM is not running";
const UNDERWAY: &str = "unable to complete request: stop/start already underway";

/// Starts a machine. `vmi` is its instance, if there is one.
///
/// # Errors
/// 409 when the machine runs already, when its strategy starts it by itself, and while a request is open.
pub fn start(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &StartOptions,
) -> Result<Patches, Refusal> {
    let strategy = strategy(vm);
    if vmi.is_some_and(|vmi| !is_final(vmi) && !phase(vmi).is_empty()) {
        return Err(Refusal::conflict("VM is already running"));
    }
    let mut request = Request { action: "Start".to_owned(), ..Request::default() };
    if options.paused {
        request.data.insert("paused".to_owned(), "true".to_owned());
    }
    let patches = match strategy {
        "Halted" if options.paused => asking(vm, vec![request])?,
        "Halted" => Patches { vm: running(vm, true), ..Patches::default() },
        "RerunOnFailure" | "Manual" => {
            let ended = vmi.filter(|vmi| is_final(vmi));
            if strategy == "RerunOnFailure" && ended.is_some_and(|vmi| phase(vmi) == "Failed") {
                return Err(Refusal::conflict(
                    "RerunOnFailure does not support starting VM from failed state",
                ));
            }
            match ended {
                Some(vmi) => asking(vm, vec![stop_of(vmi), request])?,
                None => asking(vm, vec![request])?,
            }
        }
        other => return Err(Refusal::conflict(format!("{other} does not support manual start requests"))),
    };
    Ok(unless_dry(&options.dry_run, patches))
}

/// Stops a machine.
///
/// # Errors
/// 409 when it does not run; 400 for a negative grace period.
pub fn stop(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &StopOptions,
) -> Result<Patches, Refusal> {
    if options.grace_period.is_some_and(|seconds| seconds < 0) {
        return Err(Refusal::bad_request("gracePeriod must not be negative"));
    }
    let live = vmi.filter(|vmi| !is_final(vmi));
    let shorter =
        live.zip(options.grace_period).map(|(vmi, seconds)| grace(vmi, seconds)).unwrap_or_default();
    let mut patches = match strategy(vm) {
        "Halted" => {
            let Some(vmi) = live else { return Err(Refusal::conflict(NOT_RUNNING)) };
            let old = vmi.spec.termination_grace_period_seconds;
            if options.grace_period.is_none_or(|new| old.is_some_and(|old| new >= old)) {
                return Err(Refusal::conflict(
                    "Halted only supports manual stop requests with a shorter graceperiod",
                ));
            }
            Patches::default()
        }
        "RerunOnFailure" | "Manual" => {
            let Some(vmi) = live else { return Err(Refusal::conflict(NOT_RUNNING)) };
            // A stop overrides whatever was asked before.
            Patches { vm_status: replace_requests(vm, vec![stop_of(vmi)]), ..Patches::default() }
        }
        _ => Patches { vm: running(vm, false), ..Patches::default() },
    };
    patches.vmi = shorter;
    Ok(unless_dry(&options.dry_run, patches))
}

/// Restarts a machine; with a grace period of 0 without waiting for the guest.
///
/// # Errors
/// 409 when it does not run, when its strategy does not restart, and while a request is open; 400 for a grace period
/// other than 0.
pub fn restart(
    vm: &VirtualMachine,
    vmi: Option<&VirtualMachineInstance>,
    options: &RestartOptions,
) -> Result<Patches, Refusal> {
    if options.grace_period_seconds.is_some_and(|seconds| seconds != 0) {
        return Err(Refusal::bad_request(if options.grace_period_seconds > Some(0) {
            "For force restart, only gracePeriod=0 is supported for now"
        } else {
            "gracePeriod has to be greater or equal to 0"
        }));
    }
    let strategy = strategy(vm);
    if matches!(strategy, "Halted" | "Once") {
        return Err(Refusal::conflict(format!("{strategy} does not support manual restart requests")));
    }
    let Some(vmi) = vmi.filter(|vmi| !is_final(vmi)) else { return Err(Refusal::conflict(NOT_RUNNING)) };
    let start = Request { action: "Start".to_owned(), ..Request::default() };
    let mut patches = asking(vm, vec![stop_of(vmi), start])?;
    if options.grace_period_seconds.is_some() {
        // One second, not none: with zero the pod's object would go before its processes.
        patches.vmi = grace(vmi, 1);
    }
    Ok(unless_dry(&options.dry_run, patches))
}

fn unless_dry(dry_run: &[String], patches: Patches) -> Patches {
    if dry_run.iter().any(|word| word == "All") { Patches::default() } else { patches }
}

fn stop_of(vmi: &VirtualMachineInstance) -> Request {
    Request { action: "Stop".to_owned(), uid: vmi.metadata.uid.clone(), ..Request::default() }
}

/// Queues requests, unless some are open.
fn asking(vm: &VirtualMachine, requests: Vec<Request>) -> Result<Patches, Refusal> {
    if vm.status.as_ref().is_some_and(|s| !s.state_change_requests.is_empty()) {
        return Err(Refusal::conflict(UNDERWAY));
    }
    Ok(Patches { vm_status: replace_requests(vm, requests), ..Patches::default() })
}

fn replace_requests(vm: &VirtualMachine, requests: Vec<Request>) -> Vec<Value> {
    let write = match &vm.status {
        Some(_) => json!({"op": "add", "path": "/status/stateChangeRequests", "value": requests}),
        None => json!({"op": "add", "path": "/status", "value": {"stateChangeRequests": requests}}),
    };
    vec![test(&vm.metadata), write]
}

/// Writes running or halted in the words that the user chose.
fn running(vm: &VirtualMachine, running: bool) -> Vec<Value> {
    let write = match vm.spec.running {
        Some(_) => json!({"op": "add", "path": "/spec/running", "value": running}),
        None => {
            let strategy = if running { "Always" } else { "Halted" };
            json!({"op": "add", "path": "/spec/runStrategy", "value": strategy})
        }
    };
    vec![test(&vm.metadata), write]
}

fn grace(vmi: &VirtualMachineInstance, seconds: i64) -> Vec<Value> {
    vec![
        test(&vmi.metadata),
        json!({"op": "add", "path": "/spec/terminationGracePeriodSeconds", "value": seconds}),
    ]
}

fn test(meta: &ObjectMeta) -> Value {
    json!({"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(strategy: &str) -> VirtualMachine {
        let mut vm = VirtualMachine::default();
        vm.metadata.resource_version = Some("5".into());
        vm.spec.run_strategy = Some(strategy.into());
        vm
    }

    fn vmi(phase: &str) -> VirtualMachineInstance {
        let mut vmi = VirtualMachineInstance::default();
        vmi.metadata.uid = Some("u".into());
        vmi.metadata.resource_version = Some("6".into());
        vmi.spec.termination_grace_period_seconds = Some(60);
        vmi.status.get_or_insert_default().phase = Some(phase.into());
        vmi
    }

    /// The writes without their tests, as text.
    fn shown(result: Result<Patches, Refusal>) -> String {
        match result {
            Err(refusal) => format!("{} {}", refusal.code, refusal.message),
            Ok(patches) => [("vmi", patches.vmi), ("vm", patches.vm), ("status", patches.vm_status)]
                .into_iter()
                .filter(|(_, ops)| !ops.is_empty())
                .map(|(what, ops)| {
                    assert_eq!(ops[0]["op"], "test");
                    format!("{what} {}={}", ops[1]["path"].as_str().unwrap(), ops[1]["value"])
                })
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    #[test]
    fn start_by_strategy_and_phase() {
        let rows = [
            ("Halted", "", false, "vm /spec/runStrategy=\"Always\""),
            (
                "Halted",
                "",
                true,
                "status /status={\"stateChangeRequests\":[{\"action\":\"Start\",\"data\":{\"paused\":\"true\"}}]}",
            ),
            ("Always", "", false, "409 Always does not support manual start requests"),
            ("Once", "", false, "409 Once does not support manual start requests"),
            ("Manual", "", false, "status /status={\"stateChangeRequests\":[{\"action\":\"Start\"}]}"),
            (
                "Manual",
                "Failed",
                false,
                "status /status={\"stateChangeRequests\":[{\"action\":\"Stop\",\"uid\":\"u\"},{\"action\":\"Start\"}]}",
            ),
            ("Manual", "Running", false, "409 VM is already running"),
            (
                "RerunOnFailure",
                "Failed",
                false,
                "409 RerunOnFailure does not support starting VM from failed state",
            ),
            (
                "RerunOnFailure",
                "Succeeded",
                false,
                "status /status={\"stateChangeRequests\":[{\"action\":\"Stop\",\"uid\":\"u\"},{\"action\":\"Start\"}]}",
            ),
        ];
        for (strategy, phase, paused, expected) in rows {
            let vmi = (!phase.is_empty()).then(|| vmi(phase));
            let options = StartOptions { paused, ..StartOptions::default() };
            assert_eq!(shown(start(&vm(strategy), vmi.as_ref(), &options)), expected, "{strategy} {phase}");
        }
    }

    #[test]
    fn stop_by_strategy_and_phase() {
        let request = "status /status={\"stateChangeRequests\":[{\"action\":\"Stop\",\"uid\":\"u\"}]}";
        let short = "vmi /spec/terminationGracePeriodSeconds=1";
        let rows = [
            ("Always", "Running", None, "vm /spec/runStrategy=\"Halted\"".to_owned()),
            ("Always", "", None, "vm /spec/runStrategy=\"Halted\"".to_owned()),
            ("Always", "Running", Some(1), format!("{short}; vm /spec/runStrategy=\"Halted\"")),
            ("Once", "Running", None, "vm /spec/runStrategy=\"Halted\"".to_owned()),
            ("Manual", "Running", None, request.to_owned()),
            ("Manual", "Failed", None, "409 VM is not running".to_owned()),
            ("RerunOnFailure", "", None, "409 VM is not running".to_owned()),
            ("Halted", "", None, "409 VM is not running".to_owned()),
            ("Halted", "Running", Some(1), short.to_owned()),
            (
                "Halted",
                "Running",
                Some(60),
                "409 Halted only supports manual stop requests with a shorter graceperiod".to_owned(),
            ),
            ("Always", "Running", Some(-1), "400 gracePeriod must not be negative".to_owned()),
        ];
        for (strategy, phase, grace_period, expected) in rows {
            let vmi = (!phase.is_empty()).then(|| vmi(phase));
            let options = StopOptions { grace_period, ..StopOptions::default() };
            assert_eq!(shown(stop(&vm(strategy), vmi.as_ref(), &options)), expected, "{strategy} {phase}");
        }
    }

    #[test]
    fn restart_by_strategy_and_phase() {
        let queue = "status /status={\"stateChangeRequests\":[{\"action\":\"Stop\",\"uid\":\"u\"},{\"action\":\"Start\"}]}";
        let rows = [
            ("Always", "Running", None, queue.to_owned()),
            ("Always", "Running", Some(0), format!("vmi /spec/terminationGracePeriodSeconds=1; {queue}")),
            (
                "Always",
                "Running",
                Some(5),
                "400 For force restart, only gracePeriod=0 is supported for now".to_owned(),
            ),
            ("Always", "", None, "409 VM is not running".to_owned()),
            ("Halted", "Running", None, "409 Halted does not support manual restart requests".to_owned()),
            ("Once", "Running", None, "409 Once does not support manual restart requests".to_owned()),
        ];
        for (strategy, phase, grace_period_seconds, expected) in rows {
            let vmi = (!phase.is_empty()).then(|| vmi(phase));
            let options = RestartOptions { grace_period_seconds, ..RestartOptions::default() };
            assert_eq!(shown(restart(&vm(strategy), vmi.as_ref(), &options)), expected, "{strategy} {phase}");
        }
    }

    #[test]
    fn a_second_request_waits_for_the_first_but_a_stop_does_not() {
        let mut vm = vm("Manual");
        vm.status.get_or_insert_default().state_change_requests =
            vec![Request { action: "Start".into(), ..Request::default() }];
        assert_eq!(shown(start(&vm, None, &StartOptions::default())), format!("409 {UNDERWAY}"));
        let stopped = stop(&vm, Some(&vmi("Running")), &StopOptions::default()).unwrap();
        assert_eq!(stopped.vm_status[1]["path"], "/status/stateChangeRequests");
    }

    #[test]
    fn the_deprecated_running_field_is_kept() {
        let mut vm = VirtualMachine::default();
        vm.spec.running = Some(false);
        assert_eq!(shown(start(&vm, None, &StartOptions::default())), "vm /spec/running=true");
    }

    #[test]
    fn a_dry_run_checks_and_writes_nothing() {
        let dry_run = vec!["All".to_owned()];
        let options = StartOptions { dry_run: dry_run.clone(), ..StartOptions::default() };
        assert_eq!(start(&vm("Halted"), None, &options), Ok(Patches::default()));
        assert!(start(&vm("Always"), None, &options).is_err());
    }
}
