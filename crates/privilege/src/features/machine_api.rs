//! The machine API of a cluster whose API server is not ours: webhooks that complete and check machines. The KubeVirt object,
//! which it reads, is everybody's to read.

use super::Table;
use crate::grant::{Grant, Phase, Subject, named, verbs};

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
        "where the cluster has constraints, a machine is admitted with the rights of whoever makes it",
        "machine-api-rights",
    ),
];
