//! What the machine API may change of machines: whether they run.
//!
//! Its webhooks are not asked about its own changes, and roles know no fields: anybody who has taken it over would give any machine
//! any volume, without the rights of anybody. The API server decides this itself.

use super::api;
use super::policy::{bound, same_metadata, validation};
use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-api-run";

/// The policy and its binding.
pub fn policy() -> [Value; 2] {
    let account = subject::service_account(NAMESPACE, api::NAME);
    let variable = |name: &str, of: &str| json!({"name": name, "expression": format!("{of}.orValue({{}})")});
    let of = |resource: &str, rule: &str| format!("request.resource.resource != '{resource}' || ({rule})");
    let machine =
        [kept("spec", &["running", "runStrategy"]), kept("status", &["stateChangeRequests"])].join(" && ");
    let instance = [kept("spec", &["terminationGracePeriodSeconds"]), kept("status", &[])].join(" && ");
    bound(
        NAME,
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
                validation(
                    "request.operation == 'UPDATE' && \
                     request.resource.resource in ['virtualmachines', 'virtualmachineinstances']",
                    "the machine API changes machines that are there, and makes and deletes none",
                ),
                validation(
                    of("virtualmachines", &machine),
                    "the machine API changes of a VirtualMachine only whether it runs, and what is asked of it",
                ),
                validation(
                    of("virtualmachineinstances", &instance),
                    "the machine API changes of a VirtualMachineInstance only how long its end may take",
                ),
                validation(same_metadata(), "the machine API changes no metadata of machines"),
            ],
        }),
    )
}

/// All fields of `spec` or `status` but some are what they were.
fn kept(of: &str, but: &[&str]) -> String {
    let old =
        format!("old{}{}", of.get(..1).unwrap_or_default().to_uppercase(), of.get(1..).unwrap_or_default());
    let but = but.iter().map(|name| format!("k == '{name}' || ")).collect::<String>();
    let (new, old) = (format!("variables.{of}"), format!("variables.{old}"));
    format!("{new}.all(k, {but}(k in {old} && {new}[k] == {old}[k])) && {old}.all(k, {but}k in {new})")
}
