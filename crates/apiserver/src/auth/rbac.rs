//! The RBAC index: which rules reach which subject, built from the stored roles and bindings.
//!
//! It is built once for a state of the RBAC objects and kept until one of them changes. A request then looks only at
//! the bindings of its own user and groups.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::rules::Rule;
use super::user::{MASTERS, service_account_name};
use crate::request::{Attributes, Decision, UserInfo};
use crate::store::{Prefix, Store};

/// API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// One binding as seen from a subject.
#[derive(Debug, Clone)]
struct Grant {
    /// The namespace of a role binding; nothing for a cluster role binding.
    namespace: Option<String>,
    rules: Arc<Vec<Rule>>,
    /// How an allowed decision names it.
    why: Arc<str>,
    /// Set when the role does not exist: the message of Kubernetes' 403.
    missing: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// All grants by subject.
#[derive(Debug, Default)]
pub struct Index {
    grants: HashMap<Subject, Vec<Grant>>,
}

impl Index {
    /// Reads all roles and bindings of the store.
    #[must_use]
    pub fn build(store: &Store) -> Self {
        let roles = load_roles(store);
        let mut index = Self::default();
        for resource in ["clusterrolebindings", "rolebindings"] {
            for (key, entry) in store.list(&Prefix::resource(GROUP, resource)).entries {
                let namespace = (resource == "rolebindings").then(|| key.namespace().to_owned());
                index.add(&roles, &entry.object, namespace, key.name());
            }
        }
        index
    }

    fn add(
        &mut self,
        roles: &HashMap<RoleName, Arc<Vec<Rule>>>,
        binding: &Value,
        namespace: Option<String>,
        name: &str,
    ) {
        let text = |path: &str| binding.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (kind, role) = (text("/roleRef/kind"), text("/roleRef/name"));
        // A cluster role binding cannot refer to a role, and must not reach the cluster role of the same name by it.
        let home = match (kind, &namespace) {
            ("ClusterRole", _) => Some(None),
            ("Role", Some(namespace)) => Some(Some(namespace.clone())),
            _ => None,
        };
        let rules = home.and_then(|home| roles.get(&(home, role.to_owned())).cloned());
        let missing =
            rules.is_none().then(|| format!("{}.{GROUP} \"{role}\" not found", kind.to_lowercase()));
        let (scope, place) = match &namespace {
            Some(ns) => ("RoleBinding", format!("{name}/{ns}")),
            None => ("ClusterRoleBinding", name.to_owned()),
        };
        for subject in binding.get("subjects").and_then(Value::as_array).into_iter().flatten() {
            let field = |key: &str| subject.get(key).and_then(Value::as_str);
            let Some(subject_name) = field("name") else { continue };
            let (subject_key, described) = match field("kind") {
                Some("User") => (Subject::User(subject_name.into()), format!("User \"{subject_name}\"")),
                Some("Group") => (Subject::Group(subject_name.into()), format!("Group \"{subject_name}\"")),
                Some("ServiceAccount") => {
                    // A role binding's subject without a namespace is no account: Kubernetes demands it, too.
                    let Some(ns) = field("namespace") else { continue };
                    let described = format!("ServiceAccount \"{subject_name}/{ns}\"");
                    (Subject::User(service_account_name(ns, subject_name)), described)
                }
                _ => continue,
            };
            let why = format!("RBAC: allowed by {scope} \"{place}\" of {kind} \"{role}\" to {described}");
            self.grants.entry(subject_key).or_default().push(Grant {
                namespace: namespace.clone(),
                rules: rules.clone().unwrap_or_default(),
                why: why.into(),
                missing: missing.clone(),
            });
        }
    }

    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
        let own = self.grants.get(&Subject::User(user.name.clone()));
        let groups = user.groups.iter().filter_map(|group| self.grants.get(&Subject::Group(group.clone())));
        own.into_iter().chain(groups).flatten()
    }

    /// Decides one request.
    #[must_use]
    pub fn authorize(&self, user: &UserInfo, request: &Attributes) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut missing: Vec<&str> = Vec::new();
        for grant in self.of(user) {
            if grant
                .namespace
                .as_ref()
                .is_some_and(|ns| request.namespace.is_empty() || *ns != request.namespace)
            {
                continue;
            }
            // A role binding never grants paths, even when it refers to a cluster role that has some.
            if grant.namespace.is_some() && request.resource.is_empty() {
                continue;
            }
            if grant.rules.iter().any(|rule| rule.allows(request)) {
                return Decision::Allow(grant.why.to_string());
            }
            if let Some(text) = &grant.missing
                && !missing.contains(&text.as_str())
            {
                missing.push(text);
            }
        }
        match missing.as_slice() {
            [] => Decision::Deny(String::new()),
            [one] => Decision::Deny(format!("RBAC: {one}")),
            many => Decision::Deny(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    /// All rules that the user has in a namespace (or cluster-wide when it is empty).
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
        for grant in self.of(user) {
            match &grant.namespace {
                None => out.extend(grant.rules.iter().cloned()),
                Some(ns) if ns == namespace => out.extend(
                    grant.rules.iter().map(|rule| Rule { non_resource_urls: Vec::new(), ..rule.clone() }),
                ),
                Some(_) => {}
            }
        }
        out
    }
}

/// Namespace (nothing for a cluster role) and name.
type RoleName = (Option<String>, String);

fn load_roles(store: &Store) -> HashMap<RoleName, Arc<Vec<Rule>>> {
    let mut roles = HashMap::new();
    for (key, entry) in store.list(&Prefix::resource(GROUP, "roles")).entries {
        let rules = Arc::new(Rule::list(&entry.object));
        roles.insert((Some(key.namespace().to_owned()), key.name().to_owned()), rules);
    }
    let cluster = store.list(&Prefix::resource(GROUP, "clusterroles")).entries;
    let objects: Vec<&Value> = cluster.iter().map(|(_, entry)| entry.object.as_ref()).collect();
    for (key, entry) in &cluster {
        let rules = match entry.object.get("aggregationRule") {
            Some(_) => aggregate(&entry.object, &objects),
            None => Rule::list(&entry.object),
        };
        roles.insert((None, key.name().to_owned()), Arc::new(rules));
    }
    roles
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
        for other in all.iter().filter(|other| selects(selector, other)) {
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
    role.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// Whether a label selector (`matchLabels` and `matchExpressions`) takes an object.
#[must_use]
pub fn selects(selector: &Value, object: &Value) -> bool {
    let label = |key: &str| {
        object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str)
    };
    let exact = selector.get("matchLabels").and_then(Value::as_object);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    exact.into_iter().flatten().all(|(key, value)| label(key) == value.as_str())
        && expressions.into_iter().flatten().all(|term| {
            let have = term.get("key").and_then(Value::as_str).and_then(label);
            let values = term.get("values").and_then(Value::as_array);
            let listed = || {
                have.is_some_and(|have| {
                    values.into_iter().flatten().any(|value| value.as_str() == Some(have))
                })
            };
            match term.get("operator").and_then(Value::as_str) {
                Some("In") => listed(),
                Some("NotIn") => !listed(),
                Some("Exists") => have.is_some(),
                Some("DoesNotExist") => have.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        let index = Index::build(&store);
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
        let index = Index::build(&store);
        assert!(allowed(&index, &UserInfo::authenticated("u", []), &ask("create", "vms", "n")));
        assert!(!allowed(&index, &UserInfo::authenticated("u", []), &ask("delete", "vms", "n")));
    }
}
