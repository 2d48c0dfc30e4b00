//! The controls that level `restricted` adds.

use std::collections::BTreeSet;

use ferrovirt_kubernetes::json;
use serde_json::Value;

use super::baseline::{added, allowed_seccomp, proc_mount};
use super::{
    Violation, context, name, named, plural, pod_context, quoted, setters, user_namespace, violation, which,
    windows,
};

/// `image` is on the list since Kubernetes 1.33: anybody who may run an image may read one.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn check(pod: &Value) -> Vec<Violation> {
    [
        escalation(pod),
        capabilities(pod),
        proc_mount(pod),
        volumes(pod),
        if user_namespace(pod) { None } else { non_root(pod) },
        if user_namespace(pod) { None } else { user(pod) },
        seccomp(pod),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn escalation(pod: &Value) -> Option<Violation> {
    if windows(pod) {
        return None;
    }
    let bad = which(pod, |c| context(c, "allowPrivilegeEscalation") != Some(&Value::Bool(false)));
    if bad.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad)),
    )
}

fn capabilities(pod: &Value) -> Option<Violation> {
    if windows(pod) {
        return None;
    }
    let keeping = which(pod, |c| {
        !json::texts(c, "/securityContext/capabilities/drop").any(|capability| capability == "ALL")
    });
    let mut found = BTreeSet::new();
    let adding = which(pod, |c| {
        let bad: Vec<&str> = added(c).filter(|capability| *capability != "NET_BIND_SERVICE").collect();
        found.extend(bad.iter().copied());
        !bad.is_empty()
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        let found: Vec<&str> = found.into_iter().collect();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adding),
            quoted(&found)
        ));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Value) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let mut bad = Vec::new();
    for volume in json::list(pod, "/spec/volumes") {
        let fields = json::entries(volume, "");
        let sources: Vec<&str> = fields
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key.as_str())
            .collect();
        if sources.iter().any(|source| VOLUMES.contains(source)) {
            continue;
        }
        types.insert(sources.first().copied().unwrap_or("unknown"));
        bad.push(name(volume));
    }
    if bad.is_empty() {
        return None;
    }
    let types: Vec<&str> = types.into_iter().collect();
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", bad.len()),
            quoted(&bad),
            plural("uses", "use", bad.len()),
            plural("restricted volume type", "restricted volume types", types.len()),
            quoted(&types)
        ),
    )
}

fn non_root(pod: &Value) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let by_pod = pod_context(pod, "runAsNonRoot").and_then(Value::as_bool);
    let explicit = which(pod, |c| context(c, "runAsNonRoot") == Some(&Value::Bool(false)));
    if let Some(who) = setters(by_pod == Some(false), &explicit) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = which(pod, |c| context(c, "runAsNonRoot").is_none() && by_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)))
}

fn user(pod: &Value) -> Option<Violation> {
    let root = |value: Option<&Value>| value.and_then(Value::as_i64) == Some(0);
    let bad = which(pod, |c| root(context(c, "runAsUser")));
    let who = setters(root(pod_context(pod, "runAsUser")), &bad)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp(pod: &Value) -> Option<Violation> {
    if windows(pod) {
        return None;
    }
    const REASON: &str = "seccompProfile";
    let kind = |profile: &Value| json::text(profile, "type").to_owned();
    let mut values = BTreeSet::new();
    let pod_kind = pod_context(pod, "seccompProfile").map(kind);
    let pod_set = pod_kind.as_deref().is_some_and(allowed_seccomp);
    let pod_bad = pod_kind.is_some() && !pod_set;
    if pod_bad {
        values.extend(pod_kind);
    }
    let explicit = which(pod, |c| {
        let wrong = context(c, REASON).map(kind).filter(|kind| !allowed_seccomp(kind));
        let bad = wrong.is_some();
        values.extend(wrong);
        bad
    });
    if let Some(who) = setters(pod_bad, &explicit) {
        let values: Vec<String> = values.into_iter().collect();
        return violation(
            REASON,
            format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values)),
        );
    }
    let silent = which(pod, |c| context(c, REASON).is_none() && !pod_set);
    if silent.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named(&silent)
        ),
    )
}
