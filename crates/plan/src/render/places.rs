//! Who may make pods that hold places for machines: the controller alone.
//!
//! A place brings a directory of the handler's and a device node into whatever container names it, so that a pod of somebody
//! else's would stand where a launcher is expected. The handler compares each pod with the controller's rendering; here the
//! pod is not even made. The API server decides this itself, without a webhook that could be away.

use super::controller;
use super::policy::{bound, validation};
use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-machine-places";
/// What a launcher's container asks the kubelet for: one place for a machine.
pub const RESOURCE: &str = "devices.ferrovirt.io/machine";

/// The policy and its binding. Pods' status and bindings are other resources, so that neither the scheduler nor a kubelet is
/// ever asked; a kubelet's mirror of a static pod is refused as any other pod.
pub fn policy() -> [Value; 2] {
    let rule = |operations: &[&str], resources: &[&str]| json!({"operations": operations, "apiGroups": [""], "apiVersions": ["v1"], "resources": resources, "scope": "Namespaced"});
    let account = subject::service_account(NAMESPACE, controller::NAME);
    let message = format!(
        "only the controller of machines makes pods that ask for {RESOURCE}: create a VirtualMachine, and its pod gets a \
         place by itself"
    );
    bound(
        NAME,
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [
                rule(&["CREATE", "UPDATE"], &["pods"]),
                rule(&["UPDATE"], &["pods/ephemeralcontainers", "pods/resize"]),
            ]},
            "matchConditions": [
                {"name": "others", "expression": format!("request.userInfo.username != '{account}'")},
            ],
            "variables": [
                {"name": "before", "expression": format!("oldObject == null ? 0 : {}", asking("oldObject"))},
                {"name": "now", "expression": asking("object")},
            ],
            // Anyone who labels a machine's pod, or removes a finalizer from it, adds none.
            "validations": [
                validation("variables.now <= variables.before", message),
            ],
        }),
    )
}

/// How many containers of a pod ask for a place, in the language of policies.
fn asking(pod: &str) -> String {
    let named = |field: &str| format!("c.?resources.?{field}[?'{RESOURCE}'].hasValue()");
    let names = format!("{} || {}", named("limits"), named("requests"));
    let of = |list: &str| format!("{list}.filter(c, {names}).size()");
    let optional = |field: &str| of(&format!("{pod}.spec.?{field}.orValue([])"));
    [of(&format!("{pod}.spec.containers")), optional("initContainers"), optional("ephemeralContainers")]
        .join(" + ")
}
