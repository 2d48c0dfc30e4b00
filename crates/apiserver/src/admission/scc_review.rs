//! The review APIs of security.openshift.io: which SCC would admit a pod template. Nothing is made.

use ferrovirt_kubernetes::json;
use ferrovirt_scc::{NamespaceValues, ReviewKind, ReviewRequest, UID_RANGE};
use serde_json::{Value, json};

use super::scc::{Roles, patiently};
use super::{pod_defaults, pod_validation, service_account};
use crate::app::App;
use crate::registry::Kind;
use crate::request::UserInfo;
use crate::status::{ApiError, Cause};
use crate::store::{Entry, Key};

/// Answers a posted review: the same object with a status.
///
/// # Errors
/// 422 for a template or question that is not valid, 400 for a service account that is not there, 500 where an SCC that
/// counts cannot be used in the namespace.
pub async fn review(
    app: &App,
    kind: &Kind,
    user: &UserInfo,
    namespace: &str,
    mut body: Value,
) -> Result<Value, ApiError> {
    let kinds = [ReviewKind::Subject, ReviewKind::SelfSubject, ReviewKind::ServiceAccounts];
    let which = kinds.into_iter().find(|known| known.as_str() == kind.kind);
    let which = which.ok_or_else(ApiError::no_such_path)?;
    let mut causes = misplaced(&body, namespace);
    if let Some(template) = body.pointer_mut("/spec/template") {
        complete(template);
        causes.extend(problems(template));
    }
    if !causes.is_empty() {
        // Without the group, as the real one words it.
        return Err(ApiError::invalid("", kind.kind, "", &causes));
    }
    let prepared = prepared(app, namespace).await;
    if which == ReviewKind::ServiceAccounts && prepared.is_some() {
        service_account::wait_for(&app.store, namespace, "default").await;
    }
    let account_exists =
        |name: &str| app.store.get(&Key::new("", "serviceaccounts", namespace, name)).is_some();
    let request = ReviewRequest {
        kind: which,
        namespace,
        values: prepared.as_ref().map(|entry| NamespaceValues::of(&entry.object)),
        user: &user.name,
        groups: &user.groups,
        spec: body.get("spec").unwrap_or(&Value::Null),
        account_exists: &account_exists,
    };
    let answer = ferrovirt_scc::review(&app.constraints.get(), &request, &Roles(&app.auth.authorizer));
    let status = answer.map_err(|error| ApiError::new(error.code, error.reason, error.message))?;
    if let Value::Object(fields) = &mut body {
        fields.insert("status".into(), status);
    }
    Ok(body)
}

/// A question has no name and is not labelled; only the namespace may be repeated.
fn misplaced(body: &Value, namespace: &str) -> Vec<Cause> {
    let fields = json::entries(body, "metadata");
    let fine = |field: &str, value: &Value| value.is_null() || (field == "namespace" && *value == namespace);
    fields
        .filter(|(field, value)| !fine(field, value))
        .map(|(field, value)| Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {value}: must be empty"),
            field: format!("metadata.{field}"),
        })
        .collect()
}

/// The defaults that the API gives a template: a pod's, without those that a pod gets on its way in.
fn complete(template: &mut Value) {
    let given = |field: &str| template.pointer("/spec").is_some_and(|spec| spec.get(field).is_some());
    let added: Vec<&str> = ["priority", "preemptionPolicy"].into_iter().filter(|f| !given(f)).collect();
    pod_defaults::apply(template);
    if let Some(Value::Object(spec)) = template.get_mut("spec") {
        spec.retain(|field, _| !added.contains(&field.as_str()));
    }
}

fn problems(template: &Value) -> impl Iterator<Item = Cause> {
    let found = pod_validation::problems(template.get("spec").unwrap_or(&json!({})));
    // A pod in a user namespace cannot run here, but the answer can say what SCCs make of it.
    let concerns = found.into_iter().filter(|cause| cause.field != "spec.hostUsers");
    concerns.map(|cause| Cause { field: format!("spec.template.{}", cause.field), ..cause })
}

/// The namespace, with its values where they come in time. Nothing when there is none.
async fn prepared(app: &App, namespace: &str) -> Option<Entry> {
    let key = Key::new("", "namespaces", "", namespace);
    let ask = || {
        let Some(entry) = app.store.get(&key) else { return Err(None) };
        let annotations = entry.object.pointer("/metadata/annotations");
        if annotations.is_some_and(|all| all.get(UID_RANGE).is_some()) { Ok(entry) } else { Err(Some(entry)) }
    };
    patiently(&app.store, ask, Option::is_some).await.map_or_else(|entry| entry, Some)
}
