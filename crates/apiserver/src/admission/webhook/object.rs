//! The configurations themselves: defaulted and checked when they are written.

use std::collections::BTreeSet;

use ferrovirt_kubernetes::json::{self, default};
use serde_json::{Value, json};

use crate::admission::items_mut;
use crate::hooks::{Class, trust};
use crate::request::{AdmissionRequest, Operation};
use crate::status::{ApiError, Cause};

/// The version of AdmissionReview that this server speaks.
const SPOKEN: &str = "v1";

/// Fills in what Kubernetes fills in, and refuses what it refuses.
///
/// # Errors
/// 422 with every reason.
pub(in crate::admission) fn admit(request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let class =
        [Class::Mutating, Class::Validating].into_iter().find(|c| c.resource() == request.kind.plural);
    let Some(class) = class.filter(|_| request.operation != Operation::Delete) else { return Ok(()) };
    for webhook in items_mut(request.object, "webhooks") {
        fill_in(class, webhook);
    }
    let causes = check(request.object);
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(request.kind.group, request.kind.kind, request.name, &causes))
}

fn fill_in(class: Class, webhook: &mut Value) {
    default(webhook, "failurePolicy", "Fail");
    default(webhook, "matchPolicy", "Equivalent");
    default(webhook, "namespaceSelector", json!({}));
    default(webhook, "objectSelector", json!({}));
    default(webhook, "timeoutSeconds", 10);
    if class == Class::Mutating {
        default(webhook, "reinvocationPolicy", "Never");
    }
    for rule in items_mut(webhook, "rules") {
        default(rule, "scope", "*");
    }
    if let Some(service) = webhook.pointer_mut("/clientConfig/service").filter(|service| service.is_object())
    {
        default(service, "port", 443);
    }
}

/// Collects what is wrong, each with its field.
struct Wrong(Vec<Cause>);

impl Wrong {
    fn add(&mut self, reason: &str, field: String, message: String) {
        self.0.push(Cause { reason: reason.to_owned(), message, field });
    }

    fn required(&mut self, field: String, why: &str) {
        self.add("FieldValueRequired", field, format!("Required value: {why}"));
    }

    fn invalid(&mut self, field: String, value: &Value, why: &str) {
        self.add("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"));
    }

    fn one_of(&mut self, field: String, value: &Value, known: &[&str]) {
        if !value.as_str().is_some_and(|value| known.contains(&value)) {
            let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
            let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
            self.add("FieldValueNotSupported", field, message);
        }
    }

    fn not_yet(&mut self, field: String, what: &str) {
        let message = format!("Forbidden: not supported yet: {what}");
        self.add("FieldValueForbidden", field, message);
    }
}

fn check(object: &Value) -> Vec<Cause> {
    let mut wrong = Wrong(Vec::new());
    let mut names = BTreeSet::new();
    for (index, webhook) in json::list(object, "webhooks").enumerate() {
        let at = |field: &str| format!("webhooks[{index}].{field}");
        let get = |field: &str| webhook.get(field).unwrap_or(&Value::Null);
        let name = get("name").as_str().unwrap_or_default();
        if name.is_empty() {
            wrong.required(at("name"), "");
        } else if name.split('.').filter(|part| !part.is_empty()).count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            wrong.invalid(at("name"), get("name"), why);
        } else if !names.insert(name) {
            wrong.add("FieldValueDuplicate", at("name"), format!("Duplicate value: {name:?}"));
        }
        client_config(&mut wrong, &at("clientConfig"), get("clientConfig"));
        for (number, rule) in json::list(webhook, "rules").enumerate() {
            check_rule(&mut wrong, &at(&format!("rules[{number}]")), rule);
        }
        wrong.one_of(at("failurePolicy"), get("failurePolicy"), &["Fail", "Ignore"]);
        wrong.one_of(at("matchPolicy"), get("matchPolicy"), &["Equivalent", "Exact"]);
        if webhook.get("reinvocationPolicy").is_some() {
            wrong.one_of(at("reinvocationPolicy"), get("reinvocationPolicy"), &["IfNeeded", "Never"]);
        }
        if get("sideEffects").as_str().is_none_or(str::is_empty) {
            wrong.required(at("sideEffects"), "must specify one of None, NoneOnDryRun");
        } else {
            // Whatever acts on its own cannot be asked about a dry run: version v1 does not register it.
            wrong.one_of(at("sideEffects"), get("sideEffects"), &["None", "NoneOnDryRun"]);
        }
        if !get("timeoutSeconds").as_i64().is_some_and(|seconds| (1..=30).contains(&seconds)) {
            let why = "the timeout value must be between 1 and 30 seconds";
            wrong.invalid(at("timeoutSeconds"), get("timeoutSeconds"), why);
        }
        versions(&mut wrong, at("admissionReviewVersions"), get("admissionReviewVersions"));
        if get("matchConditions").as_array().is_some_and(|list| !list.is_empty()) {
            wrong.not_yet(at("matchConditions"), "matchConditions (CEL); use selectors and rules");
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            check_selector(&mut wrong, &at(selector), get(selector));
        }
    }
    wrong.0
}

