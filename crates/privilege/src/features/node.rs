//! The node agent as a kubelet, in the embedded default: the role `system:node`. On a cluster with kubelets nothing
//! of this is installed.

use crate::{
    grant::{Grant, Phase, Subject, verbs},
    right::Right,
};

const RBAC: &str = "authorizer: RBAC refuses a verb that no role of the account has";

const fn lease(verb: &'static str) -> Right<&'static str> {
    Right::Verb {
        group: "coordination.k8s.io",
        resource: "leases",
        verb,
        namespace: Some("kube-node-lease"),
        name: None,
    }
}

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Node,
        Phase::Running,
        verbs![
            "" "pods": "get" "list" "watch" "delete",
            "" "pods/status": "patch",
        ],
        RBAC,
        "runs the pods of its node, after another look at each of them, reports their state and confirms their end",
        "node-pods",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        verbs!["" "namespaces": "get"],
        RBAC,
        "which user, groups and level an SCC may have given to a pod is on its namespace; others are refused",
        "node-namespaces",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        verbs![
            "" "nodes": "create" "patch",
            "" "nodes/status": "patch",
        ],
        RBAC,
        "registers its node, labels it and reports capacity and readiness",
        "node-nodes",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        &[lease("create"), lease("patch")],
        RBAC,
        "a node whose lease is not renewed is taken for lost",
        "node-lease",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        verbs![
            "" "secrets": "get",
            "" "persistentvolumeclaims": "get",
            "" "persistentvolumes": "get",
        ],
        RBAC,
        "resolves the volumes of the pods of its node",
        "node-volumes",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        verbs!["" "events": "create"],
        RBAC,
        "users learn from events what happened to a pod",
        "node-events",
    ),
];
