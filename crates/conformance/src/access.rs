//! What the authorizer of a case says: a list of grants, or real roles and bindings.

use ferrovirt_kubernetes::json::{list, string, text};
use ferrovirt_kubernetes::subject::service_account;
use ferrovirt_scc::{Authorizer, Subject};
use serde_json::Value;

/// The authorizer of one case.
#[derive(Debug)]
pub struct Grants<'a> {
    case: &'a Value,
}

impl<'a> Grants<'a> {
    /// Of a case with `authorizedSccs` or `rbac`.
    pub fn of(case: &'a Value) -> Self {
        Self { case }
    }
}

impl Authorizer for Grants<'_> {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        match self.case.get("rbac") {
            Some(rbac) => allowed(rbac, subject, scc, namespace),
            None => list(self.case, "authorizedSccs").any(|grant| granted(grant, subject, scc, namespace)),
        }
    }
}

fn granted(grant: &Value, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
    let there = string(grant, "namespace").is_none_or(|n| n.is_empty() || n == namespace);
    there && text(grant, "scc") == scc && is(subject, text(grant, "kind"), text(grant, "name"), "")
}

fn is(subject: &Subject<'_>, kind: &str, name: &str, namespace: &str) -> bool {
    match kind {
        "User" => subject.user == name,
        "Group" => subject.groups.iter().any(|g| g == name),
        "ServiceAccount" => subject.user == service_account(namespace, name),
        _ => false,
    }
}

/// Role-based access control for verb `use` on one SCC.
fn allowed(rbac: &Value, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
    let cluster = list(rbac, "clusterRoleBindings").any(|b| binds(rbac, b, subject, scc, ""));
    let here = |b: &&Value| text(b.get("metadata").unwrap_or(&Value::Null), "namespace") == namespace;
    cluster || list(rbac, "roleBindings").filter(here).any(|b| binds(rbac, b, subject, scc, namespace))
}

fn binds(rbac: &Value, binding: &Value, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
    let matched = list(binding, "subjects").any(|s| {
        let own = text(s, "namespace");
        is(subject, text(s, "kind"), text(s, "name"), if own.is_empty() { namespace } else { own })
    });
    let role = binding.get("roleRef").unwrap_or(&Value::Null);
    let (key, place) = match text(role, "kind") {
        "Role" => ("roles", namespace),
        _ => ("clusterRoles", ""),
    };
    let named = |r: &&Value| {
        let metadata = r.get("metadata").unwrap_or(&Value::Null);
        text(metadata, "name") == text(role, "name") && text(metadata, "namespace") == place
    };
    matched && list(rbac, key).filter(named).flat_map(|r| list(r, "rules")).any(|rule| permits(rule, scc))
}

fn permits(rule: &Value, scc: &str) -> bool {
    let has =
        |key: &str, name: &str| list(rule, key).any(|v| v.as_str() == Some("*") || v.as_str() == Some(name));
    let mut names = list(rule, "resourceNames").peekable();
    has("verbs", "use")
        && has("apiGroups", "security.openshift.io")
        && has("resources", "securitycontextconstraints")
        && (names.peek().is_none() || names.any(|n| n.as_str() == Some(scc)))
}
