//! The RBAC index: which rules reach which subject.
//!
//! It changes with each stored role and binding, by as much as changed there: a binding of many subjects costs its author
//! and nobody else. A request looks only at the bindings of its own user and groups, in its own namespace.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Attributes, Decision, GROUP, RoleName, Rule, Subject, User, aggregate, role_name, subjects};
use crate::json;
use crate::subject::MASTERS;

/// One binding. Its subjects are where it is found.
#[derive(Debug)]
struct Binding {
    /// The namespace of a role binding; empty for a cluster role binding.
    namespace: String,
    name: String,
    /// Kind and name of its role, as they are written.
    role: (String, String),
    /// Where that role is; nothing when it cannot be one.
    home: Option<RoleName>,
}

/// All bindings by subject, and the rules of all roles.
#[derive(Debug, Default)]
pub struct Index {
    /// By namespace, the empty one for cluster role bindings: what is bound elsewhere is not even looked at.
    bindings: HashMap<Subject, HashMap<String, Vec<Arc<Binding>>>>,
    roles: HashMap<RoleName, Arc<Vec<Rule>>>,
    /// All cluster roles, in order of name: those that are collected from others depend on any of them.
    cluster: BTreeMap<String, Value>,
}

impl Index {
    /// Takes a change of an object of a resource of [`GROUP`]: what it was, and what it is. The namespace is empty for what
    /// is of the cluster.
    pub fn apply(
        &mut self,
        resource: &str,
        (namespace, name): (&str, &str),
        old: Option<&Value>,
        new: Option<&Value>,
    ) {
        match resource {
            "roles" => {
                let name = (namespace.to_owned(), name.to_owned());
                match new {
                    Some(role) => self.roles.insert(name, Arc::new(Rule::list(role))),
                    None => self.roles.remove(&name),
                };
            }
            "clusterroles" => self.cluster_role(name, new),
            "rolebindings" | "clusterrolebindings" => {
                if let Some(old) = old {
                    self.unbind(old, namespace, name);
                }
                if let Some(new) = new {
                    self.bind(new, namespace, name);
                }
            }
            _ => {}
        }
    }

    /// Only administrators write these, and there are some dozen, so those that are collected are collected again.
    fn cluster_role(&mut self, name: &str, new: Option<&Value>) {
        match new {
            Some(role) => {
                self.cluster.insert(name.to_owned(), role.clone());
                self.roles.insert((String::new(), name.to_owned()), Arc::new(Rule::list(role)));
            }
            None => {
                self.cluster.remove(name);
                self.roles.remove(&(String::new(), name.to_owned()));
            }
        }
        let all: Vec<&Value> = self.cluster.values().collect();
        for (name, role) in self.cluster.iter().filter(|(_, role)| role.get("aggregationRule").is_some()) {
            self.roles.insert((String::new(), name.clone()), Arc::new(aggregate(role, &all)));
        }
    }

    fn bind(&mut self, object: &Value, namespace: &str, name: &str) {
        let text = |place: &str| json::text(object, place).to_owned();
        let (kind, role) = (text("/roleRef/kind"), text("/roleRef/name"));
        let home = role_name(&kind, &role, namespace);
        let namespace = namespace.to_owned();
        let binding = Arc::new(Binding { namespace, name: name.to_owned(), role: (kind, role), home });
        for subject in subjects(object, NOBODY) {
            let here =
                self.bindings.entry(subject).or_default().entry(binding.namespace.clone()).or_default();
            // A subject that is named twice is bound once.
            if !here.last().is_some_and(|last| Arc::ptr_eq(last, &binding)) {
                here.push(Arc::clone(&binding));
            }
        }
    }

    fn unbind(&mut self, object: &Value, namespace: &str, name: &str) {
        for subject in subjects(object, NOBODY) {
            let Some(places) = self.bindings.get_mut(&subject) else { continue };
            if let Some(here) = places.get_mut(namespace) {
                here.retain(|binding| binding.name != name);
                if here.is_empty() {
                    places.remove(namespace);
                }
            }
            if places.is_empty() {
                self.bindings.remove(&subject);
            }
        }
    }

