//! The AdmissionReview: what a webhook is sent, and what it may answer.

use base64::Engine as _;
use ferrovirt_kubernetes::json;
use serde_json::{Map, Value, json};

use super::call;
use crate::app::App;
use crate::hooks::{Class, Hook, Rule};
use crate::registry::{Kind, api_version};
use crate::request::{AdmissionRequest, Operation, Target, UserInfo};
use crate::status::ApiError;

const VERSION: &str = "admission.k8s.io/v1";

/// What is asked about, beside the object.
pub(super) struct Asked<'a> {
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    /// All versions of the resource that carry the same object.
    pub(super) versions: &'a [&'static str],
    /// `CREATE`, `UPDATE` or `DELETE`.
    pub(super) operation: &'static str,
    pub(super) namespaced: bool,
    pub(super) namespace: &'a str,
    pub(super) old: Option<&'a Value>,
    name: &'a str,
    user: &'a UserInfo,
    dry_run: bool,
    /// Group, version and kind of an object that is not of the resource's own kind.
    other: Option<(&'a str, &'a str, &'a str)>,
    row: Option<&'static Kind>,
}

impl<'a> Asked<'a> {
    /// About an object.
    pub(super) fn of(request: &AdmissionRequest<'a>) -> Self {
        let kind = request.kind;
        // Upstream's convention: a namespace is in itself.
        let is_namespace = kind.group.is_empty() && kind.plural == "namespaces";
        Self {
            group: kind.group,
            version: request.version,
            resource: kind.plural,
            subresource: request.subresource,
            versions: kind.versions,
            operation: match request.operation {
                Operation::Create => "CREATE",
                Operation::Update => "UPDATE",
                Operation::Delete => "DELETE",
            },
            namespaced: kind.namespaced,
            namespace: if is_namespace { request.name } else { request.namespace },
            old: request.old,
            name: request.name,
            user: request.user,
            dry_run: request.dry_run,
            other: None,
            row: Some(kind),
        }
    }

    /// About a POST to a subresource, which makes an object of another kind.
    pub(super) fn below(target: &'a Target, other: (&'a str, &'a str, &'a str), dry_run: bool) -> Self {
        let asked = &target.attributes;
        Self {
            group: &asked.group,
            version: &asked.version,
            resource: &asked.resource,
            subresource: &asked.subresource,
            versions: &[],
            operation: "CREATE",
            namespaced: !asked.namespace.is_empty(),
            namespace: &asked.namespace,
            old: None,
            name: &asked.name,
            user: &target.user,
            dry_run,
            other: Some(other),
            row: None,
        }
    }

    /// Whether a rule of a webhook names the request; in which version of the object. Another version of the same kind than the
    /// request's counts only when the webhook does not insist on exact matches.
    pub(super) fn rule_of(&self, hook: &Hook) -> Option<Match> {
        let own = [self.version];
        let other = if hook.exact { &[][..] } else { self.versions };
        let versions = own.iter().chain(other.iter().filter(|version| **version != self.version));
        versions
            .copied()
            .find(|version| hook.rules.iter().any(|rule| self.is_named_by(rule, version)))
            .map(|version| Match { version: version.to_owned() })
    }

    /// Whether the rule names the request with the object in this version.
    fn is_named_by(&self, rule: &Rule, version: &str) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|name| name == "*" || name == wanted);
        let resource = || {
            rule.resources.iter().any(|named| {
                let (resource, below) = named.split_once('/').unwrap_or((named, ""));
                (resource == "*" || resource == self.resource) && (below == "*" || below == self.subresource)
            })
        };
        let scope = match rule.scope.as_str() {
            "Namespaced" => self.namespaced,
            "Cluster" => !self.namespaced,
            _ => true,
        };
        scope
            && has(&rule.operations, self.operation)
            && has(&rule.groups, self.group)
            && has(&rule.versions, version)
            && resource()
    }

    /// A stored object in the version that a webhook wants.
    pub(super) fn view(&self, object: &Value, version: &str) -> Value {
        self.row.and_then(|kind| kind.from_stored(object, version)).unwrap_or_else(|| object.clone())
    }

    fn kind(&self, version: &str) -> Value {
        match (self.other, self.row) {
            (Some((group, version, kind)), _) => json!({"group": group, "version": version, "kind": kind}),
            (None, Some(row)) => json!({"group": row.group, "version": version, "kind": row.kind}),
            (None, None) => Value::Null,
        }
    }

    fn request(&self, uid: &str, found: &Match, object: &Value) -> Value {
        let resource =
            |version: &str| json!({"group": self.group, "version": version, "resource": self.resource});
        let mut request = Map::new();
        let mut put = |field: &str, value: Value| request.insert(field.to_owned(), value);
        put("uid", uid.into());
        put("kind", self.kind(&found.version));
        put("resource", resource(&found.version));
        put("requestKind", self.kind(self.version));
        put("requestResource", resource(self.version));
        if !self.subresource.is_empty() {
            put("subResource", self.subresource.into());
            put("requestSubResource", self.subresource.into());
        }
        if !self.name.is_empty() {
            put("name", self.name.into());
        }
        if !self.namespace.is_empty() {
            put("namespace", self.namespace.into());
        }
        put("operation", self.operation.into());
        put("userInfo", self.user.to_json());
        let object = if object.is_null() { Value::Null } else { self.view(object, &found.version) };
        put("object", object);
        put("oldObject", self.old.map(|old| self.view(old, &found.version)).unwrap_or_default());
        put("dryRun", self.dry_run.into());
        let options = match self.operation {
            "CREATE" => "CreateOptions",
            "UPDATE" => "UpdateOptions",
            _ => "DeleteOptions",
        };
        let mut options = json!({"kind": options, "apiVersion": api_version("meta.k8s.io", "v1")});
        if let (true, Value::Object(fields)) = (self.dry_run, &mut options) {
            fields.insert("dryRun".into(), json!(["All"]));
        }
        put("options", options);
        json!({"kind": "AdmissionReview", "apiVersion": VERSION, "request": request})
    }
}

