//! A grant: who gets which rights, when, demanded by what, and why.

use crate::{
    right::Right,
    text::{Hook, Reason, Witness},
};
use std::fmt;

/// Who gets a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The QEMU process.
    Qemu,
    /// The virt-launcher process, QEMU's parent in the same pod.
    Launcher,
    /// `virt-handler`, the machine side of the node agent; embedded default only.
    NodeAgent,
    /// The same process in its second role, the pods of its node, as a kubelet; embedded default only.
    Node,
    /// `virt-handler plug`, which speaks with the kubelet; on clusters with kubelets.
    Plug,
    /// `virt-handler net`, which makes machines' networks; on clusters with kubelets.
    Net,
    /// `virt-handler api`, which speaks with the API server; on clusters with kubelets.
    Api,
    /// `ferrovirt up` itself, which starts API server and node agent; embedded default only.
    Supervisor,
    /// The process of the API server and the controllers; embedded default only.
    ApiServer,
    /// `kubevirt-controller`.
    Controller,
    /// The SCC webhook; on clusters without SCCs of their own.
    SccWebhook,
    /// `kubevirt-api`, the machine API; on clusters with kubelets.
    MachineApi,
    /// Everybody who is authenticated (`kubevirt.io:default`).
    Anybody,
    /// Readers of machines (`kubevirt.io:view`).
    Viewer,
    /// Users of machines (`kubevirt.io:edit`).
    Editor,
    /// Owners of a namespace (`kubevirt.io:admin`).
    Administrator,
}

impl Subject {
    /// Every subject, in the order of the documents.
    pub const ALL: [Self; 16] = [
        Self::Qemu,
        Self::Launcher,
        Self::NodeAgent,
        Self::Node,
        Self::Plug,
        Self::Net,
        Self::Api,
        Self::Supervisor,
        Self::ApiServer,
        Self::Controller,
        Self::SccWebhook,
        Self::MachineApi,
        Self::Anybody,
        Self::Viewer,
        Self::Editor,
        Self::Administrator,
    ];

    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Launcher => "virt-launcher",
            Self::NodeAgent => "virt-handler",
            Self::Node => "node",
            Self::Plug => "virt-handler plug",
            Self::Net => "virt-handler net",
            Self::Api => "virt-handler api",
            Self::Supervisor => "supervisor",
            Self::ApiServer => "api-server",
            Self::Controller => "kubevirt-controller",
            Self::SccWebhook => "scc-webhook",
            Self::MachineApi => "kubevirt-api",
            Self::Anybody => "anybody",
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Administrator => "administrator",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a right is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Setting up the system.
    Install,
    /// Until the guest runs.
    Start,
    /// While the guest runs, and its end.
    Running,
    /// Devices that come and go.
    HotPlug,
    /// Moving to another node.
    Migration,
}

impl Phase {
    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Start => "start",
            Self::Running => "running",
            Self::HotPlug => "hot-plug",
            Self::Migration => "migration",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry of the table: rights that share a hook and a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Who.
    pub subject: Subject,
    /// What; never empty. Texts may hold placeholders that the machine fills in.
    pub rights: &'static [Right<&'static str>],
    /// When.
    pub phase: Phase,
    /// What refuses without it.
    pub hook: Hook,
    /// Why.
    pub reason: Reason,
    /// What fails without it.
    pub witness: Witness,
}

impl Grant {
    /// An entry of the table. The three texts cannot be blank, the rights cannot be none: it does not compile.
    pub const fn new(
        subject: Subject,
        phase: Phase,
        rights: &'static [Right<&'static str>],
        hook: &'static str,
        reason: &'static str,
        witness: &'static str,
    ) -> Self {
        assert!(!rights.is_empty(), "a grant grants something");
        Self {
            subject,
            rights,
            phase,
            hook: Hook::new(hook),
            reason: Reason::new(reason),
            witness: Witness::new(witness),
        }
    }
}

/// Rights on Kubernetes resources everywhere: `verbs!["group" "resource": "get" "list"]`, several separated by commas.
macro_rules! verbs {
    ($($group:literal $resource:literal : $($verb:literal)+),+ $(,)?) => {
        &[$($($crate::right::Right::Verb {
            group: $group,
            resource: $resource,
            verb: $verb,
            namespace: None,
            name: None,
        },)+)+]
    };
}
pub(crate) use verbs;

/// Rights on single objects: `named![NAMESPACE; "group" "resource" "name": "get" "update"]`, several separated by commas;
/// the namespace is an `Option`.
macro_rules! named {
    ($namespace:expr; $($group:literal $resource:literal $name:literal : $($verb:literal)+),+ $(,)?) => {
        &[$($($crate::right::Right::Verb {
            group: $group,
            resource: $resource,
            verb: $verb,
            namespace: $namespace,
            name: Some($name),
        },)+)+]
    };
}
pub(crate) use named;

/// SELinux rights: `selinux!["source" "target" "class": "perm" "perm"]`, several separated by commas.
macro_rules! selinux {
    ($($source:literal $target:literal $class:literal : $($permission:literal)+),+ $(,)?) => {
        &[$($($crate::right::Right::Selinux {
            source: $source,
            target: $target,
            class: $class,
            permission: $permission,
        },)+)+]
    };
}
pub(crate) use selinux;
