//! KubeVirt: the configuration of the installation.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::LocalObjectReference;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};

use crate::wire;
use crate::wire::Opaque;

crate::wire::wire! {
    KubeVirtSpec {
        certificate_rotate_strategy: Option<Opaque>,
        configuration: Option<KubeVirtConfiguration>,
        customize_components: Option<Opaque>,
        image_pull_policy: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object_list")]
        image_pull_secrets: Vec<LocalObjectReference>,
        image_registry: Option<String>,
        image_tag: Option<String>,
        infra: Option<Opaque>,
        monitor_account: Option<String>,
        monitor_namespace: Option<String>,
        product_component: Option<String>,
        product_name: Option<String>,
        product_version: Option<String>,
        service_monitor_namespace: Option<String>,
        synchronization_port: Option<String>,
        uninstall_strategy: Option<String>,
        workload_update_strategy: Option<Opaque>,
        workloads: Option<Opaque>,
    }

    KubeVirtConfiguration {
        additional_guest_memory_overhead_ratio: Option<String>,
        api_configuration: Option<Opaque>,
        architecture_configuration: Option<ArchConfiguration>,
        #[serde(rename = "autoCPULimitNamespaceLabelSelector")]
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        auto_cpu_limit_namespace_label_selector: Option<LabelSelector>,
        changed_block_tracking_label_selectors: Option<Opaque>,
        common_instancetypes_deployment: Option<Opaque>,
        confidential_compute: Option<Opaque>,
        controller_configuration: Option<Opaque>,
        cpu_model: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        cpu_request: Option<Quantity>,
        default_runtime_class: Option<String>,
        developer_configuration: Option<DeveloperConfiguration>,
        #[serde(default)]
        emulated_machines: Vec<String>,
        eviction_strategy: Option<String>,
        handler_configuration: Option<Opaque>,
        #[serde(default)]
        hypervisors: Vec<Opaque>,
        image_pull_policy: Option<String>,
        instancetype: Option<Opaque>,
        ksm_configuration: Option<Opaque>,
        live_update_configuration: Option<LiveUpdateConfiguration>,
        machine_type: Option<String>,
        mediated_devices_configuration: Option<Opaque>,
        mem_balloon_stats_period: Option<i64>,
        migrations: Option<Opaque>,
        #[serde(rename = "minCPUModel")]
        min_cpu_model: Option<String>,
        network: Option<NetworkConfiguration>,
        #[serde(rename = "obsoleteCPUModels")]
        #[serde(default)]
        obsolete_cpu_models: BTreeMap<String, bool>,
        ovmf_path: Option<String>,
        permitted_host_devices: Option<Opaque>,
        persistent_reservation_configuration: Option<Opaque>,
        role_aggregation_strategy: Option<String>,
        seccomp_configuration: Option<Opaque>,
        selinux_launcher_type: Option<String>,
        smbios: Option<Opaque>,
        #[serde(default)]
        support_container_resources: Vec<Opaque>,
        #[serde(default)]
        supported_guest_agent_versions: Vec<String>,
        tls_configuration: Option<Opaque>,
        virt_template_deployment: Option<Opaque>,
        virtual_machine_instances_per_node: Option<i32>,
        virtual_machine_options: Option<Opaque>,
        vm_rollout_strategy: Option<String>,
        vm_state_storage_class: Option<String>,
        webhook_configuration: Option<Opaque>,
        /// How much privilege launcher pods get: `minimal` (when absent) or `documented`. Not an upstream field.
        privilege_profile: Option<String>,
        /// Whose rights count for what a launcher pod gets: `Requester` (anybody who makes or changes the machine) or
        /// `Controller` (the controller lends its own to everybody). Absent: `Requester` in the minimal profile,
        /// `Controller` in the documented one. Not an upstream field.
        launcher_rights: Option<String>,
        /// SELinux labels of launcher pods. Not an upstream field.
        selinux: Option<SelinuxConfiguration>,
        /// The pod network of nodes that Ferrovirt itself runs (`ferrovirt up`). Changes hold for running machines, too,
        /// within some ten seconds. Not an upstream field.
        pod_network: Option<PodNetworkConfiguration>,
        /// The group, as `fsGroup` of their pods, by which launchers on a cluster use the claims of their machines; none
        /// when absent, as where security context constraints give pods a group of their namespace. Not an upstream field.
        volume_group: Option<i64>,
        /// Which launcher pods on a cluster have a user namespace of their own: `Auto` (when absent: in the minimal profile those
        /// of which all is known to work in one, where every node that takes machines gives pods one: none with KVM), `Always`
        /// (also those with claims in file-system mode, /dev/kvm, huge pages or served images, whatever nodes say) or `Never`.
        /// Not an upstream field.
        user_namespaces: Option<String>,
    }

    PodNetworkConfiguration {
        /// Which machines reach each other: `Namespace` (when absent: those of one namespace) or `None` (all machines).
        isolation: Option<String>,
        /// Services of the node that machines reach at their gateway's address; none when absent.
        #[serde(default)]
        node_services: Vec<NodeService>,
    }

    NodeService {
        /// Port on the node, 1 to 65535.
        port: i32,
        /// `TCP` (when absent) or `UDP`.
        protocol: Option<String>,
    }

    SelinuxConfiguration {
        /// Whether launcher pods carry the type of their machine and an MCS pair of its own: `Auto` (when absent: where
        /// a node has SELinux and the policy), `Always` or `Never`.
        label_pods: Option<String>,
    }

    DeveloperConfiguration {
        cluster_profiler: Option<bool>,
        cpu_allocation_ratio: Option<i32>,
        #[serde(default)]
        disabled_feature_gates: Vec<String>,
        disk_verification: Option<Opaque>,
        #[serde(default)]
        feature_gates: Vec<String>,
        log_verbosity: Option<Opaque>,
        memory_overcommit: Option<i32>,
        #[serde(rename = "minimumClusterTSCFrequency")]
        minimum_cluster_tsc_frequency: Option<i64>,
        #[serde(rename = "minimumReservePVCBytes")]
        minimum_reserve_pvc_bytes: Option<i64>,
        #[serde(default)]
        node_selectors: BTreeMap<String, String>,
        pvc_tolerate_less_space_up_to_percent: Option<i32>,
        use_emulation: Option<bool>,
    }

    NetworkConfiguration {
        #[serde(default)]
        binding: BTreeMap<String, Opaque>,
        default_network_interface: Option<String>,
        permit_bridge_interface_on_pod_network: Option<bool>,
        permit_slirp_interface: Option<bool>,
    }

    ArchConfiguration {
        amd64: Option<ArchSpecificConfiguration>,
        arm64: Option<ArchSpecificConfiguration>,
        default_architecture: Option<String>,
        ppc64le: Option<ArchSpecificConfiguration>,
        s390x: Option<ArchSpecificConfiguration>,
    }

    ArchSpecificConfiguration {
        #[serde(default)]
        emulated_machines: Vec<String>,
        machine_type: Option<String>,
        ovmf_path: Option<String>,
    }

    LiveUpdateConfiguration {
        max_cpu_sockets: Option<u32>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        max_guest: Option<Quantity>,
        max_hotplug_ratio: Option<u32>,
    }

    KubeVirtStatus {
        #[serde(default)]
        conditions: Vec<KubeVirtCondition>,
        default_architecture: Option<String>,
        #[serde(default)]
        generations: Vec<Opaque>,
        observed_deployment_config: Option<String>,
        #[serde(rename = "observedDeploymentID")]
        observed_deployment_id: Option<String>,
        observed_generation: Option<i64>,
        observed_kube_virt_registry: Option<String>,
        observed_kube_virt_version: Option<String>,
        operator_version: Option<String>,
        outdated_virtual_machine_instance_workloads: Option<i32>,
        phase: Option<String>,
        #[serde(default)]
        synchronization_addresses: Vec<String>,
        target_deployment_config: Option<String>,
        #[serde(rename = "targetDeploymentID")]
        target_deployment_id: Option<String>,
        target_kube_virt_registry: Option<String>,
        target_kube_virt_version: Option<String>,
    }

    KubeVirtCondition {
        #[serde(default)]
        #[schemars(schema_with = "wire::time")]
        last_probe_time: Option<Time>,
        #[serde(default)]
        #[schemars(schema_with = "wire::time")]
        last_transition_time: Option<Time>,
        message: Option<String>,
        reason: Option<String>,
        status: String,
        r#type: String,
    }
}
