//! What the machine API may change of machines: whether they run.
//!
//! Its webhooks are not asked about its own changes, and roles know no fields: whoever has taken it over would give any machine
//! any volume, without the rights of anybody. The API server decides this itself.

use super::api;
use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-api-run";

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
    let account = subject::service_account(NAMESPACE, api::NAME);
    let variable = |name: &str, of: &str| json!({"name": name, "expression": format!("{of}.orValue({{}})")});
    let same = |field: &str| format!("object.metadata.?{field} == oldObject.metadata.?{field}");
    let metadata = ["labels", "annotations", "finalizers", "ownerReferences"].map(same).join(" && ");
    let of = |resource: &str, rule: &str| format!("request.resource.resource != '{resource}' || ({rule})");
    let refuse = |expression: String, message: &str| json!({"expression": expression, "message": message, "reason": "Forbidden"});
    let machine =
        [kept("spec", &["running", "runStrategy"]), kept("status", &["stateChangeRequests"])].join(" && ");
    let instance = [kept("spec", &["terminationGracePeriodSeconds"]), kept("status", &[])].join(" && ");
    [
        kind(
            "ValidatingAdmissionPolicy",
            json!({
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "operations": ["CREATE", "UPDATE", "DELETE"],
                    "apiGroups": ["kubevirt.io"],
                    "apiVersions": ["*"],
                    "resources": ["*/*"],
                    "scope": "*",
                }]},
                "matchConditions": [
                    {"name": "machine-api", "expression": format!("request.userInfo.username == '{account}'")},
                ],
                "variables": [
                    variable("spec", "object.?spec"),
                    variable("oldSpec", "oldObject.?spec"),
                    variable("status", "object.?status"),
                    variable("oldStatus", "oldObject.?status"),
                ],
                "validations": [
                    refuse(
                        "request.operation == 'UPDATE' && \
                         request.resource.resource in ['virtualmachines', 'virtualmachineinstances']"
                            .to_owned(),
                        "the machine API changes machines that are there, and makes and deletes none",
                    ),
                    refuse(
                        of("virtualmachines", &machine),
                        "the machine API changes of a VirtualMachine only whether it runs, and what is asked of it",
                    ),
                    refuse(
                        of("virtualmachineinstances", &instance),
                        "the machine API changes of a VirtualMachineInstance only how long its end may take",
                    ),
                    refuse(metadata, "the machine API changes no metadata of machines"),
                ],
            }),
        ),
        kind("ValidatingAdmissionPolicyBinding", json!({"policyName": NAME, "validationActions": ["Deny"]})),
    ]
}

/// All fields of `spec` or `status` but some are what they were.
fn kept(of: &str, but: &[&str]) -> String {
    let old =
        format!("old{}{}", of.get(..1).unwrap_or_default().to_uppercase(), of.get(1..).unwrap_or_default());
    let but = but.iter().map(|name| format!("k == '{name}' || ")).collect::<String>();
    let (new, old) = (format!("variables.{of}"), format!("variables.{old}"));
    format!("{new}.all(k, {but}(k in {old} && {new}[k] == {old}[k])) && {old}.all(k, {but}k in {new})")
}
