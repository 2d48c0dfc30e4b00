//! Admission webhooks: those who registered themselves with a MutatingWebhookConfiguration or a
//! ValidatingWebhookConfiguration are asked over HTTPS, as Kubernetes asks them.
//!
//! What the server does for itself (its controllers, what it installs at its start) is not sent to webhooks: a webhook
//! that is down must not keep the server from starting. Requests about the configurations are never sent either,
//! so that a broken one can always be mended.

mod call;
mod object;
mod review;
mod service;

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::Value;

use crate::app::App;
use crate::hooks::{Class, GROUP, Hook, Hooks};
use crate::registry::{Kind, decode::WrongType};
use crate::request::{AdmissionRequest, Operation, Target, UserInfo};
use crate::rest;
use crate::status::ApiError;
use crate::store::Key;
pub(super) use object::admit as object;
use review::{Asked, Match, Verdict};

/// Warnings of webhooks that one answer carries, in bytes; upstream's limit.
const MAX_WARNINGS: usize = 4096;

/// What the mutating webhooks have to be asked about one request.
pub(super) struct Mutating {
    hooks: std::sync::Arc<Hooks>,
    /// Webhooks that want to be asked again and have been asked.
    asked: Vec<usize>,
    /// Those of them after which something changed.
    again: BTreeSet<usize>,
}

impl Mutating {
    pub(super) fn new(app: &App) -> Self {
        Self { hooks: app.hooks.get(), asked: Vec::new(), again: BTreeSet::new() }
    }

    /// Asks every webhook that the request concerns, one after the other; each sees what those before it made. Answers
    /// whether the object was changed.
    pub(super) async fn first(
        &mut self,
        app: &App,
        request: &mut AdmissionRequest<'_>,
    ) -> Result<bool, ApiError> {
        let hooks = std::sync::Arc::clone(&self.hooks);
        let mut changed = false;
        for (at, hook) in hooks.0.iter().enumerate().filter(|(_, hook)| hook.class == Class::Mutating) {
            let Some(one) = mutate(app, hook, request).await? else { continue };
            if one {
                changed = true;
                self.again.extend(self.asked.iter().copied());
            }
            if hook.asks_again {
                self.asked.push(at);
            }
        }
        Ok(changed)
    }

    /// The second and last round, after the server's own admission ran again: for webhooks that want it, when the
    /// object is not what they left. Answers whether the object was changed.
    pub(super) async fn second(
        &mut self,
        app: &App,
        request: &mut AdmissionRequest<'_>,
        server_changed: bool,
    ) -> Result<bool, ApiError> {
        let hooks = std::sync::Arc::clone(&self.hooks);
        let mut changed = false;
        for at in &self.asked {
            if (server_changed || self.again.contains(at))
                && let Some(hook) = hooks.0.get(*at)
            {
                changed |= mutate(app, hook, request).await? == Some(true);
            }
        }
        Ok(changed)
    }
}

/// Asks the validating webhooks that the request concerns, all at once.
pub(super) async fn validate(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let hooks = app.hooks.get();
    if hooks.0.is_empty() || own(request.kind.group, request.user) {
        return Ok(());
    }
    let asked = Asked::of(request);
    let object: &Value = request.object;
    verdicts(app, &hooks, &asked, object, request.warnings).await
}

/// Asks about a request for a subresource that exchanges an object of another kind (a binding, an eviction, a token).
/// Mutating webhooks may change `body`.
pub(crate) async fn subresource(
    app: &App,
    target: &Target,
    kind: (&str, &str, &str),
    body: &mut Value,
    dry_run: bool,
) -> Result<(), ApiError> {
    let hooks = app.hooks.get();
    if hooks.0.is_empty() || own(&target.attributes.group, &target.user) {
        return Ok(());
    }
    let asked = Asked::below(target, kind, dry_run);
    let mut warnings = Vec::new();
    for hook in hooks.0.iter().filter(|hook| hook.class == Class::Mutating) {
        let Some(found) = concerns(app, hook, &asked, body)? else { continue };
        if let Some(patch) = ask(app, hook, &asked, &found, body, &mut warnings).await? {
            patched(hook, body, &patch)?;
        }
    }
    verdicts(app, &hooks, &asked, body, &mut warnings).await
}

async fn verdicts(
    app: &App,
    hooks: &Hooks,
    asked: &Asked<'_>,
    object: &Value,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let mut concerned = Vec::new();
    for hook in hooks.0.iter().filter(|hook| hook.class == Class::Validating) {
        if let Some(found) = concerns(app, hook, asked, object)? {
            concerned.push((hook, found));
        }
    }
    let answers = join_all(concerned.iter().map(|(hook, found)| async move {
        let mut warnings = Vec::new();
        let answer = ask(app, hook, asked, found, object, &mut warnings).await;
        (answer, warnings)
    }));
    let mut result = Ok(());
    for (answer, said) in answers.await {
        said.into_iter().for_each(|text| warn(warnings, text));
        result = result.and(answer.map(|_| ()));
    }
    result
}

