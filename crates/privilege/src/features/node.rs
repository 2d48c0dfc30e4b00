//! The node agent as a kubelet, in the embedded default: the role `system:node`. On a cluster with kubelets nothing
//! of this is installed.

use crate::grant::{Grant, Phase, Subject, verbs};

const RBAC: &str = "authorizer: RBAC refuses a verb that no role of the account has";

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Node,
        Phase::Running,
        verbs![
            "" "pods": "get" "list" "watch" "delete",
            "" "pods/status": "update" "patch",
        ],
        RBAC,
        "runs the pods of its node, reports their state and confirms their end",
        "node-pods",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        verbs![
            "" "nodes": "get" "list" "watch" "create" "update" "patch",
            "" "nodes/status": "update" "patch",
        ],
        RBAC,
        "registers its node and reports capacity and readiness",
        "node-nodes",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        verbs![
            "" "secrets": "get" "list" "watch",
            "" "configmaps": "get" "list" "watch",
            "" "persistentvolumeclaims": "get" "list" "watch",
            "" "persistentvolumes": "get" "list" "watch",
        ],
        RBAC,
        "resolves the volumes of the pods of its node",
        "node-volumes",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        verbs!["" "events": "create" "update" "patch"],
        RBAC,
        "users learn from events what happened to a pod",
        "node-events",
    ),
];
