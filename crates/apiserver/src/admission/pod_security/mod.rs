//! Pod Security admission: the levels `baseline` and `restricted` of the Pod Security Standards, per namespace label.
//!
//! The checks are those of the current standard (Kubernetes 1.35). A version label other than `latest` is shown in
//! messages; the checks of older versions, which are weaker in places, are not kept.

mod baseline;
mod restricted;

use ferrovirt_kubernetes::{json, object};
use serde_json::Value;

/// Prefix of the namespace labels.
const LABEL: &str = "pod-security.kubernetes.io/";

/// A level of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    Privileged,
    /// Known privilege escalations are stopped.
    Baseline,
    /// Hardened pods only.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    /// The label's text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// One violated control: why, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The control, for example `allowPrivilegeEscalation != false`.
    pub reason: String,
    /// What to change, for example `container "a" must set securityContext.allowPrivilegeEscalation=false`.
    pub detail: String,
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

/// The policy of a namespace for one mode (`enforce`, `warn`, `audit`): level and version as labelled. A label that
/// is not a level counts as the strictest one, so that a slip of the pen does not open the namespace.
#[must_use]
pub fn policy(namespace: &Value, mode: &str) -> (Level, String) {
    let label = |key: String| object::label(namespace, &key).unwrap_or_default();
    let level = match label(format!("{LABEL}{mode}")) {
        "" => Level::Privileged,
        text => Level::parse(text).unwrap_or(Level::Restricted),
    };
    let version = label(format!("{LABEL}{mode}-version"));
    (level, if version.is_empty() { "latest" } else { version }.to_owned())
}

/// All violations of a pod under a level, in the standard's order.
#[must_use]
pub fn evaluate(level: Level, pod: &Value) -> Vec<Violation> {
    match level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline::check(pod, false),
        Level::Restricted => {
            let mut all = baseline::check(pod, true);
            all.extend(restricted::check(pod));
            all
        }
    }
}

/// `violates PodSecurity "restricted:latest": …`, or nothing for a pod that passes.
#[must_use]
pub fn message(level: Level, version: &str, pod: &Value, verb: &str) -> Option<String> {
    let found = evaluate(level, pod);
    if found.is_empty() {
        return None;
    }
    let parts: Vec<String> = found
        .into_iter()
        .map(|v| if v.detail.is_empty() { v.reason } else { format!("{} ({})", v.reason, v.detail) })
        .collect();
    Some(format!("{verb} PodSecurity \"{}:{version}\": {}", level.as_str(), parts.join(", ")))
}

/// All containers in the standard's order: init, regular, ephemeral.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| json::at(pod, "spec").into_iter().flat_map(|spec| json::list(spec, list)))
}

fn name(object: &Value) -> &str {
    json::text(object, "name")
}

/// A field of the pod's security context.
fn pod_context<'a>(pod: &'a Value, field: &str) -> Option<&'a Value> {
    json::at(json::at(pod, "/spec/securityContext")?, field)
}

/// A field of a container's security context.
fn context<'a>(container: &'a Value, field: &str) -> Option<&'a Value> {
    json::at(json::at(container, "securityContext")?, field)
}

/// Names of the containers for which `bad` holds.
fn which<'a>(pod: &'a Value, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod).filter(|container| bad(container)).map(name).collect()
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<S: AsRef<str>>(names: &[S]) -> String {
    names.iter().map(|n| format!("{:?}", n.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

/// `pod and containers "a", "b"`: who set something, the pod, containers or both.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    match (pod, containers.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".into()),
        (false, false) => Some(named(containers)),
        (true, false) => Some(format!("pod and {}", named(containers))),
    }
}

/// Windows pods cannot set Linux fields, so some controls do not ask them to.
fn windows(pod: &Value) -> bool {
    json::text(pod, "/spec/os/name") == "windows"
}

/// A pod in a user namespace: root inside is nobody outside.
fn user_namespace(pod: &Value) -> bool {
    pod.pointer("/spec/hostUsers") == Some(&Value::Bool(false))
}

#[cfg(test)]
mod tests;
