//! An SELinux type for the machine's pod and an MCS pair that no other machine has.
//!
//! The label takes away, it gives nothing: without it the runtime's own `container_t` with a pair of the namespace's or
//! the runtime's choice holds. It costs a right all the same, that of choosing it: `restricted-v2` refuses every type
//! and every level but the namespace's. So an SCC of its own, `kubevirt-machine`, is `restricted-v2` with that one
//! freedom and without what launchers never use.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject},
    right::Right,
};

pub(super) const TABLE: Table = Table { both: &[BOTH], ..Table::NONE };

const BOTH: &[Grant] = &[
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::PodField { field: "seLinuxOptions.type", value: "{label-type}" }],
        "security hook: selinux_bprm_creds_for_exec takes the type from the label that the runtime writes to attr/exec",
        "the rules of the profile are given to this type, and to no other process of the node",
        "label-type",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::PodField { field: "seLinuxOptions.level", value: "{label-level}" }],
        "security hook: context_struct_compute_av applies the MCS constraints on categories",
        "a machine reaches no file, socket or process of another one, although both have the same type",
        "label-level",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Start,
        &[Right::MachineScc { field: "seLinuxContext", value: "RunAsAny" }],
        "admission: seLinuxContext MustRunAs of restricted-v2 refuses a type, and a level other than the namespace's",
        "the controller gives each machine its type and its own pair",
        "label-scc",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Start,
        &[
            Right::MachineScc { field: "users", value: "system:serviceaccount:kubevirt:kubevirt-controller" },
            Right::MachineScc { field: "runAsUser", value: "MustRunAsRange" },
            Right::MachineScc { field: "fsGroup", value: "MustRunAs" },
            Right::MachineScc { field: "supplementalGroups", value: "RunAsAny" },
            Right::MachineScc { field: "seccompProfiles", value: "runtime/default" },
            Right::MachineScc { field: "volumes", value: "emptyDir" },
            Right::MachineScc { field: "volumes", value: "image" },
            Right::MachineScc { field: "volumes", value: "persistentVolumeClaim" },
            Right::MachineScc { field: "volumes", value: "secret" },
        ],
        "admission: an SCC serves only its users, and refuses strategies, profiles and volume types that it does not list",
        "apart from its label, a labelled pod of the minimal profile is held to what restricted-v2 allows",
        "label-scc-restricted",
    ),
];
