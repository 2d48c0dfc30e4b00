//! What defaulting and validation take from the KubeVirt object.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::kubevirt::{KubeVirt, NetworkConfiguration};

/// Upstream's beta gates that admission asks about; on unless `disabledFeatureGates` names them.
const BETA_GATES: [&str; 5] = [
    "DeclarativeHotplugVolumes",
    "DecentralizedLiveMigration",
    "PasstBinding",
    "RebootPolicy",
    "WorkloadEncryptionSEV",
];

/// The cluster's configuration, as far as admission depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterDefaults {
    /// Architecture of machines that do not name one.
    pub architecture: String,
    /// Machine type of machines that do not name one.
    pub machine_type: String,
    /// Patterns (`*` and `?`) of the machine types that are allowed.
    pub emulated_machines: Vec<String>,
    /// CPU model of machines that do not name one.
    pub cpu_model: String,
    /// CPU request of machines that do not name one, unless it is the 100m that the renderer adds anyway.
    pub cpu_request: Option<Quantity>,
    /// Eviction strategy of machines that do not name one.
    pub eviction_strategy: Option<String>,
    /// `masquerade` or `bridge`: the interface of machines that name neither interfaces nor networks.
    pub default_network_interface: String,
    /// Bridge interfaces may be on the pod network.
    pub bridge_on_pod_network: bool,
    /// A running machine follows changes of its VirtualMachine (`vmRolloutStrategy`, LiveUpdate unless Stage).
    pub live_update: bool,
    /// Feature gates that are on.
    pub feature_gates: BTreeSet<String>,
}

impl Default for ClusterDefaults {
    /// The defaults of a cluster with an empty configuration. The interface is `masquerade`, where upstream has
    /// `bridge`: it needs no privilege in the guest's network and works on every pod network.
    fn default() -> Self {
        Self {
            architecture: "amd64".to_owned(),
            machine_type: "q35".to_owned(),
            emulated_machines: vec!["q35*".to_owned(), "pc-q35*".to_owned()],
            cpu_model: "host-model".to_owned(),
            cpu_request: None,
            eviction_strategy: None,
            default_network_interface: "masquerade".to_owned(),
            bridge_on_pod_network: true,
            live_update: true,
            feature_gates: BETA_GATES.iter().map(|gate| (*gate).to_owned()).collect(),
        }
    }
}

impl From<&KubeVirt> for ClusterDefaults {
    fn from(kubevirt: &KubeVirt) -> Self {
        let mut defaults = Self::default();
        let Some(configuration) = &kubevirt.spec.configuration else { return defaults };
        let amd64 = configuration.architecture_configuration.as_ref().and_then(|c| c.amd64.as_ref());
        if let Some(machine_type) =
            given(&configuration.machine_type).or_else(|| given(&amd64.and_then(|c| c.machine_type.clone())))
        {
            defaults.machine_type = machine_type;
        }
        if let Some(emulated) = amd64.map(|c| &c.emulated_machines).filter(|list| !list.is_empty()) {
            defaults.emulated_machines = emulated.clone();
        } else if !configuration.emulated_machines.is_empty() {
            defaults.emulated_machines = configuration.emulated_machines.clone();
        }
        if let Some(model) = given(&configuration.cpu_model) {
            defaults.cpu_model = model;
        }
        defaults.cpu_request = configuration.cpu_request.clone().filter(|quantity| quantity.0 != "100m");
        defaults.eviction_strategy = given(&configuration.eviction_strategy);
        defaults.live_update = configuration.vm_rollout_strategy.as_deref() != Some("Stage");
        if let Some(network) = &configuration.network {
            defaults.network(network);
        }
        if let Some(developer) = &configuration.developer_configuration {
            defaults.feature_gates.extend(developer.feature_gates.iter().cloned());
            for gate in &developer.disabled_feature_gates {
                defaults.feature_gates.remove(gate);
            }
        }
        defaults
    }
}

impl ClusterDefaults {
    /// Whether a feature gate is on.
    pub fn gate(&self, name: &str) -> bool {
        self.feature_gates.contains(name)
    }

    fn network(&mut self, network: &NetworkConfiguration) {
        if let Some(interface) = given(&network.default_network_interface) {
            self.default_network_interface = interface;
        }
        if let Some(permitted) = network.permit_bridge_interface_on_pod_network {
            self.bridge_on_pod_network = permitted;
        }
    }
}

fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}
