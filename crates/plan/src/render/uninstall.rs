//! Who may end the installation while there are machines: nobody, where the KubeVirt object's `uninstallStrategy` says so.
//!
//! The API server decides it by what the object itself says ([`crate::decide::uninstall`]), and asks nobody: no part of ours can
//! keep the object from going because it is away. Where its namespace or its definition is deleted it goes with them.

use super::controller;
use super::policy::{bound, same, validation};
use crate::config::NAMESPACE;
use crate::decide::uninstall::{MACHINES, REFUSAL, REMOVE};
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-uninstall";

/// The policy and its binding. Of the object the controller changes its own finalizer and annotation alone, since a role knows no
/// fields, and the configuration is the administrator's.
pub fn policy() -> [Value; 2] {
    let account = subject::service_account(NAMESPACE, controller::NAME);
    let finalizers = |object: &str| format!("{object}.metadata.?finalizers.orValue([])");
    let others = |object: &str| format!("{}.filter(f, f != '{MACHINES}')", finalizers(object));
    let annotations = |object: &str| format!("{object}.metadata.?annotations.orValue({{}})");
    let kept = [
        "request.operation != 'DELETE'".to_owned(),
        "oldObject == null".to_owned(),
        "namespaceObject.?metadata.?deletionTimestamp.hasValue()".to_owned(),
        format!("oldObject.?spec.?uninstallStrategy.orValue('') == '{REMOVE}'"),
        format!("!('{MACHINES}' in {})", annotations("oldObject")),
    ];
    let metadata = ["labels", "ownerReferences"].map(|field| same("metadata", field));
    // Everything that the first has, the second has, too.
    let kept_by = |first: &str, second: &str| {
        let (first, second) = (annotations(first), annotations(second));
        format!("{first}.all(k, k == '{MACHINES}' || {second}[?k] == {first}[?k])")
    };
    let own = [
        "object.?spec == oldObject.?spec".to_owned(),
        metadata.join(" && "),
        format!("{} == {}", others("object"), others("oldObject")),
        kept_by("object", "oldObject"),
        kept_by("oldObject", "object"),
    ];
    bound(
        NAME,
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "operations": ["UPDATE", "DELETE"],
                "apiGroups": ["kubevirt.io"],
                "apiVersions": ["*"],
                "resources": ["kubevirts"],
                "scope": "*",
            }]},
            "validations": [
                validation(kept.join(" || "), REFUSAL),
                validation(
                    format!(
                        "request.operation != 'UPDATE' || request.userInfo.username != '{account}' || ({})",
                        own.join(" && ")
                    ),
                    "the controller changes of the KubeVirt object its own finalizer and annotation alone",
                ),
            ],
        }),
    )
}