/// Whether the server speaks to itself, or about who is to be asked.
fn own(group: &str, user: &UserInfo) -> bool {
    group == GROUP || *user == UserInfo::server()
}

/// In which version a webhook is asked about the request; nothing when the request does not concern it.
fn concerns(app: &App, hook: &Hook, asked: &Asked<'_>, object: &Value) -> Result<Option<Match>, ApiError> {
    let Some(found) = asked.rule_of(hook) else { return Ok(None) };
    if !hook.objects.is_empty()
        && ![Some(object), asked.old].into_iter().flatten().any(|state| hook.objects.matches(state))
    {
        return Ok(None);
    }
    if hook.namespaces.is_empty() {
        return Ok(Some(found));
    }
    let is_namespace = asked.group.is_empty() && asked.resource == "namespaces";
    let matches = if is_namespace && asked.operation != "DELETE" {
        hook.namespaces.matches(object)
    } else if is_namespace {
        asked.old.is_none_or(|old| hook.namespaces.matches(old))
    } else if asked.namespaced {
        let entry = app.store.get(&Key::new("", "namespaces", "", asked.namespace));
        let entry = entry.ok_or_else(|| ApiError::not_found("", "namespaces", asked.namespace))?;
        hook.namespaces.matches(&entry.object)
    } else {
        // The selector says nothing about what lives in no namespace.
        true
    };
    Ok(matches.then_some(found))
}

/// Asks one mutating webhook; nothing when the request is not its business.
async fn mutate(
    app: &App,
    hook: &Hook,
    request: &mut AdmissionRequest<'_>,
) -> Result<Option<bool>, ApiError> {
    if own(request.kind.group, request.user) {
        return Ok(None);
    }
    let asked = Asked::of(request);
    let Some(found) = concerns(app, hook, &asked, request.object)? else { return Ok(None) };
    let Some(patch) = ask(app, hook, &asked, &found, request.object, request.warnings).await? else {
        return Ok(Some(false));
    };
    if request.operation == Operation::Delete {
        return Err(broken(hook, "a patch was answered to a deletion, which has no object"));
    }
    let mut object = asked.view(request.object, &found.version);
    patched(hook, &mut object, &patch)?;
    let mut object = stored(request.kind, object).map_err(|error| broken(hook, error))?;
    rest::settle(request.kind, request.subresource, request.old, request.object, &mut object)
        .map_err(|error| broken(hook, error))?;
    let changed = object != *request.object;
    *request.object = object;
    Ok(Some(changed))
}

/// Sends one review. Answers the patch, if there is one; a webhook that cannot be asked and may be left out is left out.
async fn ask(
    app: &App,
    hook: &Hook,
    asked: &Asked<'_>,
    found: &Match,
    object: &Value,
    warnings: &mut Vec<String>,
) -> Result<Option<json_patch::Patch>, ApiError> {
    match review::send(app, hook, asked, found, object).await {
        Ok(Verdict { denied, patch, warnings: said }) => {
            said.into_iter().for_each(|text| warn(warnings, text));
            match denied {
                Some(denied) => Err(denied),
                None => Ok(patch),
            }
        }
        Err(why) if hook.ignores_failures => {
            tracing::warn!(webhook = hook.name, configuration = hook.configuration, %why, "webhook left out");
            Ok(None)
        }
        Err(why) => Err(broken(hook, why)),
    }
}

/// The refusal when a webhook could not be asked or answers nonsense.
fn broken(hook: &Hook, why: impl std::fmt::Display) -> ApiError {
    let text = format!("failed calling webhook {:?}: {why}", hook.name);
    let mut error = ApiError::internal(text.clone());
    error.details = serde_json::json!({ "causes": [{ "message": text }] });
    error
}

fn warn(warnings: &mut Vec<String>, text: String) {
    if warnings.iter().map(String::len).sum::<usize>().saturating_add(text.len()) <= MAX_WARNINGS {
        warnings.push(text);
    }
}

fn patched(hook: &Hook, object: &mut Value, patch: &json_patch::Patch) -> Result<(), ApiError> {
    rest::apply_patch(object, patch).map_err(|error| broken(hook, error))
}

/// The stored form of what a webhook made; fields that the kind does not know are dropped.
fn stored(kind: &Kind, mut object: Value) -> Result<Value, WrongType> {
    if let Value::Object(fields) = &mut object {
        let version = kind.versions.first().copied().unwrap_or("v1");
        fields.insert("apiVersion".into(), kind.api_version(version).into());
        fields.insert("kind".into(), kind.kind.into());
    }
    let mut object = (kind.decode)(&object)?.object;
    kind.to_stored(&mut object);
    Ok(object)
}
