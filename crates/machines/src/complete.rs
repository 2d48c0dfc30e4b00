//! Defaults, and the parts of an object that are not the requester's to write.

use super::{Form, Refusal, Request, Subject, rights};
use ferrovirt_api::{ClusterDefaults, Identity, kubevirt::VirtualMachine, kubevirt::VirtualMachineInstance};
use ferrovirt_kubernetes::json;
use serde_json::Value;

/// Completes machines.
pub(crate) const MACHINE: &str = "virtualmachines-mutator.kubevirt.io";
/// Completes instances.
pub(crate) const INSTANCE: &str = "virtualmachineinstances-mutator.kubevirt.io";

/// What completing needs of the world.
pub struct Surroundings<'a> {
    /// The cluster's own defaults.
    pub defaults: &'a ClusterDefaults,
    /// Another UUID with each call.
    pub unique: &'a (dyn Fn() -> String + Sync),
    /// Now, as `metav1.Time`.
    pub now: &'a (dyn Fn() -> String + Sync),
}

/// Gives the object its defaults, and takes out what is not the requester's; what is wrong is left for
/// [`check`](super::check()).
///
/// # Errors
/// An object that is not of its kind's form.
pub fn complete(request: &mut Request<'_>, around: &Surroundings<'_>) -> Result<Subject, Refusal> {
    match request.form() {
        Form::Machine => {
            let mut vm: VirtualMachine = request.read(MACHINE)?;
            let identity = (request.operation == super::Operation::Create)
                .then(|| Identity { uuid: (around.unique)(), serial: (around.unique)() });
            ferrovirt_api::default_vm(&mut vm, around.defaults, identity);
            write(MACHINE, request, &vm)?;
            Ok(Subject::Machine(Box::new(vm)))
        }
        Form::Instance => {
            if let Value::Object(fields) = &mut *request.object
                && !super::is_own(request.user)
            {
                fields.remove("status");
            }
            let mut vmi: VirtualMachineInstance = request.read(INSTANCE)?;
            ferrovirt_api::default_vmi(&mut vmi, around.defaults);
            write(INSTANCE, request, &vmi)?;
            stamp(request.object, around);
            Ok(Subject::Instance(Box::new(vmi)))
        }
        Form::Changed => {
            rights::keep(request);
            if !request.is_own() {
                revert_status(request);
            }
            Ok(Subject::Changed)
        }
        Form::Leaving => {
            // What was decided about the machine stays, whatever the request says of that.
            rights::keep(request);
            Ok(Subject::Nothing)
        }
        Form::Configuration => Ok(Subject::Configuration),
        Form::Nothing => Ok(Subject::Nothing),
    }
}

/// Status is KubeVirt's: what others write there is dropped without a word, as upstream's mutator does.
fn revert_status(request: &mut Request<'_>) {
    let Some(old) = request.old else { return };
    if let Value::Object(fields) = &mut *request.object {
        match old.get("status") {
            Some(status) => fields.insert("status".into(), status.clone()),
            None => fields.remove("status"),
        };
    }
}

/// The clock's part of defaulting: the time of the first phase.
fn stamp(vmi: &mut Value, around: &Surroundings<'_>) {
    let list = vmi.pointer_mut("/status/phaseTransitionTimestamps").and_then(Value::as_array_mut);
    for transition in list.into_iter().flatten() {
        json::default(transition, "phaseTransitionTimestamp", (around.now)());
    }
}

/// Puts the defaulted object in the place of the one that came: spec, metadata and status. Fields that the type does not
/// know are gone where the API server has refused or dropped them before, and stay where it has not.
fn write(
    webhook: &'static str,
    request: &mut Request<'_>,
    object: &impl serde::Serialize,
) -> Result<(), Refusal> {
    let new = serde_json::to_value(object)
        .map_err(|why| Refusal::internal(format!("admission webhook \"{webhook}\": {why}")))?;
    let (Value::Object(old), Value::Object(mut new)) = (&mut *request.object, new) else { return Ok(()) };
    for field in ["spec", "status"] {
        if let Some(value) = new.remove(field).filter(|value| !value.is_null()) {
            old.insert(field.into(), value);
        }
    }
    // Of the metadata only what defaulting may add: the rest stays byte for byte as it came.
    if let (Some(Value::Object(to)), Some(Value::Object(from))) =
        (old.get_mut("metadata"), new.remove("metadata"))
    {
        for (field, value) in from {
            if field == "annotations" || field == "finalizers" || field == "labels" {
                to.insert(field, value);
            }
        }
    }
    Ok(())
}
