//! Admission: what happens to an object between "may this user do this?" and the store.
//!
//! In order: namespace lifecycle, RBAC escalation, then by kind, then owners. For pods: defaults, service account,
//! security context constraints, validation, Pod Security. For KubeVirt's kinds: mutators, validators and whether the
//! requester may have what the machine implies. Other kinds get the defaults
//! that Kubernetes would give them.
//!
//! Registered webhooks come in where Kubernetes asks them: mutating ones after the server's own mutation, which then
//! runs once more if they changed something; validating ones at the very end.

mod claims;
mod defaults;
mod immutable;
mod machines;
mod namespace;
mod owners;
mod pod;
mod pod_defaults;
pub mod pod_security;
mod pod_validation;
mod scc;
mod scc_review;
mod service_account;
pub(crate) mod webhook;

use serde_json::Value;

use crate::app::App;
use crate::auth::escalation;
use crate::hooks;
use crate::request::{AdmissionRequest, Operation};
use crate::status::ApiError;

pub use pod::complete_pod;
pub use scc::constraints;
pub use scc_review::review;

/// Lets a request through, changed as Kubernetes changes it, or refuses it.
///
/// Waits, within bounds, for what controllers add to a namespace right after it was made (its default service
/// account and uid range). Answers whether a webhook changed the object.
///
/// # Errors
/// The refusal that the client gets.
pub async fn admit(app: &App, request: &mut AdmissionRequest<'_>) -> Result<bool, ApiError> {
    namespace::check(&app.store, request)?;
    escalation::check(&app.store, &app.auth.authorizer, request)?;
    mutate(app, request).await?;
    let mut webhooks = webhook::Mutating::new(app);
    let changed = webhooks.first(app, request).await?;
    if changed {
        escalation::check(&app.store, &app.auth.authorizer, request)?;
        let left = request.object.clone();
        mutate(app, request).await?;
        if webhooks.second(app, request, left != *request.object).await? {
            escalation::check(&app.store, &app.auth.authorizer, request)?;
            // Pods are checked below as they are now; the other kinds' checks are part of this.
            if !is_pod(request) {
                mutate(app, request).await?;
            }
        }
    }
    if is_pod(request) {
        pod::validate(app, request).await?;
    }
    owners::check(&app.auth.authorizer, request)?;
    webhook::validate(app, request).await?;
    Ok(changed)
}

fn is_pod(request: &AdmissionRequest<'_>) -> bool {
    request.kind.group.is_empty() && request.kind.plural == "pods"
}

/// The server's own mutation; for every kind but pods its own validation too.
async fn mutate(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    match (request.kind.group, request.kind.plural) {
        ("", "pods") => pod::mutate(app, request).await,
        ("", "namespaces") => namespace::prepare(request),
        (ferrovirt_machines::GROUP, _) => machines::admit(app, request).await,
        ("security.openshift.io", "securitycontextconstraints") => scc::object(app, request),
        (hooks::GROUP, _) => webhook::object(request),
        _ => {
            if request.operation != Operation::Delete {
                defaults::apply(request)?;
            }
            immutable::check(request)?;
            claims::check(request)
        }
    }
}

/// The 403 of an admission check: `pods "x" is forbidden: <why>`.
fn forbidden(request: &AdmissionRequest<'_>, why: &str) -> ApiError {
    let (group, resource) = (request.kind.group, request.kind.plural);
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    ApiError::forbidden(
        group,
        resource,
        request.name,
        format!("{qualified} {:?} is forbidden: {why}", request.name),
    )
}

/// The objects of a list field; none when it is absent.
fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}
