//! Who may `use` which SCC, out of roles and bindings.
//!
//! RBAC alone is looked at. An authorizer that is not RBAC (a webhook, say) does not count: asking it would need a
//! request for each SCC and subject while a pod waits.

use std::collections::{BTreeSet, HashMap};

use ferrovirt_kubernetes::subject::{MASTERS, service_account};
use ferrovirt_scc::{Authorizer, Grants, Subject};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject as Bound};

use crate::follow::Key;

/// The SCCs that a role lets use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    all: bool,
    names: BTreeSet<String>,
}

impl Uses {
    /// What rules say about SCCs; nothing when they say nothing.
    pub(crate) fn of(rules: &[PolicyRule]) -> Option<Self> {
        let has = |list: Option<&Vec<String>>, wanted: &str| {
            list.is_some_and(|list| list.iter().any(|one| one == "*" || one == wanted))
        };
        let mut uses = Self::default();
        for rule in rules {
            let fits = has(rule.api_groups.as_ref(), "security.openshift.io")
                && has(rule.resources.as_ref(), "securitycontextconstraints")
                && has(Some(&rule.verbs), "use");
            match rule.resource_names.as_deref() {
                _ if !fits => {}
                None | Some([]) => uses.all = true,
                Some(names) => uses.names.extend(names.iter().cloned()),
            }
        }
        (uses.all || !uses.names.is_empty()).then_some(uses)
    }

    fn add(&mut self, other: &Self) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    User(String),
    Group(String),
}

/// What a binding gives to whom.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    /// Of a role of the cluster, else of the binding's own namespace.
    of_cluster: bool,
    role: String,
    holders: Vec<Holder>,
}

impl Binding {
    pub(crate) fn of(namespace: &str, role: &RoleRef, subjects: Option<&Vec<Bound>>) -> Option<Self> {
        let holders = subjects.into_iter().flatten().filter_map(|subject| match subject.kind.as_str() {
            "User" => Some(Holder::User(subject.name.clone())),
            "Group" => Some(Holder::Group(subject.name.clone())),
            "ServiceAccount" => {
                let home = subject.namespace.as_deref().unwrap_or(namespace);
                Some(Holder::User(service_account(home, &subject.name)))
            }
            _ => None,
        });
        let holders: Vec<_> = holders.collect();
        (!holders.is_empty()).then(|| Self {
            of_cluster: role.kind == "ClusterRole",
            role: role.name.clone(),
            holders,
        })
    }
}

/// All rights to use SCCs: namespace (empty: everywhere) and holder to SCCs.
#[derive(Debug, Default)]
pub(crate) struct Rights(HashMap<String, HashMap<Holder, Uses>>);

impl Rights {
    pub(crate) fn new(
        cluster_roles: &HashMap<Key, Uses>,
        roles: &HashMap<Key, Uses>,
        bindings: &[&HashMap<Key, Binding>],
    ) -> Self {
        let mut rights = HashMap::new();
        for ((namespace, _), binding) in bindings.iter().copied().flatten() {
            let role = if binding.of_cluster {
                cluster_roles.get(&(String::new(), binding.role.clone()))
            } else {
                roles.get(&(namespace.clone(), binding.role.clone()))
            };
            let Some(role) = role else { continue };
            let here: &mut HashMap<Holder, Uses> = rights.entry(namespace.clone()).or_default();
            for holder in &binding.holders {
                here.entry(holder.clone()).or_default().add(role);
            }
        }
        Self(rights)
    }

    fn of<'a>(&'a self, subject: &Subject<'_>, namespace: &str) -> impl Iterator<Item = &'a Uses> {
        let user = Holder::User(subject.user.to_owned());
        let groups = subject.groups.iter().map(|group| Holder::Group(group.clone()));
        let holders: Vec<Holder> = std::iter::once(user).chain(groups).collect();
        let places = [self.0.get(""), self.0.get(namespace)];
        places
            .into_iter()
            .flatten()
            .flat_map(move |place| holders.iter().filter_map(|holder| place.get(holder)).collect::<Vec<_>>())
    }
}

