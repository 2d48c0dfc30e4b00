//! The review kinds: questions that are posted and answered, never stored.

use std::collections::BTreeMap;

use ferrovirt_kubernetes::rbac::Rule;
use ferrovirt_kubernetes::time;
use ferrovirt_kubernetes::{json, object};
use serde_json::{Value, json};

use super::Auth;
use super::authenticator::Tie;
use super::token::{BoundRef, ISSUER};
use crate::clock;
use crate::registry::Kind;
use crate::request::{Attributes, Decision, UserInfo};
use crate::status::{ApiError, Cause};
use crate::store::Key;

/// Shortest life that a token request may ask for, as in Kubernetes.
const MIN_TOKEN_SECONDS: i64 = 600;
/// Longest life that is given; a request for more gets this much.
const MAX_TOKEN_SECONDS: i64 = 365 * 24 * 3600;

impl Auth {
    /// Answers a posted review of `authentication.k8s.io` or `authorization.k8s.io`: the same object with a status.
    /// `namespace` is that of the path (LocalSubjectAccessReview).
    ///
    /// # Errors
    /// 422 for a question that makes no sense, 404 for another kind.
    pub fn review(
        &self,
        kind: &Kind,
        user: &UserInfo,
        namespace: &str,
        body: Value,
    ) -> Result<Value, ApiError> {
        self.answer(kind.kind, user, namespace, body)
    }

