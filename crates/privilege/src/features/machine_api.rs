//! The machine API of a cluster whose API server is not ours: webhooks that complete and check machines, and their subresources.
//! The KubeVirt object, which it reads, is everybody's to read.

use super::Table;
use crate::grant::{Grant, Phase, Subject, named, verbs};
use crate::right::Right;

pub(super) const TABLE: Table = Table { both: &[GRANTS], ..Table::NONE };

const RBAC: &str = "authorizer: RBAC refuses a verb that no role of the account has";

const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        verbs!["kubevirt.io" "virtualmachines": "get"],
        RBAC,
        "what was decided about a machine holds for the instance that the controller makes of it",
        "machine-api-owner",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        named![Some("kubevirt"); "" "secrets" "kubevirt-api-certificate": "get" "update"],
        RBAC,
        "keeps its certificate, which all replicas share, and replaces it in time",
        "machine-api-certificate",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        named![
            None;
            "admissionregistration.k8s.io" "mutatingwebhookconfigurations" "kubevirt-api": "get" "patch",
            "admissionregistration.k8s.io" "validatingwebhookconfigurations" "kubevirt-api": "get" "patch",
        ],
        RBAC,
        "tells the API server which authority to trust, in its own configurations alone",
        "machine-api-trust",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        verbs![
            "security.openshift.io" "securitycontextconstraints": "list",
            "" "namespaces": "get",
            "authorization.k8s.io" "subjectaccessreviews": "create",
        ],
        RBAC,
        "where the cluster has constraints, a machine is admitted with the rights of the one who makes it",
        "machine-api-rights",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        named![
            None;
            "apiregistration.k8s.io" "apiservices" "v1.subresources.kubevirt.io": "get" "patch",
            "apiregistration.k8s.io" "apiservices" "v1alpha3.subresources.kubevirt.io": "get" "patch",
        ],
        RBAC,
        "tells the API server which authority to trust when it forwards requests for subresources",
        "machine-api-registered",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        named![Some("kube-system"); "" "configmaps" "extension-apiserver-authentication": "get"],
        RBAC,
        "the API server says there by which certificate and in which headers it names who asks",
        "machine-api-front-proxy",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        verbs!["authorization.k8s.io" "subjectaccessreviews": "create"],
        RBAC,
        "whether somebody may start, stop or enter a machine is asked for each call",
        "machine-api-callers",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        verbs![
            "kubevirt.io" "virtualmachines": "patch",
            "kubevirt.io" "virtualmachines/status": "patch",
            "kubevirt.io" "virtualmachineinstances": "get" "patch",
        ],
        RBAC,
        "start, stop and restart are written into the machine, into the requests in its status and, for a shorter end, into \
         its instance",
        "machine-api-runs",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        named![
            Some("kubevirt");
            "" "secrets" "kubevirt-handler-authority": "get" "update",
            "" "secrets" "virt-handler-certificate": "get" "update",
            "" "secrets" "kubevirt-api-client": "get" "update",
        ],
        RBAC,
        "handlers do what it says and nobody else: it makes the certificates by which they know each other",
        "machine-api-handler-certificates",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        named![
            Some("kubevirt");
            "" "secrets" "kubevirt-api-certificate": "create" "patch",
            "" "secrets" "kubevirt-handler-authority": "create" "patch",
            "" "secrets" "virt-handler-certificate": "create" "patch",
            "" "secrets" "kubevirt-api-client": "create" "patch",
        ],
        "authorizer: RBAC is asked for patch, and for create of the object that is named, by a server-side apply of what is not \
         there",
        "one of its Secrets that somebody has deleted is made again; by name, and no policy lets it be a token of an account",
        "machine-api-secrets",
    ),
    Grant::new(
        Subject::MachineApi,
        Phase::Running,
        &[Right::Verb { group: "", resource: "pods", verb: "list", namespace: Some("kubevirt"), name: None }],
        RBAC,
        "pauses, consoles and screens are those of the handler on the instance's node, whose pod it looks for",
        "machine-api-handlers",
    ),
];
