//! Roles and bindings, from the verbs of the table.

use super::{api, scc_webhook};
use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use ferrovirt_privilege::{GrantSet, Right, Subject};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Who is behind a subject of the table.
enum Identity {
    /// A service account, which has a role of the same name.
    Account { namespace: &'static str, name: &'static str },
    /// A group.
    Group { role: &'static str, group: &'static str },
    /// Anyone who has one of Kubernetes' user roles, into which this one is aggregated.
    Aggregated { role: &'static str, into: &'static str },
}

fn identity(subject: Subject) -> Option<Identity> {
    match subject {
        Subject::Qemu
        | Subject::Launcher
        | Subject::Plug
        | Subject::Net
        | Subject::Supervisor
        | Subject::ApiServer => None,
        // The account of the one under `ferrovirt up`, of the other on a cluster.
        Subject::NodeAgent | Subject::Api => {
            Some(Identity::Account { namespace: NAMESPACE, name: "kubevirt-handler" })
        }
        Subject::Node => Some(Identity::Group { role: "system:node", group: subject::NODES }),
        Subject::Controller => Some(Identity::Account { namespace: NAMESPACE, name: "kubevirt-controller" }),
        Subject::SccWebhook => {
            Some(Identity::Account { namespace: scc_webhook::NAME, name: scc_webhook::NAME })
        }
        Subject::MachineApi => Some(Identity::Account { namespace: NAMESPACE, name: api::NAME }),
        Subject::Anybody => {
            Some(Identity::Group { role: "kubevirt.io:default", group: subject::AUTHENTICATED })
        }
        Subject::Viewer => Some(Identity::Aggregated { role: "kubevirt.io:view", into: "view" }),
        Subject::Editor => Some(Identity::Aggregated { role: "kubevirt.io:edit", into: "edit" }),
        Subject::Administrator => Some(Identity::Aggregated { role: "kubevirt.io:admin", into: "admin" }),
    }
}

/// The roles and bindings of one subject; none for processes that have no access to the API.
pub fn roles(grants: &GrantSet, subject: Subject) -> Vec<Value> {
    let Some(identity) = identity(subject) else { return Vec::new() };
    let mut cluster = Rules::default();
    let mut local: BTreeMap<String, Rules> = BTreeMap::new();
    for right in grants.of(subject) {
        let Right::Verb { group, resource, verb, namespace, name } = right else { continue };
        let rules = match namespace {
            Some(namespace) => local.entry(namespace).or_default(),
            None => &mut cluster,
        };
        rules.add(group, resource, name, verb);
    }
    let (role, subjects, aggregate) = match identity {
        Identity::Account { namespace, name } => {
            (name, json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]), None)
        }
        Identity::Group { role, group } => {
            (role, json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}]), None)
        }
        Identity::Aggregated { role, into } => (role, Value::Null, Some(into)),
    };
    let mut labels = json!({"kubevirt.io": ""});
    if let (Some(into), Some(map)) = (aggregate, labels.as_object_mut()) {
        map.insert(format!("rbac.authorization.k8s.io/aggregate-to-{into}"), json!("true"));
    }
    let mut out = vec![json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": role, "labels": labels},
        "rules": cluster.render(),
    })];
    if aggregate.is_some() {
        return out;
    }
    out.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role, "labels": {"kubevirt.io": ""}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    }));
    for (namespace, rules) in local {
        let metadata = json!({"name": role, "namespace": namespace, "labels": {"kubevirt.io": ""}});
        out.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": rules.render(),
        }));
        out.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": subjects,
        }));
    }
    out
}

/// Resources of one group and object name that have the same verbs are one rule.
#[derive(Default)]
struct Rules(BTreeMap<(String, Option<String>, String), BTreeSet<&'static str>>);

/// Verbs in the order in which people write them.
const VERBS: [&str; 9] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "use"];

impl Rules {
    fn add(&mut self, group: String, resource: String, name: Option<String>, verb: String) {
        let verbs = self.0.entry((group, name, resource)).or_default();
        verbs.extend(VERBS.iter().find(|known| **known == verb));
    }

    fn render(&self) -> Vec<Value> {
        let mut merged: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for ((group, name, resource), verbs) in &self.0 {
            merged.entry((group, name, verbs)).or_default().push(resource);
        }
        let mut out = Vec::new();
        for ((group, name, verbs), resources) in merged {
            let verbs: Vec<_> = VERBS.iter().filter(|verb| verbs.contains(*verb)).collect();
            let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
            if let (Some(name), Some(map)) = (name, rule.as_object_mut()) {
                map.insert("resourceNames".to_owned(), json!([name]));
            }
            out.push(rule);
        }
        out
    }
}
