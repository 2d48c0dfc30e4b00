//! `virt-handler api`, the part of the handler that speaks with the API server. What is not here it does not have: no
//! capability, no path of the node, nothing of the kubelet's, no secret but its own certificate, no write to a pod or a node.
//!
//! RBAC knows no node: what it reads and writes is that of every node. Under `ferrovirt up` the node agent has rows of its own.

use crate::{
    grant::{Grant, Phase, Subject, named, verbs},
    right::{Access, Right, VolumeSource},
};

const RBAC: &str = "authorizer: RBAC refuses a verb that no role of the account has";

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Api,
        Phase::Running,
        verbs!["" "pods": "get" "list" "watch"],
        RBAC,
        "follows the launcher pods of its node, and looks at each again before anything is done for it",
        "handler-pods",
    ),
    Grant::new(
        Subject::Api,
        Phase::Running,
        verbs!["kubevirt.io" "virtualmachineinstances": "get" "list" "watch" "patch"],
        RBAC,
        "what a pod should be follows from its machine, whose state and addresses it reports; a machine has no status \
         subresource",
        "handler-machines",
    ),
    Grant::new(
        Subject::Api,
        Phase::Start,
        named![Some("kubevirt"); "kubevirt.io" "kubevirts" "kubevirt": "get"],
        RBAC,
        "what a pod should be depends on the profile and the defaults of the cluster, which are on the KubeVirt object",
        "handler-configuration",
    ),
    Grant::new(
        Subject::Api,
        Phase::Start,
        verbs!["" "namespaces": "get"],
        RBAC,
        "which user, groups and level an SCC may have given to a pod is on its namespace; others are refused",
        "handler-namespaces",
    ),
    Grant::new(
        Subject::Api,
        Phase::Start,
        verbs!["" "persistentvolumeclaims": "get"],
        RBAC,
        "a claim's mode decides between a mount and a device of the pod, and its capacity says how large a new disk is",
        "handler-claims",
    ),
    Grant::new(
        Subject::Api,
        Phase::Running,
        verbs!["" "events": "create"],
        RBAC,
        "users learn from events what happened on the node",
        "handler-events",
    ),
    Grant::new(
        Subject::Api,
        Phase::Running,
        &[Right::Mount {
            volume: "certificate",
            path: "/run/ferrovirt-certificate",
            source: VolumeSource::Secret { name: "virt-handler-certificate", keys: "ca.crt,tls.crt,tls.key" },
            access: Access::Read,
        }],
        "kernel: path_openat finds no file that the mount namespace has not",
        "shows clients of consoles who it is, and knows which of them to hear; the kubelet mounts it, so that its token reads \
         no Secret",
        "handler-certificate",
    ),
    Grant::new(
        Subject::Api,
        Phase::Running,
        &[Right::Port {
            port: "8443",
            clients: "who has a certificate of the name kubevirt-api by its authority",
        }],
        "kernel: tcp_v4_rcv answers with a reset where nobody listens",
        "consoles, screens, pause and unpause of its node's machines come from the cluster's API, which has asked what their \
         user may do",
        "handler-port",
    ),
];
