//! TAP networking and its bindings.
//!
//! Making a TAP, a bridge or an address translation asks for CAP_NET_ADMIN in the pod's network namespace. In the
//! minimal profile only the node agent does it, and passes open queues. In the documented profile the launcher makes
//! its TAP itself.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::{Access, DeviceSource, NetworkStep, Right},
};

pub(super) const TAP: Table = Table {
    both: &[&[
        Grant::new(
            Subject::Controller,
            Phase::Start,
            &[Right::Scc { field: "allowedCapabilities", value: "NET_ADMIN" }],
            "admission: an SCC refuses a capability that it does not allow",
            "the documented profile's launcher creates its TAP; a pod of the minimal profile does not ask for it",
            "tap-scc",
        ),
        Grant::new(
            Subject::NodeAgent,
            Phase::Start,
            &[
                Right::Host { operation: "enter the pod's network namespace", capability: "SYS_ADMIN" },
                Right::Host { operation: "create a bridge in the pod", capability: "NET_ADMIN" },
                Right::Host {
                    operation: "read the pod's links and addresses over a socket of its own",
                    capability: "NET_ADMIN",
                },
            ],
            "kernel: netns_install asks ns_capable(CAP_SYS_ADMIN); rtnetlink_rcv_msg asks \
             netlink_net_capable(CAP_NET_ADMIN), and rtnl_get_net_ns_capable ns_capable of the namespace's owner",
            "the guest's interface is joined to the pod's inside the pod's own namespace; the sockets are opened in there, \
             the rest is done from outside",
            "tap-bridge",
        ),
    ]],
    minimal: &[
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Network { nic: "{nic}", step: NetworkStep::ReceiveQueue }],
            "kernel: without the descriptor tun_set_iff asks ns_capable(CAP_NET_ADMIN)",
            "an open queue needs neither a capability nor the device node nor a rule for it",
            "tap-queue-passed",
        ),
        Grant::new(
            Subject::NodeAgent,
            Phase::Start,
            &[Right::Host {
                operation: "create a TAP in the pod and pass its queues",
                capability: "NET_ADMIN",
            }],
            "kernel: tun_set_iff asks ns_capable(CAP_NET_ADMIN) of the namespace's owner",
            "so that the launcher needs no capability",
            "tap-agent-creates",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Running,
            selinux!["{domain}" "tun_tap_device_t" "chr_file": "read" "write" "ioctl"],
            "security hooks: selinux_file_receive and selinux_file_ioctl on the open queue; the node's label is that of \
             the node on which the agent opened it",
            "packets go through the passed queue; it cannot be opened again, since there is no right to open",
            "tap-selinux",
        ),
    ],
    documented: &[
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Network { nic: "{nic}", step: NetworkStep::CreateTap }],
            "kernel: tun_set_iff asks ns_capable(CAP_NET_ADMIN) of the namespace's owner",
            "the documents let a machine create its own TUN device",
            "tap-launcher-creates",
        ),
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Capability("NET_ADMIN")],
            "kernel: tun_set_iff asks ns_capable(CAP_NET_ADMIN) of the namespace's owner",
            "the launcher creates its TAP, sets it up and joins it to the bridge",
            "tap-net-admin",
        ),
        Grant::new(
            Subject::Launcher,
            Phase::Start,
            &[Right::Device {
                path: "/dev/net/tun",
                source: DeviceSource::Plugin("devices.kubevirt.io/tun"),
                access: Access::ReadWrite,
            }],
            "kernel: devcgroup_check_permission refuses to open 10:200",
            "a TAP queue is opened through this device node",
            "tap-device",
        ),
    ],
};

pub(super) const MASQUERADE: Table = Table {
    both: &[&[Grant::new(
        Subject::NodeAgent,
        Phase::Start,
        &[
            Right::Host { operation: "write address translation rules in the pod", capability: "NET_ADMIN" },
            Right::Sysctl { name: "net.ipv4.conf.eth0.forwarding", value: "1" },
            Right::Sysctl { name: "net.ipv4.conf.k6t-eth0.forwarding", value: "1" },
            Right::Sysctl { name: "net.ipv4.conf.k6t-eth0.route_localnet", value: "1" },
        ],
        "kernel: nfnetlink_rcv and rtnetlink_rcv_msg ask netlink_net_capable(CAP_NET_ADMIN); ip_route_input_slow drops \
         packets for others that come in where forwarding is 0",
        "the guest has a private address that is translated to the pod's, also for clients in the pod itself",
        "masquerade-nat",
    )]],
    ..Table::NONE
};

pub(super) const BRIDGE: Table = Table {
    both: &[&[Grant::new(
        Subject::NodeAgent,
        Phase::Start,
        &[Right::Host { operation: "rename and enslave the pod's interface", capability: "NET_ADMIN" }],
        "kernel: rtnetlink_rcv_msg asks netlink_net_capable(CAP_NET_ADMIN)",
        "the guest takes over the pod's address on the pod's network",
        "bridge-enslave",
    )]],
    ..Table::NONE
};
