//! Addresses for guests. The launcher answers, so that no privileged process reads bytes of a guest.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::{NetworkStep, Right},
};

pub(super) const TABLE: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Launcher,
            Phase::Running,
            &[Right::Network { nic: "{nic}", step: NetworkStep::ReceiveDhcpSocket }],
            "kernel: inet_bind_sk asks ns_capable(CAP_NET_BIND_SERVICE) for port 67",
            "a passed socket answers the guest's requests without any capability",
            "dhcp-socket",
        ),
        Grant::new(
            Subject::NodeAgent,
            Phase::Start,
            &[Right::Host { operation: "bind port 67 on the pod's bridge", capability: "NET_BIND_SERVICE" }],
            "kernel: inet_bind_sk asks ns_capable(CAP_NET_BIND_SERVICE) for ports under ip_unprivileged_port_start",
            "so that the launcher needs no capability",
            "dhcp-agent-binds",
        ),
        Grant::new(
            Subject::Controller,
            Phase::Start,
            &[Right::Scc { field: "allowedCapabilities", value: "NET_RAW" }],
            "admission: an SCC refuses a capability that it does not allow",
            "the documented profile's launcher has it; a pod of the minimal profile does not ask for it",
            "dhcp-scc",
        ),
    ]],
    minimal: &[Grant::new(
        Subject::Launcher,
        Phase::Running,
        selinux!["{domain}" "{agent}" "udp_socket": "read" "write"],
        "security hooks: selinux_file_receive, selinux_socket_recvmsg and selinux_socket_sendmsg on the agent's socket",
        "the launcher answers the guest's requests on the socket that the node agent bound",
        "dhcp-selinux",
    )],
    documented: &[Grant::new(
        Subject::Launcher,
        Phase::Running,
        &[Right::Capability("NET_RAW")],
        "kernel: packet_create and inet_create ask ns_capable(CAP_NET_RAW)",
        "the documents let virt-launcher pods answer DHCP through raw sockets; our launcher gets a bound UDP socket \
         and does not use it",
        "dhcp-net-raw",
    )],
};
