//! The controllers and the node agent: rights do not vanish when launchers lose them, they move here.

use super::{Table, api, net, node, plug, processes, slot};
use crate::{
    grant::{Grant, Phase, Subject, named, verbs},
    right::Right,
};

pub(super) const TABLE: Table = Table {
    both: &[
        CONTROLLER,
        AGENT,
        HOST,
        node::GRANTS,
        plug::GRANTS,
        net::GRANTS,
        api::GRANTS,
        slot::GRANTS,
        processes::GRANTS,
    ],
    ..Table::NONE
};

const RBAC: &str = "authorizer: RBAC refuses a verb that no role of the account has";

const CONTROLLER: &[Grant] = &[
    Grant::new(
        Subject::Controller,
        Phase::Running,
        verbs![
            "kubevirt.io" "virtualmachines": "list" "watch" "patch",
            "kubevirt.io" "virtualmachines/status": "patch",
        ],
        RBAC,
        "follows virtual machines, records what they do and keeps their finalizer",
        "controller-virtualmachines",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        verbs!["kubevirt.io" "virtualmachineinstances": "list" "watch" "create" "patch" "delete"],
        RBAC,
        "a running machine is a VirtualMachineInstance, which it makes, moves through its phases and removes",
        "controller-instances",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        verbs![
            "kubevirt.io" "virtualmachines/finalizers": "update",
            "kubevirt.io" "virtualmachineinstances/finalizers": "update",
        ],
        "admission: OwnerReferencesPermissionEnforcement asks for update of the owner's finalizers",
        "machines own their instances and instances own their pods, and deletion of the owner waits for them",
        "controller-finalizers",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        verbs![
            "kubevirt.io" "kubevirts": "list" "watch",
            "kubevirt.io" "kubevirts/status": "patch",
        ],
        RBAC,
        "the profile and the defaults of the cluster are on the KubeVirt object, and its status says what is in force",
        "controller-kubevirts",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        named![Some("kubevirt"); "kubevirt.io" "kubevirts" "kubevirt": "patch"],
        RBAC,
        "while there are machines the KubeVirt object says so, or has its finalizer, so that it does not go without them",
        "controller-uninstall-finalizer",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        verbs!["kubevirt.io" "virtualmachines": "delete"],
        RBAC,
        "a KubeVirt object that is deleted ends all machines, where its uninstallStrategy says so",
        "controller-uninstall",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        verbs!["" "pods": "get" "list" "watch" "create" "delete"],
        RBAC,
        "each instance runs in a virt-launcher pod, and before one is given up the server itself is asked for it",
        "controller-pods",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Start,
        verbs!["" "namespaces": "get"],
        RBAC,
        "which user, groups and level an SCC may have given to a pod is on its namespace; a pod with others is not recorded as \
         the controller's",
        "controller-namespaces",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        verbs!["" "events": "create" "patch"],
        RBAC,
        "users learn from events what became of their machines",
        "controller-events",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Start,
        verbs!["" "nodes": "list" "watch"],
        RBAC,
        "a label of a node says whether it has SELinux with the policy of launcher pods, which decides about their labels",
        "controller-nodes",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Start,
        verbs!["" "persistentvolumeclaims": "list" "watch"],
        RBAC,
        "a machine waits for its claims, and the claim's mode decides between a mount and a device",
        "controller-claims",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        named![Some("kubevirt"); "coordination.k8s.io" "leases" "kubevirt-controller": "get" "update"],
        RBAC,
        "of its replicas on a cluster one works, and another one takes over when that one is gone",
        "controller-lease",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Install,
        &[Right::Verb {
            group: "kubevirt.io",
            resource: "kubevirts",
            verb: "create",
            namespace: Some("kubevirt"),
            name: None,
        }],
        RBAC,
        "the KubeVirt object is the configuration; one file cannot hold it and its definition, so that the controller makes \
         it where there is none",
        "controller-configuration",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        named![
            Some("kubevirt");
            "apps" "deployments" "kubevirt-controller": "list" "watch",
            "apps" "deployments" "kubevirt-api": "list" "watch",
            "apps" "daemonsets" "virt-handler": "list" "watch",
        ],
        RBAC,
        "the condition Available of the KubeVirt object says whether the parts of the installation are there",
        "controller-parts",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        named![
            None;
            "admissionregistration.k8s.io" "mutatingwebhookconfigurations" "kubevirt-api": "list" "watch",
            "admissionregistration.k8s.io" "validatingwebhookconfigurations" "kubevirt-api": "list" "watch",
        ],
        RBAC,
        "the same condition says whether machines are completed and checked, and their status kept from others",
        "controller-webhooks",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Running,
        named![
            None;
            "apiregistration.k8s.io" "apiservices" "v1.subresources.kubevirt.io": "list" "watch",
            "apiregistration.k8s.io" "apiservices" "v1alpha3.subresources.kubevirt.io": "list" "watch",
        ],
        RBAC,
        "the conditions say whether machines can be started and entered through the cluster's API server",
        "controller-services",
    ),
    Grant::new(
        Subject::Controller,
        Phase::Install,
        named![
            None;
            "apiregistration.k8s.io" "apiservices" "v1.subresources.kubevirt.io": "delete",
            "apiregistration.k8s.io" "apiservices" "v1alpha3.subresources.kubevirt.io": "delete",
        ],
        RBAC,
        "where its namespace is deleted nobody answers for them any more, and no namespace of the cluster would end",
        "controller-services-end",
    ),
];