fn versions(wrong: &mut Wrong, field: String, versions: &Value) {
    let versions: Vec<&str> = json::texts(versions, "").collect();
    if versions.is_empty() {
        wrong.required(field, "must specify one of v1, v1beta1");
    } else if !versions.contains(&SPOKEN) {
        if versions.contains(&"v1beta1") {
            wrong.not_yet(field, "reviews of version v1beta1 alone; add v1");
        } else {
            wrong.invalid(field, &json!(versions), "must include at least one of v1, v1beta1");
        }
    }
}

fn client_config(wrong: &mut Wrong, field: &str, config: &Value) {
    let url = json::string(config, "url");
    let service = config.get("service").filter(|service| service.is_object());
    match (url, service) {
        (Some(url), None) => {
            if let Err(why) = check_url(url) {
                wrong.invalid(format!("{field}.url"), &url.into(), why);
            }
        }
        (None, Some(service)) => {
            for name in ["name", "namespace"] {
                if json::text(service, name).is_empty() {
                    wrong.required(format!("{field}.service.{name}"), &format!("service {name} is required"));
                }
            }
            let path = json::text(service, "path");
            if !path.is_empty()
                && (!path.starts_with('/') || path.contains(['?', '#']) || path.contains("//"))
            {
                let why = "must start with a '/' and be a path without query and empty segments";
                wrong.invalid(format!("{field}.service.path"), &path.into(), why);
            }
            let port = service.get("port").unwrap_or(&Value::Null);
            if !port.as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                wrong.invalid(format!("{field}.service.port"), port, why);
            }
        }
        _ => wrong.required(field.to_owned(), "exactly one of url or service is required"),
    }
    let bundle = json::text(config, "caBundle");
    if !bundle.is_empty()
        && let Err(why) = trust(bundle)
    {
        wrong.invalid(format!("{field}.caBundle"), &"<bytes>".into(), &why);
    }
}

fn check_url(url: &str) -> Result<(), &'static str> {
    let parsed: http::Uri = url.parse().map_err(|_| "url must be a valid URL: https://host[/path]")?;
    let host = parsed.host().unwrap_or_default();
    if parsed.scheme_str() != Some("https") {
        Err("'https' is the only allowed URL scheme; desired format: https://host[/path]")
    } else if host.is_empty() {
        Err("host must be specified; desired format: https://host[/path]")
    } else if url.contains('@') {
        Err("user information is not permitted in the URL")
    } else if url.contains('#') {
        Err("fragments are not permitted in the URL")
    } else if parsed.query().is_some() {
        Err("query parameters are not permitted in the URL")
    } else {
        Ok(())
    }
}

