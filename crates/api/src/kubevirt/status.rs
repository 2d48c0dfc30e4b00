//! VirtualMachineInstance: status.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Machine;
use crate::wire;
use crate::wire::Opaque;

crate::wire::wire! {
    VirtualMachineInstanceStatus {
        #[serde(rename = "VSOCKCID")]
        vsock_cid: Option<u32>,
        #[serde(default)]
        active_pods: BTreeMap<String, String>,
        changed_block_tracking: Option<Opaque>,
        #[serde(default)]
        conditions: Vec<VirtualMachineInstanceCondition>,
        #[serde(rename = "currentCPUTopology")]
        current_cpu_topology: Option<CpuTopology>,
        evacuation_node_name: Option<String>,
        fs_freeze_status: Option<String>,
        #[serde(rename = "guestOSInfo")]
        guest_os_info: Option<VirtualMachineInstanceGuestOsInfo>,
        #[serde(default)]
        interfaces: Vec<VirtualMachineInstanceNetworkInterface>,
        kernel_boot_status: Option<KernelBootStatus>,
        launcher_container_image_version: Option<String>,
        /// What the controller has written down of the launcher pod that it made. Not an upstream field.
        launcher_pod: Option<LauncherPodRecord>,
        machine: Option<Machine>,
        memory: Option<MemoryStatus>,
        #[serde(default)]
        migrated_volumes: Vec<Opaque>,
        migration_method: Option<String>,
        migration_state: Option<Opaque>,
        migration_transport: Option<String>,
        node_name: Option<String>,
        phase: Option<String>,
        #[serde(default)]
        phase_transition_timestamps: Vec<VirtualMachineInstancePhaseTransitionTimestamp>,
        qos_class: Option<String>,
        reason: Option<String>,
        runtime_user: Option<i64>,
        selinux_context: Option<String>,
        /// MCS level that is this instance's alone while it exists, such as `s0:c12,c345`. Not an upstream field.
        selinux_level: Option<String>,
        topology_hints: Option<TopologyHints>,
        virtual_machine_revision_name: Option<String>,
        #[serde(default)]
        volume_status: Vec<VolumeStatus>,
    }

    VirtualMachineInstanceCondition {
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

    LauncherPodRecord {
        /// Digest of the pod that has this UID, and how it was made, such as `sha256-v1:` with 64 hexadecimal digits.
        digest: String,
        /// UID of the pod.
        uid: String,
    }

    CpuTopology {
        cores: Option<u32>,
        sockets: Option<u32>,
        threads: Option<u32>,
    }

    VirtualMachineInstanceGuestOsInfo {
        id: Option<String>,
        kernel_release: Option<String>,
        kernel_version: Option<String>,
        machine: Option<String>,
        name: Option<String>,
        pretty_name: Option<String>,
        version: Option<String>,
        version_id: Option<String>,
    }

    VirtualMachineInstanceNetworkInterface {
        info_source: Option<String>,
        interface_name: Option<String>,
        ip_address: Option<String>,
        #[serde(default)]
        ip_addresses: Vec<String>,
        link_state: Option<String>,
        mac: Option<String>,
        name: Option<String>,
        pod_interface_name: Option<String>,
        queue_count: Option<i32>,
    }

    KernelBootStatus {
        initrd_info: Option<InitrdInfo>,
        kernel_info: Option<KernelInfo>,
    }

    InitrdInfo {
        checksum: Option<u32>,
    }

    KernelInfo {
        checksum: Option<u32>,
    }

    MemoryStatus {
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        guest_at_boot: Option<Quantity>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        guest_current: Option<Quantity>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        guest_requested: Option<Quantity>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        memory_overhead: Option<Quantity>,
    }

    VirtualMachineInstancePhaseTransitionTimestamp {
        phase: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::time")]
        phase_transition_timestamp: Option<Time>,
    }

    TopologyHints {
        tsc_frequency: Option<i64>,
    }

    VolumeStatus {
        container_disk_volume: Option<ContainerDiskInfo>,
        hotplug_volume: Option<HotplugVolumeStatus>,
        memory_dump_volume: Option<DomainMemoryDumpInfo>,
        message: Option<String>,
        name: String,
        persistent_volume_claim_info: Option<PersistentVolumeClaimInfo>,
        phase: Option<String>,
        reason: Option<String>,
        size: Option<i64>,
        target: String,
    }

    PersistentVolumeClaimInfo {
        #[serde(default)]
        access_modes: Vec<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity_map")]
        capacity: BTreeMap<String, Quantity>,
        claim_name: Option<String>,
        filesystem_overhead: Option<String>,
        preallocated: Option<bool>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity_map")]
        requests: BTreeMap<String, Quantity>,
        volume_mode: Option<String>,
    }

    ContainerDiskInfo {
        checksum: Option<u32>,
    }

    HotplugVolumeStatus {
        attach_pod_name: Option<String>,
        #[serde(rename = "attachPodUID")]
        attach_pod_uid: Option<String>,
    }

    DomainMemoryDumpInfo {
        claim_name: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::time")]
        end_timestamp: Option<Time>,
        #[serde(default)]
        #[schemars(schema_with = "wire::time")]
        start_timestamp: Option<Time>,
        target_file_name: Option<String>,
    }
}
