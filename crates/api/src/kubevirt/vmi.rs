//! VirtualMachineInstance: specification.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, ExecAction, HTTPGetAction, PodDNSConfig, TCPSocketAction, Toleration, TopologySpreadConstraint,
};

use super::{AccessCredential, DomainSpec, Network, Volume};
use crate::wire;

crate::wire::wire! {
    VirtualMachineInstanceSpec {
        #[serde(default)]
        access_credentials: Vec<AccessCredential>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        affinity: Option<Affinity>,
        architecture: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        dns_config: Option<PodDNSConfig>,
        dns_policy: Option<String>,
        domain: DomainSpec,
        eviction_strategy: Option<String>,
        hostname: Option<String>,
        liveness_probe: Option<Probe>,
        #[serde(default)]
        networks: Vec<Network>,
        #[serde(default)]
        node_selector: BTreeMap<String, String>,
        priority_class_name: Option<String>,
        readiness_probe: Option<Probe>,
        #[serde(default)]
        resource_claims: Vec<VirtualMachineInstanceResourceClaim>,
        scheduler_name: Option<String>,
        service_account_name: Option<String>,
        start_strategy: Option<String>,
        subdomain: Option<String>,
        termination_grace_period_seconds: Option<i64>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object_list")]
        tolerations: Vec<Toleration>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object_list")]
        topology_spread_constraints: Vec<TopologySpreadConstraint>,
        #[serde(default)]
        utility_volumes: Vec<UtilityVolume>,
        #[serde(default)]
        volumes: Vec<Volume>,
    }

    Probe {
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        exec: Option<ExecAction>,
        failure_threshold: Option<i32>,
        guest_agent_ping: Option<GuestAgentPing>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        http_get: Option<HTTPGetAction>,
        initial_delay_seconds: Option<i32>,
        period_seconds: Option<i32>,
        success_threshold: Option<i32>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        tcp_socket: Option<TCPSocketAction>,
        timeout_seconds: Option<i32>,
    }

    GuestAgentPing {}

    VirtualMachineInstanceResourceClaim {
        name: String,
        resource_claim_name: Option<String>,
        resource_claim_template_name: Option<String>,
    }

    UtilityVolume {
        claim_name: String,
        name: String,
        read_only: Option<bool>,
        r#type: Option<String>,
    }
}