const AGENT: &[Grant] = &[
    Grant::new(
        Subject::NodeAgent,
        Phase::Running,
        verbs!["kubevirt.io" "virtualmachineinstances": "get" "list" "watch" "patch"],
        RBAC,
        "starts the machines of its node and reports their state and addresses",
        "agent-instances",
    ),
    Grant::new(
        Subject::NodeAgent,
        Phase::Start,
        verbs!["kubevirt.io" "kubevirts": "get"],
        RBAC,
        "the profile and the defaults of the cluster are on the KubeVirt object",
        "agent-kubevirts",
    ),
    Grant::new(
        Subject::NodeAgent,
        Phase::Running,
        verbs!["" "events": "create"],
        RBAC,
        "users learn from events what happened on the node",
        "agent-events",
    ),
];

/// The agent's own powers on its node, used for every machine.
const HOST: &[Grant] = &[
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[
            Right::Host { operation: "mount volumes and the pod's root", capability: "SYS_ADMIN" },
            Right::Host { operation: "create namespaces and enter them", capability: "SYS_ADMIN" },
        ],
        "kernel: may_mount asks ns_capable(CAP_SYS_ADMIN), create_new_namespaces asks it too",
        "each launcher has its own root, volumes and namespaces, and what a device plug-in gives is mounted for whom it is given",
        "node-mounts",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[
            Right::Host { operation: "give volumes and sockets to the launcher's user", capability: "CHOWN" },
            Right::Host { operation: "reach files of every launcher's user", capability: "DAC_OVERRIDE" },
            Right::Host {
                operation: "let the pod's group use what others have made in a claim",
                capability: "FOWNER",
            },
        ],
        "kernel: chown_common asks capable_wrt_inode_uidgid(CAP_CHOWN); generic_permission asks CAP_DAC_OVERRIDE; \
         setattr_prepare asks inode_owner_or_capable(CAP_FOWNER)",
        "the launcher is not root, so that somebody has to give it what it may write",
        "node-ownership",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[Right::Host {
            operation: "label the machine's files, and the copies of launcher and QEMU",
            capability: "FOWNER",
        }],
        "kernel: selinux_inode_setxattr asks inode_owner_or_capable(CAP_FOWNER), relabelfrom and relabelto; only where \
         SELinux is on",
        "a machine's files have its own MCS level, so that another machine's QEMU cannot open them; the programs that it \
         runs have a type that containers may execute, which the node's own do not have",
        "node-labels",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        &[Right::Host { operation: "read the SELinux policy that is loaded", capability: "DAC_OVERRIDE" }],
        "kernel: sel_open_policy asks security { read_policy }; the file is root's alone",
        "no launcher is started under a type that the kernel does not know, and a policy that has become stale is reported",
        "node-read-policy",
    ),
    Grant::new(
        Subject::Node,
        Phase::Install,
        &[Right::Host {
            operation: "install the SELinux module of launcher pods, only with --install-selinux-policy",
            capability: "DAC_OVERRIDE",
        }],
        "kernel: sel_write_load asks security { load_policy }; the module store is root's alone",
        "a type can be given to a process only when the node's policy has it",
        "node-install-policy",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[Right::Host { operation: "make device nodes in the pod", capability: "MKNOD" }],
        "kernel: vfs_mknod asks capable(CAP_MKNOD)",
        "a pod sees the devices that it was granted and no other",
        "node-devices",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[
            Right::Host { operation: "start the launcher as its user and group", capability: "SETUID" },
            Right::Host { operation: "set the launcher's groups", capability: "SETGID" },
            Right::Host { operation: "drop the launcher's capabilities", capability: "SETPCAP" },
        ],
        "kernel: __sys_setresuid asks CAP_SETUID, setgroups CAP_SETGID, cap_prctl_drop CAP_SETPCAP",
        "the container runtime takes away what the launcher does not get",
        "node-identity",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[
            Right::Host {
                operation: "start the process that unpacks an image as a user of its own",
                capability: "SETUID",
            },
            Right::Host { operation: "take its groups away", capability: "SETGID" },
            Right::Host { operation: "take every capability away from it", capability: "SETPCAP" },
            Right::Host { operation: "give it the directory to unpack into", capability: "CHOWN" },
            Right::Host { operation: "take the directory back, or remove it", capability: "DAC_OVERRIDE" },
        ],
        "kernel: __sys_setresuid asks CAP_SETUID, setgroups CAP_SETGID, cap_prctl_drop CAP_SETPCAP; chown_common asks \
         capable_wrt_inode_uidgid(CAP_CHOWN); generic_permission asks CAP_DAC_OVERRIDE",
        "bytes of strangers are read by a process that has no right on the node",
        "node-images",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        &[
            Right::Host { operation: "write the limits of the pod's cgroup", capability: "DAC_OVERRIDE" },
            Right::Host { operation: "signal the launcher", capability: "KILL" },
        ],
        "kernel: cgroup_file_open and kernfs permissions; check_kill_permission asks CAP_KILL",
        "limits hold for the whole pod, and a deleted pod ends",
        "node-lifecycle",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[Right::Host {
            operation: "give the pod an OOM score that its guest cannot lower, where the node's root has the capability",
            capability: "SYS_RESOURCE",
        }],
        "kernel: __set_oom_adj asks capable(CAP_SYS_RESOURCE) to go under, and to set, the process's lowest score",
        "when memory runs out guests end before the system does, by their quality of service",
        "node-oom",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        &[Right::Host { operation: "read what a pod's processes have mapped", capability: "SYS_ADMIN" }],
        "kernel: proc_map_files_get_link asks checkpoint_restore_ns_capable of the first user namespace",
        "what a guest that broke out of QEMU hides from the measuring of scratch space counts for its own pod",
        "node-measure",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[Right::Host { operation: "join the pod to the node's network", capability: "NET_ADMIN" }],
        "kernel: rtnetlink_rcv_msg asks netlink_net_capable(CAP_NET_ADMIN)",
        "the pod has an address of the node's pod network",
        "node-network",
    ),
    Grant::new(
        Subject::Node,
        Phase::Start,
        &[Right::Sysctl { name: "net.ipv4.ip_unprivileged_port_start", value: "0" }],
        "kernel: __inet_bind asks ns_capable(CAP_NET_BIND_SERVICE) for ports under ip_unprivileged_port_start of the pod's \
         network namespace",
        "a launcher that has no capability answers DHCP on port 67 of its own pod; containerd gives the same to every pod",
        "node-ports",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        &[
            Right::Host {
                operation: "make the bridge of the pod network, say where pods are on it, and attach running ones again",
                capability: "NET_ADMIN",
            },
            Right::Sysctl { name: "net.ipv4.ip_forward", value: "1" },
        ],
        "kernel: rtnetlink_rcv_msg asks netlink_net_capable(CAP_NET_ADMIN); ip_forward drops packets for others while it is 0",
        "machines reach the outside, and a bridge that was deleted does not cut running ones off",
        "node-bridge",
    ),
    Grant::new(
        Subject::Node,
        Phase::Running,
        &[Right::Host { operation: "write the rules of the pod network", capability: "NET_ADMIN" }],
        "kernel: nfnetlink_rcv asks netlink_net_capable(CAP_NET_ADMIN)",
        "a machine speaks with its own addresses, reaches those of its namespace, and of the node what is listed",
        "node-rules",
    ),
];
