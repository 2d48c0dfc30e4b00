//! What KubeVirt's webhooks do, in process: defaults, validation and the rules of updates, with their refusals' shape.

use ferrovirt_api::kubevirt::{KubeVirt, VirtualMachine, VirtualMachineInstance};
use ferrovirt_api::{ClusterDefaults, Identity};
use ferrovirt_kubernetes::json;
use ferrovirt_plan::config::ClusterConfig;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::machine_rights;
use crate::app::App;
use crate::auth::unique;
use crate::clock;
use crate::request::{AdmissionRequest, Operation, UserInfo};
use crate::status::ApiError;
use crate::store::{Key, Prefix, Store};

pub(super) const GROUP: &str = "kubevirt.io";
/// Namespace and object that hold the configuration.
pub(super) const HOME: &str = "kubevirt";

/// Admits an object of kubevirt.io.
pub(super) async fn admit(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation == Operation::Delete {
        return Ok(());
    }
    match request.kind.plural {
        "virtualmachines" if request.subresource.is_empty() => machine(app, request).await,
        "virtualmachineinstances" => instance(app, request).await,
        "kubevirts" if request.subresource.is_empty() => {
            one_installation(&app.store, request)?;
            installation(request)
        }
        _ => Ok(()),
    }
}

/// KubeVirt's own accounts, which may do to instances what users may not.
pub(super) fn is_kubevirt(user: &UserInfo) -> bool {
    const ACCOUNTS: [&str; 5] = [
        "kubevirt-apiserver",
        "kubevirt-controller",
        "kubevirt-handler",
        "kubevirt-operator",
        "kubevirt-synchronization-controller",
    ];
    ferrovirt_kubernetes::subject::split_service_account(&user.name)
        .is_some_and(|(namespace, name)| namespace == HOME && ACCOUNTS.contains(&name))
}

fn configuration(store: &Store) -> ClusterDefaults {
    let entry = store.get(&Key::new(GROUP, "kubevirts", HOME, "kubevirt"));
    entry
        .and_then(|e| KubeVirt::deserialize(e.object.as_ref()).ok())
        .as_ref()
        .map_or_else(Default::default, Into::into)
}

async fn machine(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    const MUTATOR: &str = "virtualmachines-mutator.kubevirt.io";
    // Whoever is being deleted is always let go: nothing is asked about what is there already. What was decided about
    // the machine stays, whatever the request says of that; and a change of its spec is one like any other.
    if let Some(old) = request.old
        && request.operation == Operation::Update
        && request.object.pointer("/metadata/deletionTimestamp").is_some()
        && old.get("spec") == request.object.get("spec")
    {
        machine_rights::keep(request);
        return Ok(());
    }
    let defaults = configuration(&app.store);
    let mut vm: VirtualMachine = read(MUTATOR, request)?;
    let random = || unique().unwrap_or_default();
    let new = request.operation == Operation::Create;
    let identity = new.then(|| Identity { uuid: random(), serial: random() });
    ferrovirt_api::default_vm(&mut vm, &defaults, identity);
    let causes = ferrovirt_api::validate_vm(&vm, &defaults, is_kubevirt(request.user));
    refuse("virtualmachine-validator.kubevirt.io", &causes)?;
    write(MUTATOR, request, &vm)?;
    machine_rights::machine(app, request, &vm, &defaults).await
}

