//! The RBAC index: which rules reach which subject.
//!
//! It changes with each stored role and binding, by as much as changed there: a binding of many subjects costs its author
//! and nobody else. A request looks only at the bindings of its own user and groups, in its own namespace.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::selector::Labels;
use serde_json::Value;

use super::rules::Rule;
use crate::request::{Attributes, Decision, UserInfo};
use crate::store::Key;
use ferrovirt_kubernetes::subject::{MASTERS, service_account, split_service_account};

/// API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Namespace (nothing for a cluster role) and name.
type RoleName = (Option<String>, String);

/// One binding. Its subjects are where it is found.
#[derive(Debug)]
struct Binding {
    /// The namespace of a role binding; nothing for a cluster role binding.
    namespace: Option<String>,
    name: String,
    /// Kind and name of its role, as they are written.
    role: (String, String),
    /// Where that role is; nothing when it cannot be one.
    home: Option<RoleName>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
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
    /// Takes a change of a stored object.
    pub(crate) fn apply(&mut self, key: &Key, old: Option<&Value>, new: Option<&Value>) {
        let mut parts = key.as_str().split('/').skip(1);
        if parts.next() != Some(GROUP) {
            return;
        }
        match parts.next().unwrap_or_default() {
            "roles" => {
                let name = (Some(key.namespace().to_owned()), key.name().to_owned());
                match new {
                    Some(role) => self.roles.insert(name, Arc::new(Rule::list(role))),
                    None => self.roles.remove(&name),
                };
            }
            "clusterroles" => self.cluster_role(key.name(), new),
            "rolebindings" | "clusterrolebindings" => {
                let namespace = Some(key.namespace()).filter(|namespace| !namespace.is_empty());
                if let Some(old) = old {
                    self.unbind(old, namespace, key.name());
                }
                if let Some(new) = new {
                    self.bind(new, namespace, key.name());
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
                self.roles.insert((None, name.to_owned()), Arc::new(Rule::list(role)));
            }
            None => {
                self.cluster.remove(name);
                self.roles.remove(&(None, name.to_owned()));
            }
        }
        let all: Vec<&Value> = self.cluster.values().collect();
        for (name, role) in self.cluster.iter().filter(|(_, role)| role.get("aggregationRule").is_some()) {
            self.roles.insert((None, name.clone()), Arc::new(aggregate(role, &all)));
        }
    }

    fn bind(&mut self, object: &Value, namespace: Option<&str>, name: &str) {
        let text = |path: &str| json::text(object, path).to_owned();
        let (kind, role) = (text("/roleRef/kind"), text("/roleRef/name"));
        // A cluster role binding cannot refer to a role, and must not reach the cluster role of the same name by it.
        let home = match (kind.as_str(), namespace) {
            ("ClusterRole", _) => Some((None, role.clone())),
            ("Role", Some(namespace)) => Some((Some(namespace.to_owned()), role.clone())),
            _ => None,
        };
        let namespace = namespace.map(str::to_owned);
        let binding = Arc::new(Binding { namespace, name: name.to_owned(), role: (kind, role), home });
        let place = binding.namespace.clone().unwrap_or_default();
        for subject in subjects(object) {
            let here = self.bindings.entry(subject).or_default().entry(place.clone()).or_default();
            // A subject that is named twice is bound once.
            if !here.last().is_some_and(|last| Arc::ptr_eq(last, &binding)) {
                here.push(Arc::clone(&binding));
            }
        }
    }

    fn unbind(&mut self, object: &Value, namespace: Option<&str>, name: &str) {
        let place = namespace.unwrap_or_default();
        for subject in subjects(object) {
            let Some(places) = self.bindings.get_mut(&subject) else { continue };
            if let Some(here) = places.get_mut(place) {
                here.retain(|binding| binding.name != name);
                if here.is_empty() {
                    places.remove(place);
                }
            }
            if places.is_empty() {
                self.bindings.remove(&subject);
            }
        }
    }

    /// The bindings of a user that count in `namespace`, each with its subject: the user's own before those of groups, those
    /// of the cluster before those of the namespace.
    fn of<'a>(&'a self, user: &UserInfo, namespace: &str) -> Vec<(&'a Binding, &'a Subject)> {
        let mut found = Vec::new();
        let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
        for subject in std::iter::once(Subject::User(user.name.clone())).chain(groups) {
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
    pub fn authorize(&self, user: &UserInfo, request: &Attributes) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut missing: Vec<String> = Vec::new();
        for (binding, subject) in self.of(user, &request.namespace) {
            // A role binding never grants paths, even when it refers to a cluster role that has some.
            if binding.namespace.is_some() && request.resource.is_empty() {
                continue;
            }
            let (kind, role) = &binding.role;
            match self.rules(binding) {
                Some(rules) if rules.iter().any(|rule| rule.allows(request)) => {
                    let (scope, place) = match &binding.namespace {
                        Some(namespace) => ("RoleBinding", format!("{}/{namespace}", binding.name)),
                        None => ("ClusterRoleBinding", binding.name.clone()),
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
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let everything = || {
            let all = || vec!["*".to_owned()];
            [
                Rule { api_groups: all(), resources: all(), verbs: all(), ..Rule::default() },
                Rule { non_resource_urls: all(), verbs: all(), ..Rule::default() },
            ]
        };
        let mut out = Vec::new();
        if user.in_group(MASTERS) {
            out.extend(everything());
        }
        let mut seen = HashSet::new();
        for (binding, _) in self.of(user, namespace) {
            if !seen.insert((binding.namespace.is_some(), &binding.home)) {
                continue;
            }
            let rules = self.rules(binding).into_iter().flat_map(|rules| rules.iter());
            if binding.namespace.is_none() {
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

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Group(name) => write!(f, "Group \"{name}\""),
            Self::User(name) => match split_service_account(name) {
                Some((namespace, account)) => write!(f, "ServiceAccount \"{account}/{namespace}\""),
                None => write!(f, "User \"{name}\""),
            },
        }
    }
}

/// The subjects of a binding.
fn subjects(binding: &Value) -> impl Iterator<Item = Subject> {
    let all = binding.get("subjects").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(|subject| {
        let field = |key: &str| subject.get(key).and_then(Value::as_str);
        let name = field("name")?;
        match field("kind")? {
            "User" => Some(Subject::User(name.to_owned())),
            "Group" => Some(Subject::Group(name.to_owned())),
            // A role binding's subject without a namespace is no account: Kubernetes demands it, too.
            "ServiceAccount" => Some(Subject::User(service_account(field("namespace")?, name))),
            _ => None,
        }
    })
}

/// The rules of a cluster role with an `aggregationRule`: the union of all cluster roles that a selector matches, in
/// order of name. An aggregated role may itself be aggregated (view into edit into admin).
#[must_use]
pub fn aggregate(role: &Value, all: &[&Value]) -> Vec<Rule> {
    let mut out = Vec::new();
    let mut seen = vec![name_of(role)];
    collect(role, all, &mut seen, &mut out);
    out
}

fn collect<'a>(role: &Value, all: &[&'a Value], seen: &mut Vec<&'a str>, out: &mut Vec<Rule>) {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    for selector in selectors.into_iter().flatten() {
        let selector = Labels::from_object(selector);
        for other in all.iter().filter(|other| selector.matches(other)) {
            let name = name_of(other);
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            if other.get("aggregationRule").is_some() {
                collect(other, all, seen, out);
            } else {
                for rule in Rule::list(other) {
                    if !out.contains(&rule) {
                        out.push(rule);
                    }
                }
            }
        }
    }
}

fn name_of(role: &Value) -> &str {
    json::text(role, "/metadata/name")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Prefix, Store};

    async fn store(objects: &[Value]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        for object in objects {
            let kind = object["kind"].as_str().unwrap().to_lowercase() + "s";
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
            let name = object["metadata"]["name"].as_str().unwrap();
            let key = crate::store::Key::new(GROUP, &kind, namespace, name);
            store.create(key, object.clone()).await.unwrap();
        }
        (dir, store)
    }

    fn build(store: &Store) -> Index {
        let mut index = Index::default();
        for (key, entry) in store.list(&Prefix::everything()).entries {
            index.apply(&key, None, Some(&entry.object));
        }
        index
    }

    fn ask(verb: &str, resource: &str, namespace: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        }
    }

    fn allowed(index: &Index, user: &UserInfo, request: &Attributes) -> bool {
        matches!(index.authorize(user, request), Decision::Allow(_))
    }

    #[tokio::test]
    async fn role_bindings_reach_one_namespace_and_cluster_bindings_all() {
        let (_dir, store) = store(&[
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
        ])
        .await;
        let index = build(&store);
        let account = UserInfo::service_account("other", "sa", "u");
        assert!(allowed(&index, &account, &ask("get", "pods", "n")));
        assert!(!allowed(&index, &account, &ask("get", "pods", "other")));
        assert!(!allowed(&index, &account, &ask("get", "pods", "")));
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert!(!allowed(&index, &account, &path));
        let reader = UserInfo::authenticated("r", ["readers".to_owned()]);
        assert!(allowed(&index, &reader, &ask("get", "pods", "")));
        assert!(allowed(&index, &reader, &path));
        assert!(!allowed(&index, &reader, &ask("list", "pods", "n")));
        assert!(!allowed(&index, &UserInfo::authenticated("sly", []), &ask("get", "pods", "")));
        assert!(allowed(&index, &UserInfo::server(), &ask("any", "thing", "")));
        assert_eq!(
            index.authorize(&UserInfo::authenticated("lost", []), &ask("get", "pods", "n")),
            Decision::Deny("RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".into())
        );
    }

    #[test]
    fn changes_cost_what_they_change_and_take_back_what_they_gave() {
        let mut index = Index::default();
        let key = |resource: &str, namespace: &str, name: &str| Key::new(GROUP, resource, namespace, name);
        let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
        let binding = |users: &[&str]| {
            let subjects: Vec<Value> =
                users.iter().map(|name| json!({"kind": "User", "name": name})).collect();
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": subjects})
        };
        let may = |index: &Index, name: &str| {
            allowed(index, &UserInfo::authenticated(name, []), &ask("get", "pods", "n"))
        };
        let (first, second) = (binding(&["a", "b", "a"]), binding(&["b", "c"]));
        index.apply(&key("rolebindings", "n", "one"), None, Some(&first));
        assert!(!may(&index, "a"), "the role is not there yet");
        index.apply(&key("roles", "n", "r"), None, Some(&role));
        assert!(may(&index, "a") && may(&index, "b") && !may(&index, "c"));
        index.apply(&key("rolebindings", "n", "two"), None, Some(&second));
        index.apply(&key("rolebindings", "n", "one"), Some(&first), Some(&second));
        assert!(!may(&index, "a") && may(&index, "b") && may(&index, "c"));
        index.apply(&key("rolebindings", "n", "one"), Some(&second), None);
        assert!(may(&index, "b") && may(&index, "c"), "the other binding still gives it");
        index.apply(&key("rolebindings", "n", "two"), Some(&second), None);
        assert!(!may(&index, "b") && index.bindings.is_empty(), "nothing is left of them");
        index.apply(&key("rolebindings", "n", "two"), None, Some(&second));
        index.apply(&key("roles", "n", "r"), Some(&role), None);
        assert!(!may(&index, "b"));
    }

    #[tokio::test]
    async fn aggregation_follows_labels_through_levels() {
        let aggregate = |name: &str, into: &str| {
            json!({"kind": "ClusterRole",
                   "metadata": {"name": name, "labels": {(format!("to-{into}")): "true"}},
                   "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {(format!("to-{name}")): "true"}}]},
                   "rules": []})
        };
        let (_dir, store) = store(&[
            aggregate("admin", "nothing"),
            aggregate("edit", "admin"),
            json!({"kind": "ClusterRole", "metadata": {"name": "vms", "labels": {"to-edit": "true"}},
                   "rules": [{"apiGroups": [""], "resources": ["vms"], "verbs": ["create"]}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "c"},
                   "roleRef": {"kind": "ClusterRole", "name": "admin"},
                   "subjects": [{"kind": "User", "name": "u"}]}),
        ])
        .await;
        let index = build(&store);
        assert!(allowed(&index, &UserInfo::authenticated("u", []), &ask("create", "vms", "n")));
        assert!(!allowed(&index, &UserInfo::authenticated("u", []), &ask("delete", "vms", "n")));
    }
}