    /// The bindings of a user that count in `namespace`, each with its subject: the user's own before those of groups, those
    /// of the cluster before those of the namespace.
    fn of<'a>(&'a self, user: User<'_>, namespace: &str) -> Vec<(&'a Binding, &'a Subject)> {
        let mut found = Vec::new();
        let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
        for subject in std::iter::once(Subject::User(user.name.to_owned())).chain(groups) {
            let Some((subject, places)) = self.bindings.get_key_value(&subject) else { continue };
            let here = Some(namespace).filter(|namespace| !namespace.is_empty());
            for place in std::iter::once("").chain(here) {
                found.extend(places.get(place).into_iter().flatten().map(|binding| (&**binding, subject)));
            }
        }
        found
    }

    fn rules(&self, binding: &Binding) -> Option<&Arc<Vec<Rule>>> {
        self.roles.get(binding.home.as_ref()?)
    }

    /// Decides one request.
    #[must_use]
    pub fn authorize(&self, user: User<'_>, request: &Attributes) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut missing: Vec<String> = Vec::new();
        for (binding, subject) in self.of(user, &request.namespace) {
            // A role binding never grants paths, even when it refers to a cluster role that has some.
            if !binding.namespace.is_empty() && request.resource.is_empty() {
                continue;
            }
            let (kind, role) = &binding.role;
            match self.rules(binding) {
                Some(rules) if rules.iter().any(|rule| rule.allows(request)) => {
                    let (scope, place) = match binding.namespace.as_str() {
                        "" => ("ClusterRoleBinding", binding.name.clone()),
                        namespace => ("RoleBinding", format!("{}/{namespace}", binding.name)),
                    };
                    return Decision::Allow(format!(
                        "RBAC: allowed by {scope} \"{place}\" of {kind} \"{role}\" to {subject}"
                    ));
                }
                Some(_) => {}
                // The message of Kubernetes' 403; a few of them say enough.
                None if missing.len() < MAX_MISSING => {
                    let text = format!("{}.{GROUP} \"{role}\" not found", kind.to_lowercase());
                    if !missing.contains(&text) {
                        missing.push(text);
                    }
                }
                None => {}
            }
        }
        match missing.as_slice() {
            [] => Decision::Deny(String::new()),
            [one] => Decision::Deny(format!("RBAC: {one}")),
            many => Decision::Deny(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    /// All rules that the user has in a namespace (or cluster-wide when it is empty). Those of a role that is bound often
    /// are there once, or twice where it is bound in the namespace, too.
    #[must_use]
    pub fn rules_of(&self, user: User<'_>, namespace: &str) -> Vec<Rule> {
        let mut out = Vec::new();
        if user.in_group(MASTERS) {
            out.extend(Rule::everything());
        }
        let mut seen = HashSet::new();
        for (binding, _) in self.of(user, namespace) {
            if !seen.insert((binding.namespace.is_empty(), &binding.home)) {
                continue;
            }
            let rules = self.rules(binding).into_iter().flat_map(|rules| rules.iter());
            if binding.namespace.is_empty() {
                out.extend(rules.cloned());
            } else {
                out.extend(rules.map(|rule| Rule { non_resource_urls: Vec::new(), ..rule.clone() }));
            }
        }
        out
    }
}

/// How many roles that are not there a refusal names.
const MAX_MISSING: usize = 10;
/// A service account that does not say its namespace is none: Kubernetes demands it of who writes a binding, too.
const NOBODY: &str = "";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::subject::{AUTHENTICATED, service_account};

    fn index(objects: &[Value]) -> Index {
        let mut index = Index::default();
        for object in objects {
            let resource = crate::object::kind(object).to_lowercase() + "s";
            let place = (crate::object::namespace(object), crate::object::name(object));
            index.apply(&resource, place, None, Some(object));
        }
        index
    }

    fn is_allowed(index: &Index, user: &str, group: &str, request: &Attributes) -> bool {
        let groups = [group.to_owned()];
        matches!(index.authorize(User { name: user, groups: &groups }, request), Decision::Allow(_))
    }

    fn ask(verb: &str, resource: &str, namespace: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn role_bindings_reach_one_namespace_and_cluster_bindings_all() {
        let index = index(&[
            json!({"kind": "ClusterRole", "metadata": {"name": "reader"},
                   "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                             {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]}),
            json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "n"},
                   "roleRef": {"kind": "ClusterRole", "name": "reader"},
                   "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "other"}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "c"},
                   "roleRef": {"kind": "ClusterRole", "name": "reader"},
                   "subjects": [{"kind": "Group", "name": "readers"}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "e"},
                   "roleRef": {"kind": "Role", "name": "reader"},
                   "subjects": [{"kind": "User", "name": "sly"}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "d"},
                   "roleRef": {"kind": "ClusterRole", "name": "gone"},
                   "subjects": [{"kind": "User", "name": "lost"}]}),
        ]);
        let account = service_account("other", "sa");
        let account = |request: &Attributes| is_allowed(&index, &account, AUTHENTICATED, request);
        assert!(account(&ask("get", "pods", "n")));
        assert!(!account(&ask("get", "pods", "other")));
        assert!(!account(&ask("get", "pods", "")));
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert!(!account(&path));
        let reader = |request: &Attributes| is_allowed(&index, "r", "readers", request);
        assert!(reader(&ask("get", "pods", "")));
        assert!(reader(&path));
        assert!(!reader(&ask("list", "pods", "n")));
        assert!(!is_allowed(&index, "sly", AUTHENTICATED, &ask("get", "pods", "")));
        assert!(is_allowed(&index, "server", MASTERS, &ask("any", "thing", "")));
        assert_eq!(
            index.authorize(User { name: "lost", groups: &[] }, &ask("get", "pods", "n")),
            Decision::Deny("RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".into())
        );
    }

    #[test]
    fn changes_cost_what_they_change_and_take_back_what_they_gave() {
        let mut index = Index::default();
        let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
        let binding = |users: &[&str]| {
            let subjects: Vec<Value> =
                users.iter().map(|name| json!({"kind": "User", "name": name})).collect();
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": subjects})
        };
        let may =
            |index: &Index, name: &str| is_allowed(index, name, AUTHENTICATED, &ask("get", "pods", "n"));
        let (first, second) = (binding(&["a", "b", "a"]), binding(&["b", "c"]));
        index.apply("rolebindings", ("n", "one"), None, Some(&first));
        assert!(!may(&index, "a"), "the role is not there yet");
        index.apply("roles", ("n", "r"), None, Some(&role));
        assert!(may(&index, "a") && may(&index, "b") && !may(&index, "c"));
        index.apply("rolebindings", ("n", "two"), None, Some(&second));
        index.apply("rolebindings", ("n", "one"), Some(&first), Some(&second));
        assert!(!may(&index, "a") && may(&index, "b") && may(&index, "c"));
        index.apply("rolebindings", ("n", "one"), Some(&second), None);
        assert!(may(&index, "b") && may(&index, "c"), "the other binding still gives it");
        index.apply("rolebindings", ("n", "two"), Some(&second), None);
        assert!(!may(&index, "b") && index.bindings.is_empty(), "nothing is left of them");
        index.apply("rolebindings", ("n", "two"), None, Some(&second));
        index.apply("roles", ("n", "r"), Some(&role), None);
        assert!(!may(&index, "b"));
    }

    #[test]
    fn aggregation_follows_labels_through_levels() {
        let aggregate = |name: &str, into: &str| {
            json!({"kind": "ClusterRole",
                   "metadata": {"name": name, "labels": {(format!("to-{into}")): "true"}},
                   "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {(format!("to-{name}")): "true"}}]},
                   "rules": []})
        };
        let index = index(&[
            aggregate("admin", "nothing"),
            aggregate("edit", "admin"),
            json!({"kind": "ClusterRole", "metadata": {"name": "vms", "labels": {"to-edit": "true"}},
                   "rules": [{"apiGroups": [""], "resources": ["vms"], "verbs": ["create"]}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "c"},
                   "roleRef": {"kind": "ClusterRole", "name": "admin"},
                   "subjects": [{"kind": "User", "name": "u"}]}),
        ]);
        assert!(is_allowed(&index, "u", AUTHENTICATED, &ask("create", "vms", "n")));
        assert!(!is_allowed(&index, "u", AUTHENTICATED, &ask("delete", "vms", "n")));
    }
}
