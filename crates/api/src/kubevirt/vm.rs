//! VirtualMachine and what belongs to it alone.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{DataVolumeSource, Disk, PersistentVolumeClaimVolumeSource, VirtualMachineInstanceSpec};
use crate::wire;
use crate::wire::Opaque;

crate::wire::wire! {
    VirtualMachineSpec {
        #[serde(default)]
        data_volume_templates: Vec<DataVolumeTemplateSpec>,
        instancetype: Option<InstancetypeMatcher>,
        preference: Option<PreferenceMatcher>,
        run_strategy: Option<String>,
        running: Option<bool>,
        template: VirtualMachineInstanceTemplateSpec,
        update_volumes_strategy: Option<String>,
    }

    DataVolumeTemplateSpec {
        api_version: Option<String>,
        kind: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        metadata: ObjectMeta,
        spec: Opaque,
        status: Option<Opaque>,
    }

    InstancetypeMatcher {
        infer_from_volume: Option<String>,
        infer_from_volume_failure_policy: Option<String>,
        kind: Option<String>,
        name: Option<String>,
        revision_name: Option<String>,
    }

    PreferenceMatcher {
        infer_from_volume: Option<String>,
        infer_from_volume_failure_policy: Option<String>,
        kind: Option<String>,
        name: Option<String>,
        revision_name: Option<String>,
    }

    VirtualMachineInstanceTemplateSpec {
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        metadata: ObjectMeta,
        #[serde(default)]
        spec: VirtualMachineInstanceSpec,
    }

    VirtualMachineStatus {
        changed_block_tracking: Option<Opaque>,
        #[serde(default)]
        conditions: Vec<VirtualMachineCondition>,
        created: Option<bool>,
        desired_generation: Option<i64>,
        instancetype_ref: Option<Opaque>,
        memory_dump_request: Option<Opaque>,
        observed_generation: Option<i64>,
        preference_ref: Option<Opaque>,
        printable_status: Option<String>,
        ready: Option<bool>,
        restore_in_progress: Option<String>,
        run_strategy: Option<String>,
        snapshot_in_progress: Option<String>,
        start_failure: Option<VirtualMachineStartFailure>,
        #[serde(default)]
        state_change_requests: Vec<VirtualMachineStateChangeRequest>,
        #[serde(default)]
        volume_requests: Vec<VirtualMachineVolumeRequest>,
        #[serde(default)]
        volume_snapshot_statuses: Vec<VolumeSnapshotStatus>,
        volume_update_state: Option<Opaque>,
    }

    VirtualMachineCondition {
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

    VirtualMachineStartFailure {
        consecutive_fail_count: Option<i32>,
        #[serde(rename = "lastFailedVMIUID")]
        last_failed_vmi_uid: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::time")]
        retry_after_timestamp: Option<Time>,
    }

    VirtualMachineStateChangeRequest {
        action: String,
        #[serde(default)]
        data: BTreeMap<String, String>,
        uid: Option<String>,
    }

    VirtualMachineVolumeRequest {
        add_volume_options: Option<AddVolumeOptions>,
        remove_volume_options: Option<RemoveVolumeOptions>,
    }

    AddVolumeOptions {
        disk: Disk,
        #[serde(default)]
        dry_run: Vec<String>,
        name: String,
        volume_source: HotplugVolumeSource,
    }

    HotplugVolumeSource {
        data_volume: Option<DataVolumeSource>,
        persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    }

    RemoveVolumeOptions {
        #[serde(default)]
        dry_run: Vec<String>,
        name: String,
    }

    VolumeSnapshotStatus {
        enabled: bool,
        name: String,
        reason: Option<String>,
    }
}
