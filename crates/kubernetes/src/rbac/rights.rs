//! On which objects who may perform one action: reduced to that, so that a decision takes some look-ups.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{Rule, Subject, User, subjects};
use crate::{json, object};

/// Namespace, empty for what is of the cluster, and name.
pub type RoleName = (String, String);

/// Where the role is to which a binding in a namespace refers; nothing when it cannot be one. A cluster role binding cannot
/// refer to a role, and must not reach the cluster role of the same name by it.
#[must_use]
pub fn role_name(kind: &str, name: &str, namespace: &str) -> Option<RoleName> {
    match kind {
        "ClusterRole" => Some((String::new(), name.to_owned())),
        "Role" if !namespace.is_empty() => Some((namespace.to_owned(), name.to_owned())),
        _ => None,
    }
}

/// A verb on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action<'a> {
    /// The verb.
    pub verb: &'a str,
    /// API group of the resource.
    pub group: &'a str,
    /// Its plural name.
    pub resource: &'a str,
}

/// On which objects a role grants the action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    all: bool,
    names: BTreeSet<String>,
}

impl Objects {
    /// What rules say; nothing when they do not grant the action at all.
    pub fn of(rules: impl IntoIterator<Item = Rule>, action: &Action<'_>) -> Option<Self> {
        let mut objects = Self::default();
        for rule in rules {
            match rule.objects(action) {
                None => {}
                Some([]) => objects.all = true,
                Some(names) => objects.names.extend(names.iter().cloned()),
            }
        }
        (objects.all || !objects.names.is_empty()).then_some(objects)
    }

    /// Whether it is granted on every object.
    #[must_use]
    pub fn all(&self) -> bool {
        self.all
    }

    /// The names on which it is granted, beside [`Objects::all`].
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether it is granted on the object of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }

    fn add(&mut self, other: &Self) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }
}

/// What a binding gives to whom.
#[derive(Clone, Debug)]
pub struct Binding {
    role: RoleName,
    subjects: Vec<Subject>,
}

impl Binding {
    /// Of a role to subjects; nothing when nobody gets anything by it.
    pub fn of(role: Option<RoleName>, subjects: impl Iterator<Item = Subject>) -> Option<Self> {
        let binding = Self { role: role?, subjects: subjects.collect() };
        (!binding.subjects.is_empty()).then_some(binding)
    }
}

/// All rights to the action: namespace (empty: everywhere) and subject to objects.
#[derive(Debug, Default)]
pub struct Rights(HashMap<String, HashMap<Subject, Objects>>);