impl Authorizer for Rights {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        subject.groups.iter().any(|group| group == MASTERS)
            || self.of(subject, namespace).any(|uses| uses.all || uses.names.contains(scc))
    }

    fn grants<'a>(&'a self, subject: &Subject<'_>, namespace: &str) -> Grants<'a> {
        if subject.groups.iter().any(|group| group == MASTERS) {
            return Grants::All;
        }
        let mut names = Vec::new();
        for uses in self.of(subject, namespace) {
            if uses.all {
                return Grants::All;
            }
            names.extend(uses.names.iter().map(String::as_str));
        }
        Grants::Named(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(value: serde_json::Value) -> Option<Uses> {
        Uses::of(&serde_json::from_value::<Vec<PolicyRule>>(value).unwrap())
    }

    fn table<T>(entries: Vec<(&str, &str, T)>) -> HashMap<Key, T> {
        entries.into_iter().map(|(ns, name, value)| ((ns.to_owned(), name.to_owned()), value)).collect()
    }

    fn binding(namespace: &str, kind: &str, role: &str, subject: serde_json::Value) -> Binding {
        let role = RoleRef { api_group: String::new(), kind: kind.to_owned(), name: role.to_owned() };
        Binding::of(namespace, &role, Some(&vec![serde_json::from_value(subject).unwrap()])).unwrap()
    }

    #[test]
    fn rights_are_those_of_rbac() {
        let use_one = |name: &str| {
            json!([{"apiGroups": ["security.openshift.io"], "resources": ["securitycontextconstraints"],
                    "resourceNames": [name], "verbs": ["use"]}])
        };
        let group = "security.openshift.io";
        let scc = "securitycontextconstraints";
        assert_eq!(rules(json!([{"apiGroups": [group], "resources": [scc], "verbs": ["get"]}])), None);
        assert_eq!(rules(json!([{"apiGroups": [""], "resources": [scc], "verbs": ["use"]}])), None);
        let everything = rules(json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])).unwrap();
        let cluster_roles =
            table(vec![("", "one", rules(use_one("one")).unwrap()), ("", "admin", everything)]);
        let roles = table(vec![("a", "two", rules(use_one("two")).unwrap())]);
        let everywhere = table(vec![
            ("", "x", binding("", "ClusterRole", "one", json!({"kind": "Group", "name": "staff"}))),
            ("", "y", binding("", "ClusterRole", "admin", json!({"kind": "User", "name": "root"}))),
            ("", "z", binding("", "ClusterRole", "gone", json!({"kind": "User", "name": "eve"}))),
        ]);
        let account = json!({"kind": "ServiceAccount", "name": "s", "namespace": "b"});
        let local = table(vec![("a", "x", binding("a", "Role", "two", account))]);
        let rights = Rights::new(&cluster_roles, &roles, &[&everywhere, &local]);
        let may = |user: &str, groups: &[&str], scc: &str, namespace: &str| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            let subject = Subject { user, groups: &groups };
            let listed = match rights.grants(&subject, namespace) {
                Grants::All => true,
                Grants::Named(names) => names.contains(&scc),
                Grants::Ask => panic!("rights can be listed"),
            };
            assert_eq!(listed, rights.may_use(&subject, scc, namespace), "the two answers agree");
            listed
        };
        assert!(may("eve", &["staff"], "one", "a"));
        assert!(!may("eve", &["staff"], "two", "a"));
        assert!(!may("eve", &[], "one", "a"));
        assert!(may("root", &[], "anything", "b"));
        assert!(may("nobody", &[MASTERS], "anything", "b"));
        assert!(may("system:serviceaccount:b:s", &[], "two", "a"));
        assert!(!may("system:serviceaccount:b:s", &[], "two", "b"), "a binding holds in its namespace");
    }
}
