//! Network multi-queue: one TAP queue for each vCPU.
//!
//! A second queue of a TAP is the same TUNSETIFF again, which SELinux checks as relabelfrom and relabelto on the
//! device; a guest that turns queues on makes QEMU attach them, which it checks as attach_queue.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::{NetworkStep, Right},
};

pub(super) const TABLE: Table = Table {
    minimal: &[
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Network { nic: "{nic}", step: NetworkStep::ReceiveMoreQueues }],
            "kernel: without the descriptors tun_set_iff asks ns_capable(CAP_NET_ADMIN) for each queue",
            "network performance grows with the number of vCPUs when each has a queue",
            "multi-queue-passed",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            selinux!["{domain}" "{agent}" "tun_socket": "attach_queue"],
            "security hook: selinux_tun_dev_attach_queue, when a vCPU attaches a queue that QEMU holds and had detached; \
             the TAP has the label of the node agent that made it",
            "QEMU detaches all queues but the first until the guest turns them on",
            "multi-queue-attach-selinux",
        ),
    ],
    documented: &[
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Network { nic: "{nic}", step: NetworkStep::CreateMoreQueues }],
            "kernel: tun_set_iff asks ns_capable(CAP_NET_ADMIN) for each queue",
            "network performance grows with the number of vCPUs when each has a queue",
            "multi-queue-created",
        ),
        Grant::new(
            Subject::Launcher,
            Phase::Running,
            selinux!["virt_launcher.process" "self" "tun_socket": "relabelfrom" "relabelto" "attach_queue"],
            "security hooks: selinux_tun_dev_open (relabelfrom, relabelto), selinux_tun_dev_attach_queue (attach_queue)",
            "a machine relabels and attaches queues to its own TUN sockets",
            "multi-queue-selinux",
        ),
    ],
    ..Table::NONE
};