/// The version in which a webhook wants to see an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) version: String,
}

/// What a webhook answered.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) denied: Option<ApiError>,
    pub(super) patch: Option<json_patch::Patch>,
    pub(super) warnings: Vec<String>,
}

/// Asks a webhook. An error is a sentence about why there is no valid answer.
pub(super) async fn send(
    app: &App,
    hook: &Hook,
    asked: &Asked<'_>,
    found: &Match,
    object: &Value,
) -> Result<Verdict, String> {
    let uid = crate::auth::unique().ok_or("the system gives no random numbers")?;
    let review = asked.request(&uid, found, object).to_string();
    let answer =
        call::post(app, hook, review.into()).await.map_err(|why| format!("failed to call webhook: {why}"))?;
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|why| format!("failed to call webhook: the answer is not JSON: {why}"))?;
    read(hook, &uid, &answer).map_err(|why| format!("received invalid webhook response: {why}"))
}

fn read(hook: &Hook, uid: &str, answer: &Value) -> Result<Verdict, String> {
    let text = |pointer: &str| json::text(answer, pointer);
    let response = answer.get("response").filter(|response| response.is_object());
    let response = response.ok_or("webhook response was absent")?;
    if text("/response/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text("/response/uid")));
    }
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    if (version, kind) != (VERSION, "AdmissionReview") {
        return Err(format!(
            "expected webhook response of {VERSION}, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let patch = patch(hook.class, text("/response/patch"), text("/response/patchType"))?;
    for (key, value) in json::entries(response, "auditAnnotations") {
        tracing::debug!(key = format!("{}/{key}", hook.name), %value, "audit annotation of a webhook");
    }
    let warnings = json::texts(response, "warnings").map(str::to_owned).collect();
    let allowed = response.get("allowed").and_then(Value::as_bool).unwrap_or_default();
    let denied = (!allowed).then(|| denied(&hook.name, response.get("status").unwrap_or(&Value::Null)));
    Ok(Verdict { denied, patch, warnings })
}

fn patch(class: Class, patch: &str, kind: &str) -> Result<Option<json_patch::Patch>, String> {
    if class == Class::Validating {
        return match (patch, kind) {
            ("", "") => Ok(None),
            ("", _) => Err("validating webhook may not return response.patchType".to_owned()),
            _ => Err("validating webhook may not return response.patch".to_owned()),
        };
    }
    match (patch, kind) {
        ("", "") => return Ok(None),
        ("", _) => return Err("webhook returned response.patchType but not response.patch".to_owned()),
        (_, "") => return Err("webhook returned response.patch but not response.patchType".to_owned()),
        (_, "JSONPatch") => {}
        (_, other) => return Err(format!("invalid value of webhook response.patchType of {other:?}")),
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(patch)
        .map_err(|why| format!("response.patch is not base64: {why}"))?;
    let patch: json_patch::Patch =
        serde_json::from_slice(&bytes).map_err(|why| format!("response.patch is no JSON patch: {why}"))?;
    Ok((!patch.0.is_empty()).then_some(patch))
}

/// The refusal that a webhook worded, in upstream's frame.
fn denied(webhook: &str, status: &Value) -> ApiError {
    let text = |field: &str| json::text(status, field);
    let denied = format!("admission webhook {webhook:?} denied the request");
    let (message, reason) = (text("message"), text("reason"));
    let message = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let mut error = ApiError::new(code, "", message);
    error.reason = reason.to_owned().into();
    error.details = status.get("details").cloned().unwrap_or_default();
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(class: Class) -> Hook {
        Hook::read(class, "c", &json!({"name": "x.y.z", "clientConfig": {"url": "https://localhost/"}}))
    }

    #[track_caller]
    fn check(class: Class, response: &Value, expected: &str) {
        let answer = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
        let said = match read(&hook(class), "u", &answer) {
            Err(why) => why,
            Ok(Verdict { denied: Some(error), .. }) => format!("{} {}", error.code, error.message),
            Ok(Verdict { patch, warnings, .. }) => {
                format!("{} {warnings:?}", patch.map_or(0, |patch| patch.0.len()))
            }
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn answers_are_read_as_upstream_reads_them() {
        let one = base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"add","path":"/a","value":1}]"#);
        let both = [Class::Mutating, Class::Validating];
        for class in both {
            check(class, &json!({"uid": "u", "allowed": true, "warnings": ["w"]}), r#"0 ["w"]"#);
            check(class, &Value::Null, "webhook response was absent");
            check(class, &json!({"uid": "other"}), r#"expected response.uid="u", got "other""#);
            check(
                class,
                &json!({"uid": "u", "allowed": false, "status": {"code": 403, "message": "no"}}),
                r#"403 admission webhook "x.y.z" denied the request: no"#,
            );
            check(
                class,
                &json!({"uid": "u", "status": {"code": 200}}),
                r#"400 admission webhook "x.y.z" denied the request without explanation"#,
            );
        }
        let patch = json!({"uid": "u", "allowed": true, "patch": one, "patchType": "JSONPatch"});
        check(Class::Mutating, &patch, "1 []");
        check(Class::Validating, &patch, "validating webhook may not return response.patch");
        let untyped = json!({"uid": "u", "allowed": true, "patch": one});
        check(Class::Mutating, &untyped, "webhook returned response.patch but not response.patchType");
    }
}
