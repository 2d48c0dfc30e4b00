//! What is refused, and in which field it is wrong.

use super::{CONFIGURATIONS, INSTANCES, MACHINES, Operation, Refusal, Request, Subject};
use ferrovirt_api::{ClusterDefaults, kubevirt::KubeVirt, kubevirt::VirtualMachineInstance};
use ferrovirt_kubernetes::json;
use ferrovirt_plan::config::{ClusterConfig, verbosity};
use ferrovirt_plan::decide::uninstall;
use serde::Deserialize as _;
use serde_json::Value;

/// Validates machines.
pub(crate) const MACHINE: &str = "virtualmachine-validator.kubevirt.io";
/// Validates instances that are made.
pub(crate) const INSTANCE: &str = "virtualmachineinstances-create-validator.kubevirt.io";
/// Keeps what is immutable of instances as it is.
pub(crate) const UPDATE: &str = "virtualmachineinstances-update-validator.kubevirt.io";
/// Keeps the configuration the only one.
pub(crate) const ONE: &str = "kubevirt-create-validator.kubevirt.io";
/// Validates the configuration.
pub(crate) const CONFIGURATION: &str = "kubevirt-validator.kubevirt.io";

/// Checks what the end of the KubeVirt object, `configuration` as stored, lets happen: no machine is made while all of them are
/// being ended, and the object itself is kept as its `uninstallStrategy` says. (On a cluster the API server decides about the
/// latter.)
///
/// # Errors
/// The refusal.
pub fn uninstalling(request: &Request<'_>, configuration: Option<&Value>) -> Result<(), Refusal> {
    let why = match (request.resource, request.operation) {
        (MACHINES | INSTANCES, Operation::Create) if configuration.is_some_and(uninstall::ends_machines) => {
            uninstall::ENDING
        }
        (CONFIGURATIONS, Operation::Delete) if request.old.is_some_and(uninstall::is_kept) => {
            uninstall::REFUSAL
        }
        _ => return Ok(()),
    };
    Err(Refusal::forbidden(request.resource, request.name, why))
}

/// Checks a request whose object is complete. `installed` says whether there is a configuration already.
///
/// # Errors
/// Every reason to refuse it.
pub fn check(
    subject: &Subject,
    request: &Request<'_>,
    defaults: &ClusterDefaults,
    installed: impl FnOnce() -> bool,
) -> Result<(), Refusal> {
    match subject {
        Subject::Machine(vm) => refuse(MACHINE, ferrovirt_api::validate_vm(vm, defaults, request.is_own())),
        Subject::Instance(vmi) => {
            refuse(INSTANCE, ferrovirt_api::validate_vmi(vmi, defaults, request.is_own()))
        }
        Subject::Changed => changed(request),
        Subject::Configuration => {
            if request.operation == Operation::Create && installed() {
                return Err(Refusal::denied(ONE, "Kubevirt is already created"));
            }
            configuration(request)
        }
        Subject::Nothing => Ok(()),
    }
}

fn changed(request: &Request<'_>) -> Result<(), Refusal> {
    let Some(old) = request.old else { return Ok(()) };
    let own = request.is_own();
    let same = |field: &str| old.pointer(field) == request.object.pointer(field);
    // Completing has reverted it, so that somebody else has written it since.
    if !own && !same("/status") {
        let why = "its status is written by KubeVirt's own accounts alone";
        return Err(Refusal::forbidden(request.resource, request.name, why));
    }
    // Status and metadata change all the time: only what the rules look at is worth reading the whole object.
    if same("/spec") && (own || same("/metadata/labels")) {
        return Ok(());
    }
    let before = VirtualMachineInstance::deserialize(old)
        .map_err(|why| Refusal::internal(format!("a stored object cannot be read: {why}")))?;
    let after: VirtualMachineInstance = request.read(super::complete::INSTANCE)?;
    refuse(UPDATE, ferrovirt_api::validate_vmi_update(&before, &after, own))
}

/// A configuration that nothing could act on is refused where it is written; one from before may still be changed.
fn configuration(request: &Request<'_>) -> Result<(), Refusal> {
    const FIELD: &str = "/spec/configuration";
    const STRATEGY: &str = "/spec/uninstallStrategy";
    let strategy = json::text(request.object, STRATEGY);
    let same = request.old.is_some_and(|old| json::text(old, STRATEGY) == strategy);
    if !same && !uninstall::is_known(strategy) {
        let why = format!(
            "spec.uninstallStrategy of the KubeVirt object is {strategy:?}: use {} or {}",
            uninstall::BLOCK,
            uninstall::REMOVE
        );
        return Err(Refusal::denied(CONFIGURATION, why));
    }
    let before = request.old.and_then(|old| old.pointer(FIELD));
    if before == request.object.pointer(FIELD) {
        return Ok(());
    }
    let object: KubeVirt = request.read(CONFIGURATION)?;
    verbosity::check(&object).map_err(|why| Refusal::denied(CONFIGURATION, why))?;
    ClusterConfig::from_kubevirt(&object)
        .map(|_| ())
        .map_err(|error| Refusal::denied(CONFIGURATION, whole(&error)))
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn refuse(webhook: &'static str, causes: Vec<ferrovirt_api::Cause>) -> Result<(), Refusal> {
    if causes.is_empty() { Ok(()) } else { Err(Refusal::invalid(webhook, causes)) }
}