    pub(super) fn answer(
        &self,
        kind: &str,
        user: &UserInfo,
        namespace: &str,
        mut body: Value,
    ) -> Result<Value, ApiError> {
        let spec = body.get("spec").cloned().unwrap_or(Value::Null);
        let status = match kind {
            "SelfSubjectReview" => json!({ "userInfo": user.to_json() }),
            "TokenReview" => self.token_review(&spec)?,
            "SelfSubjectAccessReview" => self.access(kind, user, &spec)?,
            "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                if kind == "LocalSubjectAccessReview"
                    && json::string(&spec, "/resourceAttributes/namespace") != Some(namespace)
                {
                    return Err(invalid(
                        kind,
                        "spec.resourceAttributes.namespace",
                        "must be the namespace of the request",
                    ));
                }
                let subject = subject(&spec);
                if subject.name.is_empty() && subject.groups.is_empty() {
                    return Err(invalid(
                        kind,
                        "spec.user",
                        "at least one of user or group must be specified",
                    ));
                }
                self.access(kind, &subject, &spec)?
            }
            "SelfSubjectRulesReview" => {
                let namespace = json::text(&spec, "namespace");
                if namespace.is_empty() {
                    return Err(ApiError::bad_request("no namespace on request"));
                }
                rules_status(&self.authorizer.rules_of(user, namespace))
            }
            _ => return Err(ApiError::no_such_path()),
        };
        let Value::Object(fields) = &mut body else {
            return Err(ApiError::bad_request("the body is not an object"));
        };
        fields.insert("status".into(), status);
        Ok(body)
    }

    fn access(&self, kind: &str, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
        let text = |object: &Value, key: &str| json::text(object, key).to_owned();
        let resource = spec.get("resourceAttributes").filter(|v| v.is_object());
        let path = spec.get("nonResourceAttributes").filter(|v| v.is_object());
        let request = match (resource, path) {
            (Some(r), None) => Attributes {
                verb: text(r, "verb"),
                group: text(r, "group"),
                version: text(r, "version"),
                resource: text(r, "resource"),
                subresource: text(r, "subresource"),
                namespace: text(r, "namespace"),
                name: text(r, "name"),
                path: String::new(),
            },
            (None, Some(p)) => {
                Attributes { verb: text(p, "verb"), path: text(p, "path"), ..Attributes::default() }
            }
            _ => {
                let message = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                return Err(invalid(kind, "spec.resourceAttributes", message));
            }
        };
        Ok(match self.authorize(user, &request) {
            Decision::Allow(reason) if reason.is_empty() => json!({ "allowed": true }),
            Decision::Allow(reason) => json!({ "allowed": true, "reason": reason }),
            Decision::Deny(reason) if reason.is_empty() => json!({ "allowed": false }),
            Decision::Deny(reason) => json!({ "allowed": false, "reason": reason }),
        })
    }

    fn token_review(&self, spec: &Value) -> Result<Value, ApiError> {
        let token = json::text(spec, "token");
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let mut audiences = strings(spec, "audiences");
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        Ok(match self.user_of_token(token, &audiences) {
            Ok((user, audiences)) => {
                json!({ "authenticated": true, "user": user.to_json(), "audiences": audiences })
            }
            Err(_) => json!({ "authenticated": false, "user": {}, "error": "the token is not valid" }),
        })
    }

    /// `POST serviceaccounts/NAME/token`: a new token for the account. The body is a TokenRequest and so is the answer.
    ///
    /// # Errors
    /// 404 when the account does not exist; 422 or 409 when the request cannot be met.
    pub fn token_request(&self, namespace: &str, name: &str, mut body: Value) -> Result<Value, ApiError> {
        let kind = "TokenRequest";
        let spec = body.get("spec").cloned().unwrap_or(Value::Null);
        let seconds = spec.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
        if seconds < MIN_TOKEN_SECONDS {
            return Err(invalid(
                kind,
                "spec.expirationSeconds",
                &format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes"),
            ));
        }
        let seconds = seconds.min(MAX_TOKEN_SECONDS);
        let mut audiences = strings(&spec, "audiences");
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let tie = self.tie(namespace, name, spec.get("boundObjectRef"))?;
        let expires = time::text(clock::now().saturating_add(seconds));
        let token = self.service_account_token(namespace, name, seconds, audiences.clone(), tie)?;
        let Value::Object(fields) = &mut body else {
            return Err(ApiError::bad_request("the body is not an object"));
        };
        fields.insert("apiVersion".into(), "authentication.k8s.io/v1".into());
        fields.insert("kind".into(), kind.into());
        fields.insert(
            "metadata".into(),
            json!({ "name": name, "namespace": namespace, "creationTimestamp": clock::stamp() }),
        );
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        spec.insert("audiences".into(), json!(audiences));
        spec.insert("expirationSeconds".into(), seconds.into());
        fields.insert("spec".into(), Value::Object(spec));
        fields.insert("status".into(), json!({ "token": token, "expirationTimestamp": expires }));
        Ok(body)
    }

    fn tie(&self, namespace: &str, account: &str, wanted: Option<&Value>) -> Result<Tie, ApiError> {
        let Some(wanted) = wanted.filter(|v| v.is_object()) else { return Ok(Tie::default()) };
        let text = |key: &str| json::text(wanted, key);
        let (resource, home) = match text("kind") {
            "Pod" => ("pods", namespace),
            "Secret" => ("secrets", namespace),
            "Node" => ("nodes", ""),
            other => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount \"{account}\" to an object of kind \"{other}\""
                )));
            }
        };
        let name = text("name");
        let entry = self
            .store
            .get(&Key::new("", resource, home, name))
            .ok_or_else(|| ApiError::not_found("", resource, name))?;
        let at = |path: &str| json::text(&entry.object, path);
        let uid = object::uid(&entry.object);
        if !text("uid").is_empty() && text("uid") != uid {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record",
                text("uid")
            );
            return Err(ApiError::conflict("", resource, name, &why));
        }
        let reference = Some(BoundRef { name: name.into(), uid: uid.into() });
        Ok(match resource {
            "pods" => {
                if at("/spec/serviceAccountName") != account {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
                    )));
                }
                let node = at("/spec/nodeName");
                let node = (!node.is_empty()).then(|| {
                    let stored = self.store.get(&Key::new("", "nodes", "", node));
                    let uid = stored.as_ref().map_or("", |stored| object::uid(&stored.object));
                    BoundRef { name: node.into(), uid: uid.into() }
                });
                Tie { pod: reference, node, ..Tie::default() }
            }
            "secrets" => Tie { secret: reference, ..Tie::default() },
            _ => Tie { node: reference, ..Tie::default() },
        })
    }
}

fn invalid(kind: &str, field: &str, message: &str) -> ApiError {
    let cause = Cause { reason: "FieldValueInvalid".into(), message: message.into(), field: field.into() };
    ApiError::invalid("authorization.k8s.io", kind, "", &[cause])
}

fn strings(object: &Value, place: &str) -> Vec<String> {
    json::texts(object, place).map(str::to_owned).collect()
}

fn subject(spec: &Value) -> UserInfo {
    let text = |key: &str| json::text(spec, key).to_owned();
    let mut extra = BTreeMap::new();
    for (key, values) in json::entries(spec, "extra") {
        extra.insert(key.clone(), strings(values, ""));
    }
    UserInfo { name: text("user"), uid: text("uid"), groups: strings(spec, "groups"), extra }
}

fn rules_status(rules: &[Rule]) -> Value {
    let resources: Vec<&Rule> = rules.iter().filter(|rule| rule.non_resource_urls.is_empty()).collect();
    let paths: Vec<&Rule> = rules.iter().filter(|rule| !rule.non_resource_urls.is_empty()).collect();
    json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false })
}
