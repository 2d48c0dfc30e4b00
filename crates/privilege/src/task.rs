//! The tasks of the node agent: what each needs on the node, so that each can become a process of its own.

use crate::grant::{Grant, Subject};
use std::fmt;

/// A task of the node agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Starting and ending containers through the runtime.
    Containers,
    /// Devices of a pod.
    Devices,
    /// SELinux labels and policy.
    Labels,
    /// Network of the node and of pods.
    Network,
    /// Files, volumes and their owners.
    Volumes,
}

impl Task {
    /// Every task, in the order of the documents.
    pub const ALL: [Self; 5] = [Self::Containers, Self::Devices, Self::Labels, Self::Network, Self::Volumes];

    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::Devices => "devices",
            Self::Labels => "labels",
            Self::Network => "network",
            Self::Volumes => "volumes",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tasks by the witness of the grant.
const TASKS: &[(&str, Task)] = &[
    ("bridge-enslave", Task::Network),
    ("dhcp-agent-binds", Task::Network),
    ("masquerade-nat", Task::Network),
    ("node-bridge", Task::Network),
    ("node-devices", Task::Devices),
    ("node-identity", Task::Containers),
    ("node-images", Task::Volumes),
    ("node-install-policy", Task::Labels),
    ("node-labels", Task::Labels),
    ("node-lifecycle", Task::Containers),
    ("node-measure", Task::Containers),
    ("node-mounts", Task::Containers),
    ("node-network", Task::Network),
    ("node-oom", Task::Containers),
    ("node-ownership", Task::Volumes),
    ("node-ports", Task::Network),
    ("node-read-policy", Task::Labels),
    ("node-rules", Task::Network),
    ("tap-agent-creates", Task::Network),
    ("tap-bridge", Task::Network),
];

/// The task for which the node agent has this grant; none for grants of others and for those of the API.
pub fn task(grant: &Grant) -> Option<Task> {
    let own = matches!(grant.subject, Subject::Node | Subject::NodeAgent);
    let name = grant.witness.as_str();
    TASKS.iter().find(|(known, _)| own && *known == name).map(|(_, task)| *task)
}
