//! What people may do with machines. A user needs no right on pods, SCCs, devices or hostPath to have a machine: the
//! controller makes the launcher pod, and admission checks the machine.

use super::Table;
use crate::grant::{Grant, Phase, Subject, verbs};

const RBAC: &str = "authorizer: RBAC refuses a verb that no role of the user has";

pub(super) const TABLE: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Anybody,
            Phase::Running,
            verbs![
                "kubevirt.io" "kubevirts": "get" "list",
                "subresources.kubevirt.io" "version": "get" "list",
                "subresources.kubevirt.io" "guestfs": "get" "list",
            ],
            RBAC,
            "clients ask for the version and for what the cluster is configured to do",
            "anybody-version",
        ),
        Grant::new(
            Subject::Viewer,
            Phase::Running,
            verbs![
                "kubevirt.io" "virtualmachines": "get" "list" "watch",
                "kubevirt.io" "virtualmachineinstances": "get" "list" "watch",
                "subresources.kubevirt.io" "virtualmachines/expand-spec": "get",
                "subresources.kubevirt.io" "expand-vm-spec": "update",
            ],
            RBAC,
            "a viewer sees machines, also with what they refer to, and cannot enter them: no console, no screen",
            "viewer-reads",
        ),
        Grant::new(
            Subject::Editor,
            Phase::Running,
            verbs![
                "kubevirt.io" "virtualmachines": "get" "list" "watch" "create" "update" "patch" "delete",
                "kubevirt.io" "virtualmachineinstances": "get" "list" "watch" "create" "update" "patch" "delete",
                "subresources.kubevirt.io" "virtualmachines/expand-spec": "get",
                "subresources.kubevirt.io" "expand-vm-spec": "update",
            ],
            RBAC,
            "an editor makes and changes machines",
            "editor-writes",
        ),
        Grant::new(
            Subject::Editor,
            Phase::Running,
            verbs![
                "subresources.kubevirt.io" "virtualmachines/start": "update",
                "subresources.kubevirt.io" "virtualmachines/stop": "update",
                "subresources.kubevirt.io" "virtualmachines/restart": "update",
                "subresources.kubevirt.io" "virtualmachineinstances/pause": "update",
                "subresources.kubevirt.io" "virtualmachineinstances/unpause": "update",
            ],
            RBAC,
            "an editor runs machines",
            "editor-runs",
        ),
        Grant::new(
            Subject::Editor,
            Phase::Running,
            verbs![
                "subresources.kubevirt.io" "virtualmachineinstances/console": "get",
                "subresources.kubevirt.io" "virtualmachineinstances/vnc": "get",
            ],
            RBAC,
            "an editor enters machines",
            "editor-enters",
        ),
        Grant::new(
            Subject::Administrator,
            Phase::Running,
            verbs![
                "kubevirt.io" "virtualmachines":
                    "get" "list" "watch" "create" "update" "patch" "delete" "deletecollection",
                "kubevirt.io" "virtualmachineinstances":
                    "get" "list" "watch" "create" "update" "patch" "delete" "deletecollection",
                "subresources.kubevirt.io" "virtualmachines/start": "update",
                "subresources.kubevirt.io" "virtualmachines/stop": "update",
                "subresources.kubevirt.io" "virtualmachines/restart": "update",
                "subresources.kubevirt.io" "virtualmachineinstances/pause": "update",
                "subresources.kubevirt.io" "virtualmachineinstances/unpause": "update",
                "subresources.kubevirt.io" "virtualmachineinstances/console": "get",
                "subresources.kubevirt.io" "virtualmachineinstances/vnc": "get",
                "subresources.kubevirt.io" "virtualmachines/expand-spec": "get",
                "subresources.kubevirt.io" "expand-vm-spec": "update",
            ],
            RBAC,
            "the owner of a namespace does all that an editor does, and removes machines in bulk",
            "administrator-machines",
        ),
    ]],
    ..Table::NONE
};