impl Rights {
    /// From what roles grant, by where they are, and bindings, each with its namespace (empty for those of the cluster).
    pub fn new<'a>(
        roles: &HashMap<RoleName, Objects>,
        cluster_roles: &HashMap<RoleName, Objects>,
        bindings: impl Iterator<Item = (&'a str, &'a Binding)>,
    ) -> Self {
        let mut rights: HashMap<String, HashMap<Subject, Objects>> = HashMap::new();
        for (namespace, binding) in bindings {
            let table = if binding.role.0.is_empty() { cluster_roles } else { roles };
            let Some(role) = table.get(&binding.role) else { continue };
            let here = rights.entry(namespace.to_owned()).or_default();
            for subject in &binding.subjects {
                here.entry(subject.clone()).or_default().add(role);
            }
        }
        Self(rights)
    }

    /// From roles and bindings in their JSON form, each with its kind; other kinds are passed over, and so are a Role and a
    /// RoleBinding that do not say in which namespace they are: nothing of the cluster is meant by them. Of several roles of
    /// one name the first counts.
    pub fn read<'a>(objects: impl Iterator<Item = (&'a str, &'a Value)>, action: &Action<'_>) -> Self {
        let (mut roles, mut bindings) = (HashMap::new(), Vec::new());
        for (kind, object) in objects {
            let of_cluster = kind.starts_with("Cluster");
            let namespace = if of_cluster { "" } else { object::namespace(object) };
            if !of_cluster && namespace.is_empty() {
                continue;
            }
            match kind {
                "ClusterRole" | "Role" => {
                    let name = (namespace.to_owned(), object::name(object).to_owned());
                    let granted = Objects::of(Rule::list(object), action).unwrap_or_default();
                    roles.entry(name).or_insert(granted);
                }
                "ClusterRoleBinding" | "RoleBinding" => {
                    let text = |place: &str| json::text(object, place);
                    let role = role_name(text("/roleRef/kind"), text("/roleRef/name"), namespace);
                    let binding = Binding::of(role, subjects(object, namespace));
                    bindings.extend(binding.map(|binding| (namespace, binding)));
                }
                _ => {}
            }
        }
        Self::new(&roles, &roles, bindings.iter().map(|(namespace, binding)| (*namespace, binding)))
    }

    /// What the user's own bindings and those of their groups give, everywhere and in the namespace.
    pub fn of<'a>(&'a self, user: User<'_>, namespace: &str) -> impl Iterator<Item = &'a Objects> + use<'a> {
        let own = Subject::User(user.name.to_owned());
        let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
        let subjects: Vec<Subject> = std::iter::once(own).chain(groups).collect();
        let places = [self.0.get(""), self.0.get(namespace)];
        places.into_iter().flatten().flat_map(move |place| {
            subjects.iter().filter_map(|subject| place.get(subject)).collect::<Vec<_>>()
        })
    }

    /// Everybody who may act on the object of this name in the namespace, and whether they may everywhere.
    pub fn holders<'a>(
        &'a self,
        name: &'a str,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Subject, bool)> {
        ["", namespace].into_iter().flat_map(move |place| {
            let here = self.0.get(place).into_iter().flatten().filter(|(_, objects)| objects.has(name));
            here.map(move |(subject, _)| (subject, place.is_empty()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USE: Action<'_> =
        Action { verb: "use", group: "security.openshift.io", resource: "securitycontextconstraints" };

    fn granted(rule: Value) -> Option<Objects> {
        Objects::of(Rule::list(&json!({"rules": [rule]})), &USE)
    }

    #[test]
    fn rules_are_reduced_to_the_objects_of_one_action() {
        let (group, resource) = (USE.group, USE.resource);
        assert_eq!(granted(json!({"apiGroups": [group], "resources": [resource], "verbs": ["get"]})), None);
        assert_eq!(granted(json!({"apiGroups": [""], "resources": [resource], "verbs": ["use"]})), None);
        let everything = granted(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})).unwrap();
        assert!(everything.all() && everything.has("x") && everything.names().next().is_none());
        let some = json!({"apiGroups": [group], "resources": [resource], "resourceNames": ["b", "a"], "verbs": ["use"]});
        let some = granted(some).unwrap();
        assert!(!some.all() && some.has("a") && !some.has("x"));
        assert_eq!(some.names().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn rights_are_those_of_rbac() {
        let role = |kind: &str, namespace: &str, name: &str, scc: &[&str]| {
            json!({"kind": kind, "metadata": {"name": name, "namespace": namespace}, "rules": [
                {"apiGroups": [USE.group], "resources": [USE.resource], "resourceNames": scc, "verbs": ["use"]}]})
        };
        let binding = |kind: &str, namespace: &str, role: (&str, &str), subject: Value| {
            json!({"kind": kind, "metadata": {"name": "x", "namespace": namespace},
                   "roleRef": {"kind": role.0, "name": role.1}, "subjects": [subject]})
        };
        let objects = [
            role("ClusterRole", "", "one", &["one"]),
            role("ClusterRole", "", "admin", &[]),
            role("Role", "a", "two", &["two"]),
            binding(
                "ClusterRoleBinding",
                "",
                ("ClusterRole", "one"),
                json!({"kind": "Group", "name": "staff"}),
            ),
            binding(
                "ClusterRoleBinding",
                "",
                ("ClusterRole", "admin"),
                json!({"kind": "User", "name": "root"}),
            ),
            binding(
                "ClusterRoleBinding",
                "",
                ("ClusterRole", "gone"),
                json!({"kind": "User", "name": "eve"}),
            ),
            binding("ClusterRoleBinding", "", ("Role", "two"), json!({"kind": "User", "name": "eve"})),
            binding(
                "RoleBinding",
                "a",
                ("Role", "two"),
                json!({"kind": "ServiceAccount", "name": "s", "namespace": "b"}),
            ),
        ];
        let rights = Rights::read(objects.iter().map(|object| (object::kind(object), object)), &USE);
        let may = |name: &str, groups: &[&str], scc: &str, namespace: &str| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            rights.of(User { name, groups: &groups }, namespace).any(|objects| objects.has(scc))
        };
        assert!(may("eve", &["staff"], "one", "a"));
        assert!(!may("eve", &["staff"], "two", "a"));
        assert!(!may("eve", &[], "one", "a"));
        assert!(may("root", &[], "anything", "b"));
        assert!(may("system:serviceaccount:b:s", &[], "two", "a"));
        assert!(!may("system:serviceaccount:b:s", &[], "two", "b"), "a binding holds in its namespace");
        let holders: BTreeSet<_> =
            rights.holders("two", "a").map(|(who, all)| (who.to_string(), all)).collect();
        let expected = [("ServiceAccount \"s/b\"".to_owned(), false), ("User \"root\"".to_owned(), true)];
        assert_eq!(holders, BTreeSet::from(expected));
    }

    #[test]
    fn what_names_no_namespace_gives_nothing_to_the_whole_cluster() {
        let rules = json!([{"verbs": ["use"], "apiGroups": ["*"], "resources": ["*"]}]);
        let nothing = json!({"metadata": {"name": "r"}, "rules": []});
        let role = json!({"metadata": {"name": "r"}, "rules": rules});
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}]});
        let mut placed = binding.clone();
        placed["metadata"]["namespace"] = json!("n");
        let holders = |objects: &[(&'static str, &Value)], namespace: &str| {
            Rights::read(objects.iter().copied(), &USE).holders("privileged", namespace).count()
        };
        let cluster = ("ClusterRole", &role);
        assert_eq!(holders(&[cluster, ("ClusterRoleBinding", &binding)], "n"), 1);
        assert_eq!(holders(&[cluster, ("RoleBinding", &placed)], "n"), 1);
        assert_eq!(holders(&[cluster, ("RoleBinding", &binding)], "n"), 0);
        let shadowed = [("Role", &role), ("ClusterRole", &nothing), ("ClusterRoleBinding", &binding)];
        assert_eq!(holders(&shadowed, "n"), 0, "a Role is no ClusterRole");
    }
}