async fn instance(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    const MUTATOR: &str = "virtualmachineinstances-mutator.kubevirt.io";
    let own = is_kubevirt(request.user);
    match request.operation {
        Operation::Create => {
            let defaults = configuration(&app.store);
            if let Value::Object(fields) = &mut *request.object
                && !own
            {
                fields.remove("status");
            }
            let mut vmi: VirtualMachineInstance = read(MUTATOR, request)?;
            ferrovirt_api::default_vmi(&mut vmi, &defaults);
            let causes = ferrovirt_api::validate_vmi(&vmi, &defaults, own);
            refuse("virtualmachineinstances-create-validator.kubevirt.io", &causes)?;
            write(MUTATOR, request, &vmi)?;
            stamp_transitions(request.object);
            machine_rights::instance(app, request, &vmi).await
        }
        Operation::Update => {
            machine_rights::keep(request);
            if !own {
                revert_status(request);
            }
            let Some(old) = request.old else { return Ok(()) };
            // Status and metadata change all the time: only what the rules look at is worth reading the whole object.
            let same = |path: &str| old.pointer(path) == request.object.pointer(path);
            if same("/spec") && (own || same("/metadata/labels")) {
                return Ok(());
            }
            let before: VirtualMachineInstance = stored(old)?;
            let after: VirtualMachineInstance = read(MUTATOR, request)?;
            let causes = ferrovirt_api::validate_vmi_update(&before, &after, own);
            refuse("virtualmachineinstances-update-validator.kubevirt.io", &causes)
        }
        Operation::Delete => Ok(()),
    }
}

/// Status is KubeVirt's: what others write there is dropped without a word, as upstream's mutator does.
fn revert_status(request: &mut AdmissionRequest<'_>) {
    let Some(old) = request.old else { return };
    if let Value::Object(fields) = &mut *request.object {
        match old.get("status") {
            Some(status) => fields.insert("status".into(), status.clone()),
            None => fields.remove("status"),
        };
    }
}

/// The clock's part of defaulting: the time of the first phase.
fn stamp_transitions(vmi: &mut Value) {
    let list = vmi.pointer_mut("/status/phaseTransitionTimestamps").and_then(Value::as_array_mut);
    for transition in list.into_iter().flatten() {
        json::default(transition, "phaseTransitionTimestamp", clock::stamp());
    }
}

/// There is one KubeVirt object: `kubevirt` in its own namespace.
fn one_installation(store: &Store, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation != Operation::Create
        || store.list(&Prefix::resource(GROUP, "kubevirts")).entries.is_empty()
    {
        return Ok(());
    }
    Err(denied("kubevirt-create-validator.kubevirt.io", "Kubevirt is already created", json!([])))
}

/// A configuration that nothing could act on is refused where it is written; one from before may still be changed.
fn installation(request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    const VALIDATOR: &str = "kubevirt-validator.kubevirt.io";
    let before = request.old.and_then(|old| old.pointer("/spec/configuration"));
    if before == request.object.pointer("/spec/configuration") {
        return Ok(());
    }
    let object: KubeVirt = read(VALIDATOR, request)?;
    ClusterConfig::from_kubevirt(&object)
        .map(|_| ())
        .map_err(|error| denied(VALIDATOR, &whole(&error), json!([])))
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn stored<T: serde::de::DeserializeOwned>(object: &Value) -> Result<T, ApiError> {
    T::deserialize(object).map_err(|why| ApiError::internal(format!("a stored object cannot be read: {why}")))
}

fn read<T: serde::de::DeserializeOwned>(
    webhook: &str,
    request: &AdmissionRequest<'_>,
) -> Result<T, ApiError> {
    T::deserialize(&*request.object).map_err(|why| {
        ApiError::bad_request(format!("admission webhook \"{webhook}\" denied the request: {why}"))
    })
}

/// Puts the defaulted object in the place of the one that came: spec, metadata and status; fields that the type does
/// not know were refused or dropped by strict decoding before.
fn write(
    webhook: &str,
    request: &mut AdmissionRequest<'_>,
    object: &impl serde::Serialize,
) -> Result<(), ApiError> {
    let new = serde_json::to_value(object)
        .map_err(|why| ApiError::internal(format!("admission webhook \"{webhook}\": {why}")))?;
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

fn refuse(webhook: &str, causes: &[ferrovirt_api::Cause]) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(denied(webhook, &ferrovirt_api::rejection(causes), json!(causes)))
}

fn denied(webhook: &str, message: &str, causes: Value) -> ApiError {
    let message = format!("admission webhook \"{webhook}\" denied the request: {message}");
    let mut error = ApiError::new(422, "Invalid", message);
    if causes.as_array().is_some_and(|list| !list.is_empty()) {
        error.details = json!({ "causes": causes });
    }
    error
}