fn check_rule(wrong: &mut Wrong, field: &str, rule: &Value) {
    let list = |name: &str| -> Vec<&str> { json::texts(rule, name).collect() };
    for name in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values = list(name);
        if values.is_empty() {
            wrong.required(format!("{field}.{name}"), "");
        } else if name != "resources" && values.len() > 1 && values.contains(&"*") {
            let why = "if '*' is present, must not specify other values";
            wrong.invalid(format!("{field}.{name}"), &json!(values), why);
        }
    }
    for (index, operation) in list("operations").iter().enumerate() {
        let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        wrong.one_of(format!("{field}.operations[{index}]"), &json!(operation), &known);
    }
    let resources = list("resources");
    let whole = |name: &&str| matches!(*name, "*/*");
    if resources.len() > 1 && resources.iter().any(whole) {
        let why = "if '*/*' is present, must not specify other resources";
        wrong.invalid(format!("{field}.resources"), &json!(resources), why);
    }
    for (index, resource) in resources.iter().enumerate() {
        let (name, below) = resource.split_once('/').unwrap_or((resource, "-"));
        if name.is_empty() || below.is_empty() || below.contains('/') {
            let why = "must be RESOURCE, RESOURCE/SUBRESOURCE, or either with '*'";
            wrong.invalid(format!("{field}.resources[{index}]"), &json!(resource), why);
        }
    }
    let scope = rule.get("scope").unwrap_or(&Value::Null);
    wrong.one_of(format!("{field}.scope"), scope, &["*", "Cluster", "Namespaced"]);
}

fn check_selector(wrong: &mut Wrong, field: &str, selector: &Value) {
    for (index, expression) in json::list(selector, "matchExpressions").enumerate() {
        let at = |name: &str| format!("{field}.matchExpressions[{index}].{name}");
        let count = json::list(expression, "values").len();
        match json::text(expression, "operator") {
            "In" | "NotIn" if count == 0 => {
                wrong.required(at("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let message = "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                wrong.add("FieldValueForbidden", at("values"), message.to_owned());
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => wrong.invalid(at("operator"), &other.into(), "not a valid selector operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        let mut webhook = json!({
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/x"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        });
        fill_in(Class::Mutating, &mut webhook);
        webhook
    }

    #[track_caller]
    fn refused(pointer: &str, value: Value, expected: &str) {
        let mut webhook = good();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        webhook.pointer_mut(parent).unwrap()[field] = value;
        let causes = check(&json!({"webhooks": [webhook]}));
        let said: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{said:?}");
    }

    #[test]
    fn what_upstream_refuses_is_refused() {
        assert_eq!(check(&json!({"webhooks": [good()]})), []);
        refused("/name", json!("a.b"), "webhooks[0].name: Invalid value: \"a.b\": should be a domain");
        refused("/clientConfig/url", json!("http://h/"), "'https' is the only allowed URL scheme");
        refused("/clientConfig/url", json!("https://h/?a"), "query parameters are not permitted");
        refused(
            "/clientConfig/service",
            json!({"name": "s", "namespace": "n"}),
            "exactly one of url or service",
        );
        refused("/clientConfig/caBundle", json!("AAAA"), "clientConfig.caBundle");
        refused("/sideEffects", json!("Some"), "supported values: \"None\", \"NoneOnDryRun\"");
        refused("/timeoutSeconds", json!(31), "between 1 and 30 seconds");
        refused("/admissionReviewVersions", json!(["v1beta1"]), "not supported yet");
        refused("/matchConditions", json!([{"name": "a", "expression": "true"}]), "not supported yet");
        refused("/rules/0/operations", json!(["*", "CREATE"]), "if '*' is present");
        refused("/rules/0/resources", json!([]), "rules[0].resources: Required value");
        refused("/failurePolicy", json!("Maybe"), "supported values: \"Fail\", \"Ignore\"");
        let twice = check(&json!({"webhooks": [good(), good()]}));
        assert_eq!(twice.len(), 1);
        assert_eq!(twice[0].message, "Duplicate value: \"a.b.c\"");
    }
}
