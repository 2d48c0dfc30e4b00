//! The webhook that brings SCC admission to a cluster that has none.

use super::Table;
use crate::grant::{Grant, Phase, Subject, named, verbs};

pub(super) const TABLE: Table = Table { both: &[GRANTS], ..Table::NONE };

const RBAC: &str = "authorizer: RBAC refuses a verb that no role of the account has";

const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::SccWebhook,
        Phase::Running,
        verbs!["security.openshift.io" "securitycontextconstraints": "list" "watch"],
        RBAC,
        "decides by the constraints that are there",
        "webhook-constraints",
    ),
    Grant::new(
        Subject::SccWebhook,
        Phase::Running,
        verbs![
            "rbac.authorization.k8s.io" "clusterroles": "list" "watch",
            "rbac.authorization.k8s.io" "clusterrolebindings": "list" "watch",
            "rbac.authorization.k8s.io" "roles": "list" "watch",
            "rbac.authorization.k8s.io" "rolebindings": "list" "watch",
        ],
        RBAC,
        "knows who may use which constraint without asking while a pod waits",
        "webhook-rights",
    ),
    Grant::new(
        Subject::SccWebhook,
        Phase::Running,
        verbs!["" "namespaces": "get" "list" "watch" "patch"],
        RBAC,
        "reads the ids and the label of a namespace, and writes them into namespaces that have none",
        "webhook-namespaces",
    ),
    Grant::new(
        Subject::SccWebhook,
        Phase::Running,
        verbs!["" "pods": "get"],
        RBAC,
        "looks at the pod that somebody wants to enter",
        "webhook-entry",
    ),
    Grant::new(
        Subject::SccWebhook,
        Phase::Running,
        named![Some("scc-webhook"); "" "configmaps" "scc-uid": "get" "update"],
        RBAC,
        "remembers which ids were given out, so that none is given out twice",
        "webhook-ledger",
    ),
    Grant::new(
        Subject::SccWebhook,
        Phase::Running,
        named![Some("scc-webhook"); "" "secrets" "scc-webhook-certificate": "get" "update"],
        RBAC,
        "keeps its certificate, which all replicas share, and replaces it in time",
        "webhook-certificate",
    ),
    Grant::new(
        Subject::SccWebhook,
        Phase::Running,
        named![
            None;
            "admissionregistration.k8s.io" "mutatingwebhookconfigurations" "scc-webhook": "get" "patch",
            "admissionregistration.k8s.io" "validatingwebhookconfigurations" "scc-webhook": "get" "patch",
        ],
        RBAC,
        "tells the API server which authority to trust, in its own configurations alone",
        "webhook-trust",
    ),
    Grant::new(
        Subject::SccWebhook,
        Phase::Start,
        named![
            None;
            "apiextensions.k8s.io" "customresourcedefinitions"
                "securitycontextconstraints.security.openshift.io": "get",
        ],
        RBAC,
        "finds out whether the cluster has constraints of its own, and stays out of the way there",
        "webhook-owner",
    ),
];
