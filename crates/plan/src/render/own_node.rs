//! What the handler of a node may change of machines: the status of those of its node.
//!
//! Roles know neither nodes nor fields, and machines have no status of their own for roles: whoever may write one may write
//! all of it. Without this, whoever has taken one node's handler over would rewrite every machine of the cluster. The API
//! server decides it itself, by the node that the account's token was made for.

use super::handler;
use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-handler-node";

/// What a token says of its node (`authentication.kubernetes.io/node-name`); tokens of pods have it since Kubernetes 1.30.
const NODE: &str = "request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')";

/// The policy and its binding.
pub fn policy() -> [Value; 2] {
    let kind = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": NAME, "labels": {"kubevirt.io": ""}},
            "spec": spec,
        })
    };
    let account = subject::service_account(NAMESPACE, handler::ACCOUNT);
    let of = |object: &str| format!("{object}.?status.?nodeName.orValue('') == variables.node");
    let same = |of: &str, field: &str| format!("object.{of}.?{field} == oldObject.{of}.?{field}");
    let metadata = ["labels", "annotations", "finalizers", "ownerReferences"];
    let metadata = metadata.map(|field| same("metadata", field)).join(" && ");
    // What a node holds its pods against, also the one that writes.
    let controllers = ["launcherPod", "selinuxLevel"].map(|field| same("?status", field)).join(" && ");
    let refuse = |expression: String, message: &str| json!({"expression": expression, "message": message, "reason": "Forbidden"});
    [
        kind(
            "ValidatingAdmissionPolicy",
            json!({
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "operations": ["CREATE", "UPDATE", "DELETE"],
                    "apiGroups": ["kubevirt.io"],
                    "apiVersions": ["*"],
                    "resources": ["*"],
                    // Said, so that a second apply has nothing to change.
                    "scope": "*",
                }]},
                "matchConditions": [
                    {"name": "handler", "expression": format!("request.userInfo.username == '{account}'")},
                ],
                "variables": [{"name": "node", "expression": NODE}],
                "validations": [
                    refuse(
                        "request.operation == 'UPDATE' && request.resource.resource == 'virtualmachineinstances'".to_owned(),
                        "the handler of a node writes VirtualMachineInstances alone, and makes and deletes none",
                    ),
                    refuse(
                        format!("variables.node != '' && {} && {}", of("oldObject"), of("object")),
                        "the handler of a node writes machines of its own node alone, and its token names the node",
                    ),
                    refuse(
                        format!("object.spec == oldObject.spec && {metadata}"),
                        "the handler of a node writes the status of machines alone",
                    ),
                    refuse(
                        controllers,
                        "what the launcher pod of a machine was made from is recorded by the controller alone",
                    ),
                ],
            }),
        ),
        kind("ValidatingAdmissionPolicyBinding", json!({"policyName": NAME, "validationActions": ["Deny"]})),
    ]
}
