//! Where the witness of each grant is run: the third proof, that nothing in the table is there without need.
//!
//! A suite is a test that takes the rights of a grant away and asserts the named failure. Each suite compares the
//! names that it ran with the names that are registered for it here, so that neither side can promise what the other
//! does not do. `SELinux` grants need no line: a kernel that enforces the policy runs them all.

use crate::{
    grant::Grant,
    right::{Right, Surface},
};

/// Who runs a scenario, and what the machine must have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// `crates/plan/src/witness.rs`: SCC admission and the judge of rendered plans. Any machine.
    Plan,
    /// `crates/plan/tests/admission.rs`: the SCC of labelled pods. Any machine.
    Admission,
    /// `crates/control/tests/witnesses.rs`: the embedded API server with the controllers, and users. Any machine.
    Api,
    /// `crates/control/tests/replicas.rs`: several controllers of one embedded API server. Any machine.
    Replicas,
    /// `crates/agent/tests/witnesses.rs`: the kernel, the container runtime and QEMU. Root.
    Node,
    /// `crates/launcher/tests/syscalls.rs`: a real launcher and QEMU under strace.
    Launcher,
    /// `crates/launcher/tests/served.rs`: a real launcher and QEMU beside containers of images, played by processes.
    Images,
    /// `crates/webhook/tests/witnesses.rs`: the SCC webhook beside the embedded API server. Any machine.
    Webhook,
    /// `crates/machine-api/tests/witnesses.rs`: the machine API beside the embedded API server. Any machine.
    MachineApi,
    /// `tests/hostile/tests/processes.rs`: a whole Ferrovirt, whose own processes are looked at and traced.
    Processes,
    /// `crates/agent/tests/plug.rs`: `virt-handler plug` beside a kubelet of the tests, traced. Root.
    Plug,
    /// `crates/agent/tests/net.rs`: `virt-handler net` with launchers in namespaces of the tests, traced. Root.
    Net,
    /// `tests/e2e/tests/witnesses.rs`: a whole Ferrovirt, in which the node agent lacks a verb.
    Whole,
    /// `tests/cluster/tests/install.rs`: a real Kubernetes. Root.
    Cluster,
    /// `tests/cluster/tests/machine.rs`: machines on a real Kubernetes. Root.
    Machine,
    /// `tests/cluster/tests/subresources.rs`: the aggregated API on a real Kubernetes. Root.
    Subresources,
    /// `tests/cluster/tests/user_namespaces.rs`: launchers with users of their own on a real Kubernetes. Root.
    Users,
    /// `ferrovirt selinux prove`: a kernel that enforces the policy, in a virtual machine.
    Selinux,
    /// None: the documents grant it, nothing of ours uses it, so that nothing can fail. The text says what they want
    /// it for.
    DocumentedOnly(&'static str),
}

impl Scenario {
    /// A short name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Admission => "admission",
            Self::Api => "api",
            Self::Replicas => "replicas",
            Self::Node => "node",
            Self::Images => "images",
            Self::Launcher => "launcher",
            Self::Webhook => "webhook",
            Self::MachineApi => "machine API",
            Self::Processes => "processes",
            Self::Plug => "plug",
            Self::Net => "net",
            Self::Whole => "whole",
            Self::Cluster => "cluster",
            Self::Machine => "machine",
            Self::Subresources => "subresources",
            Self::Users => "users",
            Self::Selinux => "selinux",
            Self::DocumentedOnly(_) => "none: documented only",
        }
    }
}

