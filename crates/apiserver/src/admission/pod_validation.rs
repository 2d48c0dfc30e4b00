//! The part of Kubernetes' pod validation that keeps nonsense out of the store.

use std::collections::HashSet;

use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_kubernetes::names;
use serde_json::Value;

use crate::request::{AdmissionRequest, Operation};
use crate::status::{ApiError, Cause};

/// What an update of a pod may change in its spec, as the API's message names it.
const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Refuses a pod with a 422 that lists every problem.
pub(super) fn check(request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let spec = request.object.get("spec").unwrap_or(&Value::Null);
    let mut causes = problems(spec);
    if let (Operation::Update, Some(old)) = (request.operation, request.old)
        && frozen(old.get("spec").unwrap_or(&Value::Null)) != frozen(spec)
    {
        push(&mut causes, "spec", "FieldValueForbidden", format!("Forbidden: {MUTABLE}"));
    }
    if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "Pod", request.name, &causes)) }
}

/// What is wrong with the spec of a pod or of a template.
pub(super) fn problems(spec: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    validate(spec, &mut causes);
    causes
}

fn push(causes: &mut Vec<Cause>, field: impl Into<String>, reason: &str, message: impl Into<String>) {
    causes.push(Cause { reason: reason.into(), message: message.into(), field: field.into() });
}

/// The spec without what may change.
fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["containers", "initContainers"] {
        for container in super::items_mut(&mut spec, list) {
            remove(container, &["image", "imagePullPolicy"]);
        }
    }
    remove(
        &mut spec,
        &["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"],
    );
    spec
}

fn remove(object: &mut Value, fields: &[&str]) {
    if let Value::Object(map) = object {
        for field in fields {
            map.remove(*field);
        }
    }
}

fn validate(spec: &Value, causes: &mut Vec<Cause>) {
    let mut volumes = HashSet::new();
    for (i, volume) in json::list(spec, "volumes").enumerate() {
        let at = format!("spec.volumes[{i}]");
        name(volume, &at, &mut volumes, causes);
        let sources =
            volume.as_object().into_iter().flatten().filter(|(k, v)| *k != "name" && !v.is_null()).count();
        if sources > 1 {
            push(causes, at, "FieldValueForbidden", "Forbidden: may not specify more than 1 volume type");
        }
    }
    if json::list(spec, "containers").next().is_none() {
        push(causes, "spec.containers", "FieldValueRequired", "Required value");
    }
    let mut names = HashSet::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in json::list(spec, list).enumerate() {
            let at = format!("spec.{list}[{i}]");
            name(container, &at, &mut names, causes);
            validate_container(container, &at, &volumes, causes);
        }
    }
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], causes);
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], causes);
    // Pod Security and some SCCs allow root, and other users of the node, in a user namespace. A pod that does not get
    // one must not pass as if it did.
    if spec.get("hostUsers") == Some(&Value::Bool(false)) {
        let message = "Forbidden: user namespaces are not supported yet: leave this field out";
        push(causes, "spec.hostUsers", "FieldValueForbidden", message);
    }
    // Constraints do not look at pods of another system, since there its own rules hold; nodes here are linux alone.
    if let Some(name) = spec.pointer("/os/name").filter(|name| !name.is_null() && *name != "linux") {
        let message = format!("Unsupported value: {name}: supported values: \"linux\"");
        push(causes, "spec.os.name", "FieldValueNotSupported", message);
    }
    if let Some(grace) = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64)
        && grace < 0
    {
        let message = format!("Invalid value: {grace}: must be greater than or equal to 0");
        push(causes, "spec.terminationGracePeriodSeconds", "FieldValueInvalid", message);
    }
}

fn one_of(spec: &Value, field: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    let value = text(spec, field);
    if !allowed.contains(&value) {
        let list: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", list.join(", "));
        push(causes, format!("spec.{field}"), "FieldValueNotSupported", message);
    }
}

fn name<'a>(object: &'a Value, at: &str, seen: &mut HashSet<&'a str>, causes: &mut Vec<Cause>) {
    let name = text(object, "name");
    let field = format!("{at}.name");
    if name.is_empty() {
        push(causes, field, "FieldValueRequired", "Required value");
    } else if !names::is_label(name) {
        let message = format!("Invalid value: {name:?}: {}", names::LABEL_RULE);
        push(causes, field, "FieldValueInvalid", message);
    } else if !seen.insert(name) {
        push(causes, field, "FieldValueDuplicate", format!("Duplicate value: {name:?}"));
    }
}

