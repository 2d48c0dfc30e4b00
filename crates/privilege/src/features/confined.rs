//! The SELinux type of every machine in the minimal profile, built up from nothing.
//!
//! What is here was seen to be refused without it when a real launcher and a real QEMU ran in an enforcing kernel.
//! Everything in a pod (root file system, volumes of the pod, device nodes) is `container_file_t` with the pod's own pair
//! of categories; so these rules are about kinds of objects, and paths are kept apart by the pod's mounts.

use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::Right,
};

pub(super) const GRANTS: &[Grant] = &[
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[
            Right::SelinuxAttribute { domain: "{domain}", attribute: "domain" },
            Right::SelinuxRole { domain: "{domain}", role: "system_r" },
        ],
        "security hook: selinux_bprm_creds_for_exec refuses a context whose type its role may not have",
        "base policies assert that nothing but a member of domain is a process, and let init, the node agent and \
         administrators act on processes by it",
        "selinux-domain",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        &[Right::SelinuxAttribute { domain: "{domain}", attribute: "mcs_constrained_type" }],
        "security hook: context_struct_compute_av applies the constraints of categories to members only",
        "takes away: a machine reaches only what has its own categories, so machines are kept apart",
        "selinux-separation",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        selinux![
            "{runtime}" "{domain}" "process": "transition",
            "{runtime}" "{domain}" "process2": "nnp_transition",
            "{domain}" "container_file_t" "file": "entrypoint",
        ],
        "security hook: selinux_bprm_creds_for_exec on the change of domain, under no_new_privs too",
        "the container runtime starts the launcher's program in the machine's type",
        "selinux-start",
    ),
    Grant::new(
        Subject::Launcher,
        Phase::Start,
        selinux!["{domain}" "container_file_t" "file": "read" "open" "map" "execute" "execute_no_trans" "getattr"],
        "security hooks: selinux_file_open, selinux_mmap_file, selinux_bprm_creds_for_exec on files of the image",
        "the launcher is loaded, starts QEMU, and QEMU loads its libraries and firmware",
        "selinux-programs",
    ),
];
