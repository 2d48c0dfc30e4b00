//! Volumes: where the bytes of disks come from.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, LocalObjectReference};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::wire;

crate::wire::wire! {
    Volume {
        cloud_init_config_drive: Option<CloudInitConfigDriveSource>,
        cloud_init_no_cloud: Option<CloudInitNoCloudSource>,
        config_map: Option<ConfigMapVolumeSource>,
        container_disk: Option<ContainerDiskSource>,
        container_path: Option<ContainerPathVolumeSource>,
        data_volume: Option<DataVolumeSource>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<DownwardApiVolumeSource>,
        downward_metrics: Option<DownwardMetricsVolumeSource>,
        empty_disk: Option<EmptyDiskSource>,
        ephemeral: Option<EphemeralVolumeSource>,
        host_disk: Option<HostDisk>,
        memory_dump: Option<MemoryDumpVolumeSource>,
        name: String,
        persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
        secret: Option<SecretVolumeSource>,
        service_account: Option<ServiceAccountVolumeSource>,
        sysprep: Option<SysprepSource>,
    }

    CloudInitNoCloudSource {
        network_data: Option<String>,
        network_data_base64: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        network_data_secret_ref: Option<LocalObjectReference>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        secret_ref: Option<LocalObjectReference>,
        user_data: Option<String>,
        user_data_base64: Option<String>,
    }

    CloudInitConfigDriveSource {
        network_data: Option<String>,
        network_data_base64: Option<String>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        network_data_secret_ref: Option<LocalObjectReference>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        secret_ref: Option<LocalObjectReference>,
        user_data: Option<String>,
        user_data_base64: Option<String>,
    }

    ConfigMapVolumeSource {
        name: Option<String>,
        optional: Option<bool>,
        volume_label: Option<String>,
    }

    ContainerDiskSource {
        image: String,
        image_pull_policy: Option<String>,
        image_pull_secret: Option<String>,
        path: Option<String>,
    }

    ContainerPathVolumeSource {
        path: String,
        read_only: Option<bool>,
    }

    DataVolumeSource {
        hotpluggable: Option<bool>,
        name: String,
    }

    DownwardApiVolumeSource {
        #[serde(default)]
        #[schemars(schema_with = "wire::object_list")]
        fields: Vec<DownwardAPIVolumeFile>,
        volume_label: Option<String>,
    }

    DownwardMetricsVolumeSource {}

    EmptyDiskSource {
        #[schemars(schema_with = "wire::quantity")]
        capacity: Quantity,
    }

    EphemeralVolumeSource {
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        persistent_volume_claim: Option<k8s_openapi::api::core::v1::PersistentVolumeClaimVolumeSource>,
    }

    HostDisk {
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        capacity: Option<Quantity>,
        path: String,
        shared: Option<bool>,
        r#type: String,
    }

    MemoryDumpVolumeSource {
        claim_name: String,
        hotpluggable: Option<bool>,
        read_only: Option<bool>,
    }

    PersistentVolumeClaimVolumeSource {
        claim_name: String,
        hotpluggable: Option<bool>,
        read_only: Option<bool>,
    }

    SecretVolumeSource {
        optional: Option<bool>,
        secret_name: Option<String>,
        volume_label: Option<String>,
    }

    ServiceAccountVolumeSource {
        service_account_name: Option<String>,
    }

    SysprepSource {
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        config_map: Option<LocalObjectReference>,
        #[serde(default)]
        #[schemars(schema_with = "wire::object")]
        secret: Option<LocalObjectReference>,
    }
}
