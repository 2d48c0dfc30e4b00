//! Every machine: a launcher and QEMU in a pod of its own.
//!
//! Without these the kernel refuses what any QEMU does (the container's empty root has no writable directory, the
//! seccomp filter no system call). Subjects: the launcher, and QEMU as its child.

use super::{Table, confined, syscalls};
use crate::{
    grant::{Grant, Phase, Subject},
    right::{Access, Right, VolumeSource},
};

pub(super) const TABLE: Table = Table {
    both: &[BOTH],
    minimal: confined::GRANTS,
    documented: &[
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            &[Right::Capability("SYS_NICE")],
            "kernel: set_user_nice, sched_setscheduler and migrate_pages ask capable(CAP_SYS_NICE)",
            "the documents let virt-launcher pods raise the priority of vCPU threads and place memory; in the \
             minimal profile the node agent does that from outside",
            "documented-sys-nice",
        ),
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[
                Right::PodField { field: "runAsUser", value: "107" },
                Right::PodField { field: "runAsGroup", value: "107" },
                Right::PodField { field: "fsGroup", value: "107" },
            ],
            "admission: runAsUser MustRunAsRange of restricted-v2 refuses a user outside the namespace's range",
            "the launcher runs as the qemu user of the documented images, to which volumes are given",
            "documented-user",
        ),
    ],
};

const BOTH: &[Grant] = &[
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        &[
            Right::Mount {
                volume: "public",
                path: "/var/run/kubevirt",
                source: VolumeSource::Scratch,
                access: Access::ReadWrite,
            },
            Right::Mount {
                volume: "sockets",
                path: "/var/run/kubevirt/sockets",
                source: VolumeSource::Scratch,
                access: Access::ReadWrite,
            },
        ],
        "kernel: mknod of a socket on the read-only root fails with EROFS (mnt_want_write)",
        "the node agent reaches the launcher, and clients reach consoles, through sockets in these directories",
        "base-sockets",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::Mount {
            volume: "private",
            path: "/var/run/kubevirt-private",
            source: VolumeSource::Scratch,
            access: Access::ReadWrite,
        }],
        "kernel: open with O_CREAT on the read-only root fails with EROFS (mnt_want_write)",
        "the launcher makes seeds here, and volumes are mounted here, apart from what clients see",
        "base-private",
    ),
    Grant::new(
        Subject::Qemu,
        Phase::Running,
        syscalls::QEMU,
        "kernel: __seccomp_filter returns EPERM for every call that neither the runtime's profile nor the filter names \
         that the launcher puts on QEMU",
        "QEMU's block, network, memory and event code makes these calls",
        "base-syscalls",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Running,
        syscalls::LAUNCHER,
        "kernel: __seccomp_filter returns EPERM for every call that neither the runtime's profile nor the launcher's own \
         filter names",
        "the launcher's loop makes these calls, and starts QEMU",
        "launcher-syscalls",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Start,
        &[
            Right::Scc { field: "volumes", value: "emptyDir" },
            Right::Scc { field: "seccompProfiles", value: "runtime/default" },
            Right::Scc { field: "users", value: "system:serviceaccount:kubevirt:kubevirt-controller" },
        ],
        "admission: an SCC refuses volume types and seccomp profiles that it does not list, and serves only its users",
        "every launcher pod has scratch space and the default seccomp profile",
        "base-scc",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Start,
        &[
            Right::Scc { field: "allowedCapabilities", value: "SYS_NICE" },
            Right::Scc { field: "runAsUser", value: "RunAsAny" },
            Right::Scc { field: "fsGroup", value: "RunAsAny" },
            Right::Scc { field: "supplementalGroups", value: "RunAsAny" },
            Right::Scc { field: "seLinuxContext", value: "RunAsAny" },
        ],
        "admission: an SCC refuses capabilities, users, groups and SELinux types that it does not allow",
        "the documented profile asks for them; the SCC is the same in both, since the profile of a running cluster \
         can be changed, and a pod of the minimal profile uses none of them",
        "base-scc-documented",
    ),
];
