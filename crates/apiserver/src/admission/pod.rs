//! Pods: the chain that every pod passes.

use ferrovirt_kubernetes::json;
use serde_json::{Value, json};

use super::pod_security::{self, Level};
use super::{forbidden, pod_defaults, pod_validation, scc, service_account};
use crate::app::App;
use crate::request::{AdmissionRequest, Operation};
use crate::status::ApiError;
use crate::store::{Key, Store};

/// Defaults, the service account and the SCC. May run twice on one request: what is there already stays.
pub(super) async fn mutate(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    match request.operation {
        Operation::Delete => return Ok(()),
        Operation::Create => {
            pod_defaults::apply(request.object);
            service_account::admit(&app.store, request).await?;
            start_status(request.object);
        }
        Operation::Update if request.subresource.is_empty() => {
            pod_defaults::apply(request.object);
            if let Some(old) = request.old {
                keep_set_fields(old, request.object);
            }
        }
        Operation::Update => return Ok(()),
    }
    scc::mutate(app, request).await
}

/// The checks of the pod as it will be stored.
pub(super) async fn validate(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation == Operation::Delete || !request.subresource.is_empty() {
        return Ok(());
    }
    scc::validate(app, request).await?;
    pod_validation::check(request)?;
    pod_security(&app.store, request)
}

/// Fills in what a pod has when SCCs are asked about it: the API's defaults, its account and the volume with its token.
pub fn complete_pod(pod: &mut Value) {
    pod_defaults::apply(pod);
    if let Some(spec) = pod.get_mut("spec") {
        service_account::complete(spec);
    }
}

/// A client that sends back an older form of the pod must not unset what the server or the scheduler filled in.
fn keep_set_fields(old: &Value, new: &mut Value) {
    let (Some(old), Some(new)) = (old.get("spec"), new.get_mut("spec")) else { return };
    for field in ["nodeName", "serviceAccountName", "serviceAccount", "priority", "preemptionPolicy"] {
        if let Some(value) = old.get(field) {
            json::default(new, field, value.clone());
        }
    }
}

/// A new pod is Pending, whatever its maker says.
fn start_status(pod: &mut Value) {
    let status = json!({"phase": "Pending", "qosClass": pod_defaults::quality_of_service(pod)});
    if let Value::Object(fields) = pod {
        fields.insert("status".into(), status);
    }
}

fn pod_security(store: &Store, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(namespace) = store.get(&Key::new("", "namespaces", "", request.namespace)) else {
        return Ok(());
    };
    // An update that leaves alone what the standard looks at is not judged again.
    if let Some(old) = request.old
        && old.get("spec") == request.object.get("spec")
        && old.pointer("/metadata/annotations") == request.object.pointer("/metadata/annotations")
    {
        return Ok(());
    }
    let (level, version) = pod_security::policy(&namespace.object, "enforce");
    if let Some(message) = pod_security::message(level, &version, request.object, "violates") {
        return Err(forbidden(request, &message));
    }
    let (warn, version) = pod_security::policy(&namespace.object, "warn");
    if warn > Level::Privileged
        && let Some(message) = pod_security::message(warn, &version, request.object, "would violate")
    {
        request.warnings.push(message);
    }
    let (audit, version) = pod_security::policy(&namespace.object, "audit");
    if let Some(message) = pod_security::message(audit, &version, request.object, "would violate") {
        tracing::info!(namespace = request.namespace, pod = request.name, %message, "pod security audit");
    }
    Ok(())
}