fn validate_container(container: &Value, at: &str, volumes: &HashSet<&str>, causes: &mut Vec<Cause>) {
    let image = text(container, "image");
    if image.is_empty() {
        push(causes, format!("{at}.image"), "FieldValueRequired", "Required value");
    } else if image.trim() != image {
        let message = format!("Invalid value: {image:?}: must not have leading or trailing whitespace");
        push(causes, format!("{at}.image"), "FieldValueInvalid", message);
    }
    let mut paths = HashSet::new();
    for (list, path_field) in [("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")] {
        for (i, mount) in json::list(container, list).enumerate() {
            let at = format!("{at}.{list}[{i}]");
            let (volume, path) = (text(mount, "name"), text(mount, path_field));
            if !volumes.contains(volume) {
                push(causes, format!("{at}.name"), "FieldValueNotFound", format!("Not found: {volume:?}"));
            }
            if path.is_empty() {
                push(causes, format!("{at}.{path_field}"), "FieldValueRequired", "Required value");
            } else if !paths.insert(path) {
                let message = format!("Invalid value: {path:?}: must be unique");
                push(causes, format!("{at}.{path_field}"), "FieldValueInvalid", message);
            }
        }
    }
    let context = container.get("securityContext").unwrap_or(&Value::Null);
    let says = |field: &str, value: bool| context.get(field) == Some(&Value::Bool(value));
    if says("allowPrivilegeEscalation", false) && says("privileged", true) {
        let message =
            "Invalid value: false: cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        push(causes, format!("{at}.securityContext"), "FieldValueInvalid", message);
    }
    resources(container, at, causes);
}

fn resources(container: &Value, at: &str, causes: &mut Vec<Cause>) {
    let amount = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        ferrovirt_kubernetes::quantity::Amount::parse(&text).ok().map(|a| (a.thousandths(), text))
    };
    let list = |kind: &str| json::fields(json::at(container, "resources")?, kind);
    for kind in ["limits", "requests"] {
        for (name, value) in list(kind).into_iter().flatten() {
            let field = format!("{at}.resources.{kind}[{name}]");
            match amount(value) {
                Some((n, _)) if n >= 0 => {}
                Some((_, text)) => push(
                    causes,
                    field,
                    "FieldValueInvalid",
                    format!("Invalid value: {text:?}: must be greater than or equal to 0"),
                ),
                None => push(
                    causes,
                    field,
                    "FieldValueInvalid",
                    format!("Invalid value: {value}: not a quantity"),
                ),
            }
        }
    }
    for (name, request) in list("requests").into_iter().flatten() {
        let limit = list("limits").and_then(|limits| limits.get(name));
        let extended = name.starts_with("hugepages-") || name.contains('/');
        let field = format!("{at}.resources.requests");
        match (amount(request), limit.and_then(amount)) {
            (Some((r, text)), Some((l, limit))) if r > l || (extended && r != l) => {
                let how = if extended { "equal to" } else { "less than or equal to" };
                let message = format!("Invalid value: {text:?}: must be {how} {name} limit of {limit}");
                push(causes, field, "FieldValueInvalid", message);
            }
            (Some(_), None) if extended => {
                let message =
                    format!("Required value: Limit must be set for non overcommitable resources ({name})");
                push(causes, format!("{at}.resources.limits"), "FieldValueRequired", message);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: &Value, expected: &[(&str, &str)]) {
        let mut pod = json!({"spec": spec});
        crate::admission::pod_defaults::apply(&mut pod);
        let mut causes = Vec::new();
        validate(&pod["spec"], &mut causes);
        let found: Vec<(&str, &str)> = causes.iter().map(|c| (c.field.as_str(), c.reason.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_update_cannot_add_a_container_of_any_sort() {
        let old = json!({"containers": [{"name": "c", "image": "i"}]});
        let mut new = old.clone();
        new["ephemeralContainers"] = json!([{"name": "e", "image": "i"}]);
        assert_ne!(frozen(&old), frozen(&new));
    }

    #[test]
    fn good_pods_pass_and_each_problem_is_named() {
        check(&json!({"containers": [{"name": "c", "image": "i"}]}), &[]);
        check(&json!({"containers": []}), &[("spec.containers", "FieldValueRequired")]);
        check(
            &json!({"containers": [{"name": "C", "image": ""}, {"name": "d", "image": "i",
                "volumeMounts": [{"name": "none", "mountPath": "/a"}]}]}),
            &[
                ("spec.containers[0].name", "FieldValueInvalid"),
                ("spec.containers[0].image", "FieldValueRequired"),
                ("spec.containers[1].volumeMounts[0].name", "FieldValueNotFound"),
            ],
        );
        check(
            &json!({"hostUsers": false, "containers": [{"name": "c", "image": "i"}]}),
            &[("spec.hostUsers", "FieldValueForbidden")],
        );
        check(
            &json!({"os": {"name": "windows"}, "containers": [{"name": "c", "image": "i"}]}),
            &[("spec.os.name", "FieldValueNotSupported")],
        );
        check(&json!({"os": {"name": "linux"}, "containers": [{"name": "c", "image": "i"}]}), &[]);
        check(
            &json!({"restartPolicy": "Sometimes", "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}],
                "containers": [{"name": "c", "image": "i", "resources":
                    {"requests": {"memory": "2Gi", "hugepages-2Mi": "2Mi"}, "limits": {"memory": "1Gi"}}}]}),
            &[
                ("spec.volumes[0]", "FieldValueForbidden"),
                ("spec.containers[0].resources.limits", "FieldValueRequired"),
                ("spec.containers[0].resources.requests", "FieldValueInvalid"),
                ("spec.restartPolicy", "FieldValueNotSupported"),
            ],
        );
    }
}
