//! Who may use an SCC: its own users and groups, and roles.

use ferrovirt_apiserver::{auth::rules::Rule, request::Attributes};
use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_kubernetes::object::{self, kind};
use ferrovirt_kubernetes::subject::{MASTERS, service_account};
use ferrovirt_scc::{Authorizer, SecurityContextConstraints, Subject};
use serde_json::Value;
use std::collections::BTreeSet;

/// Roles and bindings of a cluster.
#[derive(Default)]
pub(super) struct Roles {
    objects: Vec<Value>,
}

impl Roles {
    /// Keeps what of these objects is a role or a binding.
    pub(super) fn of(objects: Vec<Value>) -> Self {
        const KINDS: [&str; 4] = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
        Self { objects: objects.into_iter().filter(|object| KINDS.contains(&kind(object))).collect() }
    }

    /// Bindings that let their subjects use the SCC in the namespace.
    fn bindings<'a>(&'a self, scc: &'a str, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |binding| {
            let here = match kind(binding) {
                "ClusterRoleBinding" => "",
                "RoleBinding" if object::namespace(binding) == namespace => namespace,
                _ => return false,
            };
            let (role_kind, name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
            let place = if role_kind == "Role" { here } else { "" };
            let role = self.objects.iter().find(|role| {
                kind(role) == role_kind && object::name(role) == name && object::namespace(role) == place
            });
            role.is_some_and(|role| Rule::list(role).iter().any(|rule| rule.allows(&to_use(scc))))
        })
    }

    /// Everybody who may use the SCC in the namespace, in words.
    pub(super) fn holders(&self, scc: &SecurityContextConstraints, namespace: &str) -> Vec<String> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        all.extend(scc.users.iter().map(|name| format!("user {name}")));
        all.extend(scc.groups.iter().map(|name| format!("group {name}")));
        for binding in self.bindings(scc.name(), namespace) {
            let place = if kind(binding) == "RoleBinding" {
                format!(", in namespace {namespace}")
            } else {
                String::new()
            };
            for subject in subjects(binding) {
                let name = text(subject, "name");
                let who = match kind(subject) {
                    "User" => format!("user {name}"),
                    "Group" => format!("group {name}"),
                    _ => format!("service account {}/{name}", home(subject, namespace)),
                };
                all.insert(format!("{who}{place}"));
            }
        }
        all.into_iter().collect()
    }
}

fn subjects(binding: &Value) -> impl Iterator<Item = &Value> {
    json::list(binding, "subjects")
}

fn home<'a>(subject: &'a Value, namespace: &'a str) -> &'a str {
    let own = text(subject, "namespace");
    if own.is_empty() { namespace } else { own }
}

fn to_use(scc: &str) -> Attributes {
    Attributes {
        verb: "use".to_owned(),
        group: ferrovirt_scc::GROUP.to_owned(),
        resource: "securitycontextconstraints".to_owned(),
        name: scc.to_owned(),
        ..Attributes::default()
    }
}

impl Authorizer for Roles {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        // The API server's authorizer does not look at roles for these.
        if subject.groups.iter().any(|group| group == MASTERS) {
            return true;
        }
        self.bindings(scc, namespace).flat_map(subjects).any(|bound| {
            let name = text(bound, "name");
            match kind(bound) {
                "User" => subject.user == name,
                "Group" => subject.groups.iter().any(|group| group == name),
                "ServiceAccount" => subject.user == service_account(home(bound, namespace), name),
                _ => false,
            }
        })
    }
}
