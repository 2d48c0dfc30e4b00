//! What a cluster has before anybody applies anything: namespaces, and Kubernetes' default cluster roles.
//!
//! Each object is made when it is missing. One that exists is left alone, so that an administrator's edit stays.

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::rbac::GROUP;
use ferrovirt_kubernetes::subject::{AUTHENTICATED, MASTERS, UNAUTHENTICATED};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::builtin::{namespaces, object};
use crate::store::{Store, StoreError};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
/// What namespaced users see.
const VIEWED: &[&str] = &[
    "configmaps",
    "events",
    "persistentvolumeclaims",
    "persistentvolumeclaims/status",
    "pods",
    "pods/log",
    "pods/status",
    "serviceaccounts",
    "services",
    "namespaces",
];
/// What namespaced users change.
const EDITED: &[&str] =
    &["configmaps", "events", "persistentvolumeclaims", "pods", "secrets", "serviceaccounts", "services"];

/// Makes what is missing.
///
/// # Errors
/// The store's.
pub async fn install(store: &Store) -> Result<(), StoreError> {
    // All at once: they share commits.
    try_join_all(NAMESPACES.iter().map(|name| namespaces::ensure(store, name))).await?;
    let cluster = |kind: &str| {
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": {"labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}})
    };
    let mut objects = Vec::new();
    for (name, labels, rules) in roles() {
        let mut role = cluster("ClusterRole");
        json::set(&mut role, &["rules"], rules.into());
        for label in labels {
            json::set(&mut role, &["metadata", "labels", label], "true".into());
        }
        if let Some(level) = aggregated(name) {
            let selector = json!({"matchLabels": {(format!("{GROUP}/aggregate-to-{level}")): "true"}});
            json::set(&mut role, &["aggregationRule"], json!({"clusterRoleSelectors": [selector]}));
        }
        objects.push(("clusterroles", name, role));
    }
    for (role, groups) in BINDINGS {
        let mut binding = cluster("ClusterRoleBinding");
        let subjects: Vec<Value> =
            groups.iter().map(|group| json!({"apiGroup": GROUP, "kind": "Group", "name": group})).collect();
        json::set(
            &mut binding,
            &["roleRef"],
            json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role}),
        );
        json::set(&mut binding, &["subjects"], subjects.into());
        objects.push(("clusterrolebindings", role, binding));
    }
    let made = objects
        .into_iter()
        .map(|(resource, name, new)| object::create(store, (GROUP, resource), "", name, new));
    try_join_all(made).await.map(|_| ())
}

/// Default bindings; each has its role's name.
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &[MASTERS]),
    ("system:basic-user", &[AUTHENTICATED]),
    ("system:discovery", &[AUTHENTICATED]),
    ("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
];

/// The level whose labelled roles a role collects. Its own rules are in a `system:aggregate-to-*` role.
fn aggregated(role: &str) -> Option<&str> {
    ["admin", "edit", "view"].contains(&role).then_some(role)
}

type Role = (&'static str, &'static [&'static str], Vec<Value>);

fn roles() -> Vec<Role> {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let paths = |urls: &[&str]| json!({"nonResourceURLs": urls, "verbs": ["get"]});
    vec![
        (
            "cluster-admin",
            &[],
            vec![rule(&["*"], &["*"], &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})],
        ),
        ("admin", &[], vec![]),
        ("edit", &["rbac.authorization.k8s.io/aggregate-to-admin"], vec![]),
        ("view", &["rbac.authorization.k8s.io/aggregate-to-edit"], vec![]),
        (
            "system:aggregate-to-admin",
            &["rbac.authorization.k8s.io/aggregate-to-admin"],
            vec![
                rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
                rule(&[GROUP], &["rolebindings", "roles"], &[READ, WRITE].concat()),
            ],
        ),
        (
            "system:aggregate-to-edit",
            &["rbac.authorization.k8s.io/aggregate-to-edit"],
            vec![
                rule(&[""], &["secrets"], READ),
                rule(&[""], &["serviceaccounts"], &["impersonate"]),
                rule(&[""], &["serviceaccounts/token", "pods/eviction"], &["create"]),
                rule(&[""], EDITED, WRITE),
            ],
        ),
        (
            "system:aggregate-to-view",
            &["rbac.authorization.k8s.io/aggregate-to-view"],
            vec![rule(&[""], VIEWED, READ), rule(&["events.k8s.io"], &["events"], READ)],
        ),
        (
            "system:basic-user",
            &[],
            vec![
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
            ],
        ),
        (
            "system:discovery",
            &[],
            vec![paths(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ])],
        ),
        (
            "system:public-info-viewer",
            &[],
            vec![paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])],
        ),
        (
            "system:auth-delegator",
            &[],
            vec![
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Authorizer;
    use crate::request::{Attributes, UserInfo};
    use crate::store::{Change, Key};

    fn ask(verb: &str, group: &str, resource: &str, namespace: &str) -> Attributes {
        let own = str::to_owned;
        Attributes {
            verb: own(verb),
            group: own(group),
            resource: own(resource),
            namespace: own(namespace),
            ..Attributes::default()
        }
    }

    #[tokio::test]
    async fn the_default_roles_grant_what_their_names_say() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        install(&store).await.unwrap();
        for (name, role) in [("v", "view"), ("e", "edit"), ("a", "admin")] {
            let binding = json!({"metadata": {}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": name}]});
            store.create(Key::new(GROUP, "rolebindings", "n", name), binding).await.unwrap();
        }
        let authorizer = Authorizer::new(store.clone());
        let may =
            |name: &str, request: &Attributes| authorizer.may(&UserInfo::authenticated(name, []), request);
        let cases = [
            ("get", "", "pods", "vea"),
            ("create", "", "pods", "ea"),
            ("get", "", "secrets", "ea"),
            ("create", GROUP, "rolebindings", "a"),
            ("get", "", "nodes", ""),
        ];
        for (verb, group, resource, who) in cases {
            for name in ["v", "e", "a"] {
                let request = ask(verb, group, resource, "n");
                assert_eq!(may(name, &request), who.contains(name), "{name} {verb} {resource}");
                assert!(!may(name, &ask(verb, group, resource, "other")));
            }
        }
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert!(authorizer.may(&UserInfo::anonymous(), &path("/healthz")));
        assert!(!authorizer.may(&UserInfo::anonymous(), &path("/apis")));
        assert!(may("v", &path("/apis/x")));
    }

    #[tokio::test]
    async fn an_administrators_edit_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        install(&store).await.unwrap();
        let key = Key::new(GROUP, "clusterroles", "", "system:discovery");
        let edit = |object: &Value| -> Result<Change, StoreError> {
            let mut object = object.clone();
            object["rules"] = json!([]);
            Ok(Change::Write(object))
        };
        store.guaranteed_update(&key, edit).await.unwrap();
        let before = store.revision();
        install(&store).await.unwrap();
        assert_eq!(store.revision(), before, "nothing is written the second time");
    }
}
