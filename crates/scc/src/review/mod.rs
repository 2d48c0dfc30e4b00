//! The three review APIs: which SCC would admit a pod template, without making anything.
//!
//! They are not admission: `openshift.io/required-scc` and the template's annotations are not looked at, no standard
//! SCC has to exist, and an SCC that the subjects may not use does no harm when it is broken. Every SCC is tried on
//! the template as it was given.

pub(crate) mod compare;
pub(crate) mod minimal;
pub mod webhook;

use ferrovirt_kubernetes::json::{list, text, texts};
use ferrovirt_kubernetes::names::subdomain_errors;
use serde_json::{Map, Value, json};

use crate::admit::access::{Authorizer, Subject};
use crate::admit::candidates::Rights;
use crate::admit::evaluate::{Evaluation, Record, Resolved};
use crate::admit::patch::Patch;
use crate::constraint::compiled::{Compiled, Constraints};
use crate::namespace::NamespaceValues;
use crate::pod::Pod;
use crate::report::quote::quoted;
use crate::report::refusal::joined;

/// Which review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewKind {
    /// `PodSecurityPolicySubjectReview`: a named user or group.
    Subject,
    /// `PodSecurityPolicySelfSubjectReview`: the caller.
    SelfSubject,
    /// `PodSecurityPolicyReview`: service accounts.
    ServiceAccounts,
}

impl ReviewKind {
    /// Name of the API kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "PodSecurityPolicySubjectReview",
            Self::SelfSubject => "PodSecurityPolicySelfSubjectReview",
            Self::ServiceAccounts => "PodSecurityPolicyReview",
        }
    }
}

/// One review request. The template in `spec` has had the API's defaults filled in.
#[derive(Clone, Copy)]
pub struct ReviewRequest<'a> {
    /// Which review.
    pub kind: ReviewKind,
    /// Namespace of the request.
    pub namespace: &'a str,
    /// The namespace's values; `None` when there is no such namespace.
    pub values: Option<NamespaceValues<'a>>,
    /// The caller's name.
    pub user: &'a str,
    /// The caller's groups.
    pub groups: &'a [String],
    /// The review's `spec`.
    pub spec: &'a Value,
    /// Whether a service account of this name exists in the namespace.
    pub account_exists: &'a dyn Fn(&str) -> bool,
}

/// Why a review has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewError {
    /// HTTP status.
    pub code: u16,
    /// Reason for the Status object; empty for a plain error.
    pub reason: &'static str,
    /// Message.
    pub message: String,
}

impl ReviewError {
    fn invalid(kind: ReviewKind, errors: &[String]) -> Self {
        let message = format!("{} \"\" is invalid: {}", kind.as_str(), joined(errors));
        Self { code: 422, reason: "Invalid", message }
    }

    fn plain(message: String) -> Self {
        Self { code: 500, reason: "", message }
    }
}

/// Set as soon as one SCC that was tried did not admit the template.
const CANNOT_ASSIGN: &str = "CantAssignSecurityContextConstraintProvider";

/// Answers a review: the `status` of the review object.
///
/// # Errors
/// [`ReviewError`] when the request is invalid, a service account does not exist, or an SCC that the subjects may
/// use cannot be used in this namespace.
pub fn review(
    constraints: &Constraints,
    request: &ReviewRequest<'_>,
    authorizer: &impl Authorizer,
) -> Result<Value, ReviewError> {
    let spec = template_spec(request);
    let template_account = text(spec, "serviceAccountName");
    validate(request, spec)?;
    match request.kind {
        ReviewKind::ServiceAccounts => {
            let accounts = accounts(request, template_account)?;
            let mut allowed = Vec::new();
            for account in accounts {
                // A broken SCC leaves an account without an entry, it does not fail the review.
                let Ok(tried) = tried(constraints, request, authorizer, account, None, spec) else {
                    continue;
                };
                for (scc, patch) in tried {
                    let Some(patch) = patch else { continue };
                    let mut entry = allowed_by(scc, patch, spec);
                    entry.insert("name".to_owned(), account.into());
                    allowed.push(Value::Object(entry));
                }
            }
            Ok(json!({ "allowedServiceAccounts": allowed }))
        }
        ReviewKind::Subject | ReviewKind::SelfSubject => {
            let groups = groups(request);
            let user = match request.kind {
                ReviewKind::SelfSubject => Some(Subject { user: request.user, groups: request.groups }),
                _ => Some(Subject { user: text(request.spec, "user"), groups: &groups })
                    .filter(|u| !u.user.is_empty() || !u.groups.is_empty()),
            };
            let tried = tried(constraints, request, authorizer, template_account, user, spec)?;
            let mut status = Map::new();
            for (scc, patch) in tried {
                let Some(patch) = patch else {
                    status.insert("reason".to_owned(), CANNOT_ASSIGN.into());
                    continue;
                };
                status.extend(allowed_by(scc, patch, spec));
                break;
            }
            Ok(Value::Object(status))
        }
    }
}

fn template_spec<'a>(request: &ReviewRequest<'a>) -> &'a Value {
    request.spec.get("template").and_then(|t| t.get("spec")).unwrap_or(&Value::Null)
}

