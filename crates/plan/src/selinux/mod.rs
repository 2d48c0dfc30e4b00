//! SELinux of machines: whether launcher pods are labelled, and what a node says about its policy; in the modules below, base
//! policies, our modules for them, levels, what denials mean, and the proof of the rules.

pub mod base;
pub mod denial;
pub mod label;
pub mod module;
pub mod prove;

use crate::config::{ClusterConfig, LabelPods};
use ferrovirt_model::{Machine, Profile};
use ferrovirt_privilege::{Surroundings, domain};
use k8s_openapi::api::core::v1::Node;

/// Label of nodes: [`NodeState::name`].
pub const NODE_LABEL: &str = "ferrovirt.io/selinux";

/// The type of launcher pods in the documented profile.
pub const DOCUMENTED_TYPE: &str = "virt_launcher.process";

/// What a node's kernel makes of the labels of launcher pods, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// SELinux is off: labels mean nothing.
    Disabled,
    /// The policy lacks a type of the profile: no launcher is started under it.
    NotInstalled,
    /// The types are there; the base policy has changed since they were made, and they do not follow it any more.
    Stale,
    /// Everything is there, but denials are only logged.
    Permissive,
    /// Everything is there and enforced.
    InForce,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Disabled, Self::NotInstalled, Self::Stale, Self::Permissive, Self::InForce];

    /// The value of [`NODE_LABEL`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::NotInstalled => "not-installed",
            Self::Stale => "stale",
            Self::Permissive => "permissive",
            Self::InForce => "in-force",
        }
    }

    /// The reason of the node's condition `SELinuxPolicy`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Disabled => "Disabled",
            Self::NotInstalled => "NotInstalled",
            Self::Stale => "Stale",
            Self::Permissive => "Permissive",
            Self::InForce => "InForce",
        }
    }

    /// The node's kernel knows the types of launcher pods.
    pub fn knows_types(self) -> bool {
        self >= Self::Stale
    }
}

/// What a node says; `None` when it has said nothing yet.
fn state(node: &Node) -> Option<NodeState> {
    let name = node.metadata.labels.as_ref()?.get(NODE_LABEL)?;
    NodeState::ALL.into_iter().find(|state| state.name() == name)
}

impl ClusterConfig {
    /// Whether launcher pods are labelled, on a cluster with these nodes.
    pub fn labels_pods<'a>(&self, nodes: impl IntoIterator<Item = &'a Node>) -> bool {
        match self.label_pods {
            LabelPods::Always => true,
            LabelPods::Never => false,
            LabelPods::Auto => nodes.into_iter().filter_map(state).any(NodeState::knows_types),
        }
    }

    /// The type of a machine's pod where pods are labelled.
    pub fn launcher_type(&self, machine: &Machine, surroundings: &Surroundings) -> String {
        match self.profile {
            Profile::Documented => DOCUMENTED_TYPE.to_owned(),
            Profile::Minimal => domain(machine, surroundings).name().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(state: Option<&str>) -> Node {
        let labels = state.map(|state| json!({NODE_LABEL: state})).unwrap_or_default();
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap()
    }

    #[test]
    fn pods_are_labelled_where_a_node_knows_the_types() {
        let labels = |label_pods, states: &[Option<&str>]| {
            let nodes: Vec<Node> = states.iter().map(|state| node(*state)).collect();
            ClusterConfig { label_pods, ..ClusterConfig::default() }.labels_pods(&nodes)
        };
        for (state, expected) in [
            (None, false),
            (Some("disabled"), false),
            (Some("not-installed"), false),
            (Some("nonsense"), false),
            (Some("stale"), true),
            (Some("permissive"), true),
            (Some("in-force"), true),
        ] {
            assert_eq!(labels(LabelPods::Auto, &[Some("disabled"), state]), expected, "{state:?}");
            assert!(labels(LabelPods::Always, &[state]));
            assert!(!labels(LabelPods::Never, &[state]));
        }
        assert!(!labels(LabelPods::Auto, &[]));
    }
}