/// Every witness of the table that is not about SELinux alone.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("administrator-machines", Scenario::Api),
    ("anybody-version", Scenario::Api),
    ("editor-enters", Scenario::Api),
    ("editor-runs", Scenario::Api),
    ("editor-writes", Scenario::Api),
    ("viewer-reads", Scenario::Api),
    ("controller-claims", Scenario::Api),
    ("controller-events", Scenario::Api),
    ("controller-finalizers", Scenario::Api),
    ("controller-instances", Scenario::Api),
    ("controller-kubevirts", Scenario::Api),
    ("controller-uninstall", Scenario::Api),
    ("controller-uninstall-finalizer", Scenario::Api),
    ("controller-services-end", Scenario::Api),
    ("controller-configuration", Scenario::Cluster),
    ("controller-lease", Scenario::Replicas),
    ("controller-parts", Scenario::Cluster),
    ("controller-webhooks", Scenario::Cluster),
    ("controller-services", Scenario::Cluster),
    ("slot-resource", Scenario::Cluster),
    ("slot-tun", Scenario::Cluster),
    ("controller-nodes", Scenario::Api),
    ("controller-pods", Scenario::Api),
    ("controller-namespaces", Scenario::Api),
    ("controller-virtualmachines", Scenario::Api),
    ("handler-certificate", Scenario::Machine),
    ("handler-claims", Scenario::Machine),
    ("handler-configuration", Scenario::Machine),
    ("handler-events", Scenario::Machine),
    ("handler-machines", Scenario::Machine),
    ("handler-namespaces", Scenario::Machine),
    ("handler-pods", Scenario::Machine),
    ("handler-port", Scenario::Machine),
    ("agent-events", Scenario::Whole),
    ("agent-instances", Scenario::Whole),
    ("agent-kubevirts", Scenario::Whole),
    ("cloud-init-secret", Scenario::Whole),
    ("node-events", Scenario::Whole),
    ("node-lease", Scenario::Whole),
    ("node-nodes", Scenario::Whole),
    ("node-pods", Scenario::Whole),
    ("node-namespaces", Scenario::Whole),
    ("node-volumes", Scenario::Whole),
    ("webhook-certificate", Scenario::Webhook),
    ("webhook-constraints", Scenario::Webhook),
    ("webhook-entry", Scenario::Webhook),
    ("webhook-ledger", Scenario::Webhook),
    ("webhook-namespaces", Scenario::Webhook),
    ("webhook-owner", Scenario::Webhook),
    ("webhook-rights", Scenario::Webhook),
    ("webhook-trust", Scenario::Webhook),
    ("machine-api-callers", Scenario::MachineApi),
    ("machine-api-certificate", Scenario::MachineApi),
    ("machine-api-front-proxy", Scenario::MachineApi),
    ("machine-api-handler-certificates", Scenario::MachineApi),
    ("machine-api-handlers", Scenario::MachineApi),
    ("machine-api-owner", Scenario::MachineApi),
    ("machine-api-registered", Scenario::Subresources),
    ("machine-api-secrets", Scenario::Subresources),
    ("machine-api-rights", Scenario::MachineApi),
    ("machine-api-runs", Scenario::MachineApi),
    ("machine-api-trust", Scenario::MachineApi),
    ("base-syscalls", Scenario::Launcher),
    ("launcher-syscalls", Scenario::Launcher),
    ("slot-calls", Scenario::Launcher),
    ("volume-group", Scenario::Launcher),
    ("api-calls", Scenario::Processes),
    ("net-admin", Scenario::Net),
    ("net-calls", Scenario::Net),
    ("net-slots", Scenario::Net),
    ("net-user", Scenario::Net),
    ("user-namespace", Scenario::Users),
    ("plug-calls", Scenario::Plug),
    ("plug-holders", Scenario::Plug),
    ("plug-registers", Scenario::Plug),
    ("plug-slots", Scenario::Plug),
    ("plug-user", Scenario::Plug),
    ("base-sockets", Scenario::Node),
    ("bridge-enslave", Scenario::Node),
    ("dhcp-agent-binds", Scenario::Node),
    ("dhcp-socket", Scenario::Node),
    ("masquerade-nat", Scenario::Node),
    ("node-bridge", Scenario::Node),
    ("node-devices", Scenario::Node),
    ("node-identity", Scenario::Node),
    ("node-images", Scenario::Node),
    ("node-lifecycle", Scenario::Node),
    ("node-measure", Scenario::Node),
    ("node-mounts", Scenario::Node),
    ("node-network", Scenario::Node),
    ("node-ownership", Scenario::Node),
    ("node-ports", Scenario::Node),
    ("node-rules", Scenario::Node),
    ("node-oom", Scenario::Node),
    ("api-descriptors", Scenario::Node),
    ("supervisor-ends", Scenario::Node),
    ("supervisor-identity", Scenario::Node),
    ("supervisor-oom", Scenario::Node),
    ("supervisor-ownership", Scenario::Node),
    ("supervisor-plug", Scenario::Node),
    ("supervisor-port", Scenario::Node),
    ("tap-agent-creates", Scenario::Node),
    ("tap-bridge", Scenario::Node),
    ("claim-block-open", Scenario::Node),
    ("claim-block-open-read", Scenario::Node),
    ("claim-file-open", Scenario::Node),
    ("claim-file-open-read", Scenario::Node),
    ("cloud-init-open", Scenario::Node),
    ("container-disk-open", Scenario::Node),
    ("empty-disk-open", Scenario::Node),
    ("empty-disk-open-read", Scenario::Node),
    ("host-disk-open", Scenario::Node),
    ("host-disk-open-read", Scenario::Node),
    ("huge-pages-file", Scenario::Node),
    ("kernel-boot-open", Scenario::Node),
    ("served-image", Scenario::Images),
    ("served-image-open", Scenario::Images),
    ("base-private", Scenario::Plan),
    ("base-scc", Scenario::Plan),
    ("base-scc-documented", Scenario::Plan),
    ("claim-block-device", Scenario::Plan),
    ("claim-block-device-read", Scenario::Plan),
    ("claim-file-mount", Scenario::Plan),
    ("claim-file-mount-read", Scenario::Plan),
    ("claim-scc", Scenario::Plan),
    ("cloud-init-mount", Scenario::Plan),
    ("cloud-init-scc", Scenario::Plan),
    ("container-disk-mount", Scenario::Plan),
    ("container-disk-scc", Scenario::Plan),
    ("dhcp-scc", Scenario::Plan),
    ("empty-disk-mount", Scenario::Plan),
    ("host-disk-mount", Scenario::Plan),
    ("host-disk-mount-create", Scenario::Plan),
    ("host-disk-mount-read", Scenario::Plan),
    ("host-disk-scc", Scenario::Plan),
    ("huge-pages-mount", Scenario::Plan),
    ("huge-pages-resource", Scenario::Plan),
    ("kernel-boot-mount", Scenario::Plan),
    ("kernel-boot-scc", Scenario::Plan),
    ("kvm-device", Scenario::Plan),
    ("multi-queue-created", Scenario::Plan),
    ("multi-queue-passed", Scenario::Plan),
    ("overlay-scratch", Scenario::Plan),
    ("served-image-helper", Scenario::Plan),
    ("served-image-sockets", Scenario::Plan),
    ("tap-device", Scenario::Plan),
    ("tap-launcher-creates", Scenario::Plan),
    ("tap-net-admin", Scenario::Plan),
    ("tap-queue-passed", Scenario::Plan),
    ("tap-scc", Scenario::Plan),
    ("label-scc", Scenario::Admission),
    ("label-scc-restricted", Scenario::Admission),
    ("label-level", Scenario::Selinux),
    ("label-type", Scenario::Selinux),
    ("node-install-policy", Scenario::Selinux),
    ("node-labels", Scenario::Selinux),
    ("node-read-policy", Scenario::Selinux),
    (
        "dhcp-net-raw",
        Scenario::DocumentedOnly("answering DHCP through raw sockets; our launcher gets a bound socket"),
    ),
    (
        "documented-sys-nice",
        Scenario::DocumentedOnly("the priority of vCPU threads; no field of a machine asks for one yet"),
    ),
    (
        "documented-user",
        Scenario::DocumentedOnly(
            "the number of the qemu user; the agent gives volumes to whatever user it is",
        ),
    ),
];