fn groups(request: &ReviewRequest<'_>) -> Vec<String> {
    texts(request.spec, "groups").map(str::to_owned).collect()
}

fn validate(request: &ReviewRequest<'_>, spec: &Value) -> Result<(), ReviewError> {
    let mut errors = Vec::new();
    if list(spec, "containers").len() == 0 {
        errors.push("spec.template.spec.containers: Required value".to_owned());
    }
    if request.kind == ReviewKind::ServiceAccounts {
        for (index, name) in texts(request.spec, "serviceAccountNames").enumerate() {
            let field = format!("spec.serviceAccountNames[{index}]: Invalid value: {}", quoted(name));
            let details = subdomain_errors(name).join(", ");
            if name.is_empty() {
                errors.push(field);
            } else if !details.is_empty() {
                errors.push(format!("{field}: {details}"));
            }
        }
    }
    let nobody = text(request.spec, "user").is_empty()
        && texts(request.spec, "groups").next().is_none()
        && text(spec, "serviceAccountName").is_empty();
    if request.kind == ReviewKind::Subject && nobody {
        let detail = "at least one of user, groups or serviceAccountName must be specified";
        errors.push(format!("spec.user: Required value: {detail}"));
    }
    if errors.is_empty() { Ok(()) } else { Err(ReviewError::invalid(request.kind, &errors)) }
}

/// The service accounts that are asked for, all of which must exist.
fn accounts<'a>(request: &ReviewRequest<'a>, template_account: &'a str) -> Result<Vec<&'a str>, ReviewError> {
    let mut names: Vec<&str> = texts(request.spec, "serviceAccountNames").collect();
    if names.is_empty() {
        names.push(if template_account.is_empty() { "default" } else { template_account });
    }
    let missing = names.iter().filter(|n| !(request.account_exists)(n));
    let errors: Vec<String> = missing
        .map(|n| format!("unable to retrieve ServiceAccount {n}: serviceaccount {} not found", quoted(n)))
        .collect();
    if errors.is_empty() {
        Ok(names)
    } else {
        Err(ReviewError { code: 400, reason: "BadRequest", message: joined(errors) })
    }
}

/// Every SCC that one of the subjects may use, in order, with what it would change; `None` when it does not admit
/// the template.
fn tried<'a>(
    constraints: &'a Constraints,
    request: &ReviewRequest<'_>,
    authorizer: &impl Authorizer,
    account: &str,
    user: Option<Subject<'_>>,
    spec: &Value,
) -> Result<Vec<(&'a Compiled, Option<Patch>)>, ReviewError> {
    let namespace = request.namespace;
    let mut rights = Rights::new(constraints, authorizer, namespace, account, user);
    let usable: Vec<&Compiled> = constraints
        .list
        .iter()
        .enumerate()
        .filter_map(|(at, scc)| rights.subject(at, &scc.name).map(|_| scc))
        .collect();
    if usable.is_empty() {
        return Ok(Vec::new());
    }
    let fetch =
        |why: String| ReviewError::plain(format!("error fetching namespace {}: {why}", quoted(namespace)));
    let values = request.values.ok_or_else(|| fetch(format!("namespace {} not found", quoted(namespace))))?;
    if let Some(key) = values.missing() {
        return Err(fetch(format!("unable to find annotation {key}")));
    }
    let errors: Vec<String> = usable.iter().filter_map(|scc| scc.build_error(namespace, &values)).collect();
    if !errors.is_empty() {
        return Err(ReviewError::plain(joined(errors)));
    }
    let template = json!({ "spec": spec });
    let pod = Pod::read(&template).map_err(|e| {
        ReviewError::invalid(request.kind, &[format!("spec.template.spec: Invalid value: {e}")])
    })?;
    let resolved = Resolved::of(&values);
    let mut record = Record::default();
    let mut results = Vec::with_capacity(usable.len());
    for scc in usable {
        let evaluation = Evaluation { scc, pod: &pod, values: &resolved };
        record.findings.clear();
        let fits = evaluation.run(&mut record);
        results.push((scc, fits.then(|| Patch::of(&evaluation, &record))));
    }
    Ok(results)
}

/// The SCC, and the changed template where the template names a service account.
fn allowed_by(scc: &Compiled, patch: Patch, spec: &Value) -> Map<String, Value> {
    let mut entry = Map::new();
    let reference = json!({
        "apiVersion": <crate::SecurityContextConstraints as k8s_openapi::Resource>::API_VERSION,
        "kind": <crate::SecurityContextConstraints as k8s_openapi::Resource>::KIND,
        "name": scc.name,
    });
    entry.insert("allowedBy".to_owned(), reference);
    let account = text(spec, "serviceAccountName");
    if !account.is_empty() {
        let mut pod = json!({ "metadata": {}, "spec": spec });
        patch.apply(&mut pod);
        let spec = pod.get_mut("spec").map(Value::take).unwrap_or_default();
        let mut template = json!({ "metadata": {}, "spec": spec });
        if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("serviceAccount".to_owned(), account.into());
        }
        entry.insert("template".to_owned(), template);
    }
    entry
}
