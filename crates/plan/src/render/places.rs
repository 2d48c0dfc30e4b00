//! Who may make pods that hold places for machines, or the device node of which TAPs are made: the controller alone.
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
/// The device node of which launchers of the documented profile make TAPs, where the handler offers it.
pub const TUN: &str = "devices.kubevirt.io/tun";

/// The policy and its binding. Pods' status and bindings are other resources, so that neither the scheduler nor a kubelet is
/// ever asked; a kubelet's mirror of a static pod is refused as any other pod.
pub fn policy() -> [Value; 2] {
    let rule = |operations: &[&str], resources: &[&str]| json!({"operations": operations, "apiGroups": [""], "apiVersions": ["v1"], "resources": resources, "scope": "Namespaced"});
    let account = subject::service_account(NAMESPACE, controller::NAME);
    let message = format!(
        "only the controller of machines makes pods that ask for {RESOURCE} or {TUN}: create a VirtualMachine, and its pod \
         gets them by itself"
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

/// How many containers of a pod ask for a place, and how many for the device node, together, in the language of policies.
fn asking(pod: &str) -> String {
    let of = |list: &str, resource: &str| {
        let named = |field: &str| format!("c.?resources.?{field}[?'{resource}'].hasValue()");
        format!("{list}.filter(c, {} || {}).size()", named("limits"), named("requests"))
    };
    let optional = |field: &str| format!("{pod}.spec.?{field}.orValue([])");
    let lists =
        [format!("{pod}.spec.containers"), optional("initContainers"), optional("ephemeralContainers")];
    let counts = lists.iter().flat_map(|list| [RESOURCE, TUN].map(|resource| of(list, resource)));
    counts.collect::<Vec<_>>().join(" + ")
}
