//! Equality of pods by meaning: what is absent equals what is empty, and amounts equal by value.

use serde_json::{Map, Value};

/// Objects that exist even when nobody wrote them.
const ALWAYS_THERE: [&str; 17] = [
    "metadata",
    "spec",
    "status",
    "resources",
    "labels",
    "annotations",
    "nodeSelector",
    "overhead",
    "limits",
    "requests",
    "matchLabels",
    "options",
    "volumeAttributes",
    "allocatedResources",
    "state",
    "lastState",
    "claims",
];

/// Scalars for which absent, and zero, empty or false are different things.
const THREE_STATES: [&str; 48] = [
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
    "fsGroup",
    "fsGroupChangePolicy",
    "privileged",
    "allowPrivilegeEscalation",
    "readOnlyRootFilesystem",
    "procMount",
    "hostUsers",
    "localhostProfile",
    "terminationGracePeriodSeconds",
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "shareProcessNamespace",
    "setHostnameAsFQDN",
    "priority",
    "enableServiceLinks",
    "preemptionPolicy",
    "optional",
    "defaultMode",
    "mode",
    "expirationSeconds",
    "tolerationSeconds",
    "mountPropagation",
    "recursiveReadOnly",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
    "hostnameOverride",
    "runtimeClassName",
    "hostProcess",
    "gmsaCredentialSpec",
    "gmsaCredentialSpecName",
    "runAsUserName",
    "sizeLimit",
    "storageClassName",
    "volumeMode",
    "volumeAttributesClassName",
    "deletionGracePeriodSeconds",
    "controller",
    "blockOwnerDeletion",
    "started",
    "resourceClaimName",
    "resourceClaimTemplateName",
    "service",
    "minDomains",
    "nodeAffinityPolicy",
    "nodeTaintsPolicy",
];

/// Whether two values of the field `key` mean the same.
fn same(key: &str, a: Option<&Value>, b: Option<&Value>) -> bool {
    let (a, b) = (a.filter(|v| !v.is_null()), b.filter(|v| !v.is_null()));
    match (a, b) {
        (None, None) => true,
        (Some(value), None) | (None, Some(value)) => nothing(key, value),
        (Some(Value::Object(a)), Some(Value::Object(b))) => objects(key, a, b),
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same("", Some(a), Some(b)))
        }
        (Some(a), Some(b)) => a == b,
    }
}

fn nothing(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => {
            ALWAYS_THERE.contains(&key) && map.iter().all(|(key, value)| nothing(key, value))
        }
        Value::Bool(flag) => !flag && !THREE_STATES.contains(&key),
        Value::String(text) => text.is_empty() && !THREE_STATES.contains(&key),
        Value::Number(n) => n.as_i64() == Some(0) && !THREE_STATES.contains(&key),
    }
}

fn objects(key: &str, a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let amounts = matches!(key, "limits" | "requests" | "overhead" | "allocatedResources");
    let texts = matches!(key, "labels" | "annotations" | "nodeSelector" | "matchLabels");
    let field = |name: &String| {
        let (a, b) = (a.get(name), b.get(name));
        match (a.and_then(Value::as_str), b.and_then(Value::as_str)) {
            (Some(a), Some(b)) if amounts => a == b || amount(a).is_some_and(|n| Some(n) == amount(b)),
            _ if texts => a == b,
            _ => same(name, a, b),
        }
    };
    a.keys().all(field) && b.keys().filter(|k| !a.contains_key(*k)).all(field)
}

/// An amount such as `500m`, `1.5` or `64Mi`, in billionths.
fn amount(text: &str) -> Option<i128> {
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 {
        return None;
    }
    let mut nano: i128 = format!("{whole}{fraction}").parse().ok()?;
    for _ in fraction.len()..9 {
        nano = nano.checked_mul(10)?;
    }
    let power = |base: i128, n: u32| base.checked_pow(n);
    let factor = match unit {
        "" => 1,
        "k" => 1000,
        "M" => power(1000, 2)?,
        "G" => power(1000, 3)?,
        "T" => power(1000, 4)?,
        "P" => power(1000, 5)?,
        "E" => power(1000, 6)?,
        "Ki" => 1024,
        "Mi" => power(1024, 2)?,
        "Gi" => power(1024, 3)?,
        "Ti" => power(1024, 4)?,
        "Pi" => power(1024, 5)?,
        "Ei" => power(1024, 6)?,
        "m" => return (nano % 1000 == 0).then_some(nano / 1000),
        "u" => return (nano % 1_000_000 == 0).then_some(nano / 1_000_000),
        "n" => return (nano % 1_000_000_000 == 0).then_some(nano / 1_000_000_000),
        _ => {
            let exponent: u32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
            power(10, exponent)?
        }
    };
    nano.checked_mul(factor)
}

/// Two pods without their annotations, and without the metadata that controllers keep for themselves.
pub(crate) fn pods(old: &Value, new: &Value) -> bool {
    const OWN: [&str; 5] = ["annotations", "ownerReferences", "finalizers", "selfLink", "managedFields"];
    without(old, new, &["apiVersion", "kind", "metadata", "spec"])
        && without(field(old, "metadata"), field(new, "metadata"), &OWN)
        && specs(old, new)
}

/// Two pods' specs without their scheduling gates. `serviceAccount` only repeats `serviceAccountName`.
pub(crate) fn specs(old: &Value, new: &Value) -> bool {
    let (old, new) = (field(old, "spec"), field(new, "spec"));
    without(old, new, &["schedulingGates", "serviceAccount", "securityContext"])
        && without(field(old, "securityContext"), field(new, "securityContext"), &[])
}

fn field<'v>(value: &'v Value, key: &str) -> &'v Value {
    value.get(key).unwrap_or(&Value::Null)
}

fn without(a: &Value, b: &Value, keys: &[&str]) -> bool {
    let empty = Map::new();
    let (a, b) = match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => (a, b),
        (Some(a), None) if b.is_null() => (a, &empty),
        (None, Some(b)) if a.is_null() => (&empty, b),
        _ => return a == b,
    };
    let counts = |key: &&String| !keys.contains(&key.as_str());
    a.keys().chain(b.keys()).filter(counts).all(|key| same(key, a.get(key), b.get(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_and_empty() {
        let pod = |spec: Value| json!({"spec": spec});
        let eq = |a: Value, b: Value| specs(&pod(a), &pod(b));
        assert!(eq(
            json!({"containers": [{"name": "a", "resources": {}}]}),
            json!({"containers": [{"name": "a"}]})
        ));
        assert!(eq(json!({"securityContext": {}}), json!({})));
        assert!(eq(json!({"hostNetwork": false}), json!({})));
        assert!(eq(json!({"volumes": []}), json!({"volumes": null})));
        assert!(!eq(json!({"containers": [{"securityContext": {}}]}), json!({"containers": [{}]})));
        assert!(!eq(json!({"securityContext": {"runAsNonRoot": false}}), json!({"securityContext": {}})));
        assert!(eq(json!({"schedulingGates": [{"name": "x"}]}), json!({})));
        let cpu = |v: &str| json!({"containers": [{"resources": {"limits": {"cpu": v}}}]});
        assert!(eq(cpu("1"), cpu("1000m")));
        assert!(eq(cpu("1Gi"), cpu("1024Mi")));
        assert!(!eq(cpu("1"), cpu("2")));
    }
}
