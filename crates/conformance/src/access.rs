//! What the authorizer of a case says: a list of grants, or real roles and bindings.

use ferrovirt_kubernetes::json::{list, string, text};
use ferrovirt_kubernetes::rbac::Rights;
use ferrovirt_kubernetes::subject::service_account;
use ferrovirt_scc::{Authorizer, Subject, USE};
use serde_json::Value;

/// The authorizer of one case.
#[derive(Debug)]
pub struct Grants<'a> {
    case: &'a Value,
    rights: Option<Rights>,
}

impl<'a> Grants<'a> {
    /// Of a case with `authorizedSccs` or `rbac`.
    pub fn of(case: &'a Value) -> Self {
        const KINDS: [(&str, &str); 4] = [
            ("clusterRoles", "ClusterRole"),
            ("roles", "Role"),
            ("clusterRoleBindings", "ClusterRoleBinding"),
            ("roleBindings", "RoleBinding"),
        ];
        let rights = case.get("rbac").map(|rbac| {
            let of =
                |(field, kind): (&str, &'static str)| list(rbac, field).map(move |object| (kind, object));
            Rights::read(KINDS.into_iter().flat_map(of), &USE)
        });
        Self { case, rights }
    }
}

impl Authorizer for Grants<'_> {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        match &self.rights {
            Some(rights) => rights.may_use(subject, scc, namespace),
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