/// Who runs the witness of a grant; `None` when nobody does, which a test does not let pass.
pub fn scenario(grant: &Grant) -> Option<Scenario> {
    let name = grant.witness.as_str();
    let known = SCENARIOS.iter().find(|(known, _)| *known == name).map(|(_, scenario)| *scenario);
    let selinux = grant.rights.iter().all(|right| right.surface() == Surface::Selinux);
    known.or_else(|| selinux.then_some(Scenario::Selinux))
}

/// The witnesses that a suite has to run.
pub fn registered(scenario: Scenario) -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().filter(move |(_, known)| *known == scenario).map(|(name, _)| *name)
}

/// The entry of the table with this witness.
pub fn witnessed(name: &str) -> Option<&'static Grant> {
    use ferrovirt_model::Profile;
    crate::Feature::ALL
        .into_iter()
        .flat_map(|feature| [(feature, Profile::Minimal), (feature, Profile::Documented)])
        .flat_map(|(feature, profile)| crate::grants(feature, profile))
        .find(|grant| grant.witness.as_str() == name)
}

/// The verbs of an entry, as (group, resource, verb).
pub fn verbs(grant: &Grant) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    grant.rights.iter().filter_map(|right| match right {
        Right::Verb { group, resource, verb, .. } => Some((*group, *resource, *verb)),
        _ => None,
    })
}
