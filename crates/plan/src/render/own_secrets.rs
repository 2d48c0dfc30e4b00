//! What the machine API may make Secrets of: certificates.
//!
//! It makes those of its certificates again where somebody has deleted one, and a role limits that to their names. A role knows no
//! types: of that of tokens it would make itself one of any account of the namespace.

use super::policy::{bound, validation};
use super::{api, handler};
use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-api-secrets";

/// The policy and its binding.
pub fn policy() -> [Value; 2] {
    let account = subject::service_account(NAMESPACE, api::NAME);
    let names = [api::SECRET, api::AUTHORITY_SECRET, handler::CERTIFICATE, api::CLIENT_SECRET];
    let names = names.map(|name| format!("'{name}'")).join(", ");
    bound(
        NAME,
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "operations": ["CREATE", "UPDATE"],
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["secrets"],
                "scope": "Namespaced",
            }]},
            "matchConditions": [
                {"name": "machine-api", "expression": format!("request.userInfo.username == '{account}'")},
            ],
            "validations": [
                validation(
                    format!(
                        "request.namespace == '{NAMESPACE}' && object.metadata.name in [{names}] && \
                         object.?type.orValue('') == 'Opaque'"
                    ),
                    "the machine API writes the Secrets of its certificates, and no token of an account",
                ),
            ],
        }),
    )
}
