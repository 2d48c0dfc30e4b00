//! What the handler of a node may change of machines: the status of those of its node.
//!
//! Roles know neither nodes nor fields, and machines have no status of their own for roles: anybody who may write one may write
//! all of it. Without this, anybody who has taken one node's handler over would rewrite every machine of the cluster. The API
//! server decides it itself, by the node that the account's token was made for.

use super::handler;
use super::policy::{bound, same, same_metadata, validation};
use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-handler-node";

/// What a token says of its node (`authentication.kubernetes.io/node-name`); tokens of pods have it since Kubernetes 1.30.
const NODE: &str = "request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')";

/// The policy and its binding.
pub fn policy() -> [Value; 2] {
    let account = subject::service_account(NAMESPACE, handler::ACCOUNT);
    let of = |object: &str| format!("{object}.?status.?nodeName.orValue('') == variables.node");
    let metadata = same_metadata();
    // What a node holds its pods against, also the one that writes.
    let controllers = ["launcherPod", "selinuxLevel"].map(|field| same("?status", field)).join(" && ");
    bound(
        NAME,
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
                validation(
                    "request.operation == 'UPDATE' && request.resource.resource == 'virtualmachineinstances'",
                    "the handler of a node writes VirtualMachineInstances alone, and makes and deletes none",
                ),
                validation(
                    format!("variables.node != '' && {} && {}", of("oldObject"), of("object")),
                    "the handler of a node writes machines of its own node alone, and its token names the node",
                ),
                validation(
                    format!("object.spec == oldObject.spec && {metadata}"),
                    "the handler of a node writes the status of machines alone",
                ),
                validation(
                    controllers,
                    "what the launcher pod of a machine was made from is recorded by the controller alone",
                ),
            ],
        }),
    )
}
