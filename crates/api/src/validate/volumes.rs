//! Volumes: where the bytes of disks come from.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_qemu::rules;
use k8s_openapi::api::core::v1::LocalObjectReference;

use super::{Rules, text};
use crate::{
    cause::{Path, Reason},
    kubevirt::{HostDisk, Volume},
};

/// The most bytes of user or network data that an object may carry itself.
const CLOUD_INIT_MAX: usize = 2048;

/// The parts of the two cloud-init sources, which are equal in form.
struct CloudInit<'a> {
    kind: &'static str,
    user: [&'a Option<String>; 2],
    user_secret: &'a Option<LocalObjectReference>,
    network: [&'a Option<String>; 2],
    network_secret: &'a Option<LocalObjectReference>,
}

impl<'a> CloudInit<'a> {
    fn of(volume: &'a Volume) -> Option<Self> {
        if let Some(source) = &volume.cloud_init_no_cloud {
            Some(Self {
                kind: "cloudInitNoCloud",
                user: [&source.user_data, &source.user_data_base64],
                user_secret: &source.secret_ref,
                network: [&source.network_data, &source.network_data_base64],
                network_secret: &source.network_data_secret_ref,
            })
        } else {
            volume.cloud_init_config_drive.as_ref().map(|source| Self {
                kind: "cloudInitConfigDrive",
                user: [&source.user_data, &source.user_data_base64],
                user_secret: &source.secret_ref,
                network: [&source.network_data, &source.network_data_base64],
                network_secret: &source.network_data_secret_ref,
            })
        }
    }
}

/// How many sources a volume names.
pub(crate) fn sources(volume: &Volume) -> usize {
    let Volume {
        name: _,
        cloud_init_config_drive,
        cloud_init_no_cloud,
        config_map,
        container_disk,
        container_path,
        data_volume,
        downward_api,
        downward_metrics,
        empty_disk,
        ephemeral,
        host_disk,
        memory_dump,
        persistent_volume_claim,
        secret,
        service_account,
        sysprep,
    } = volume;
    [
        cloud_init_config_drive.is_some(),
        cloud_init_no_cloud.is_some(),
        config_map.is_some(),
        container_disk.is_some(),
        container_path.is_some(),
        data_volume.is_some(),
        downward_api.is_some(),
        downward_metrics.is_some(),
        empty_disk.is_some(),
        ephemeral.is_some(),
        host_disk.is_some(),
        memory_dump.is_some(),
        persistent_volume_claim.is_some(),
        secret.is_some(),
        service_account.is_some(),
        sysprep.is_some(),
    ]
    .into_iter()
    .filter(|given| *given)
    .count()
}

impl Rules<'_> {
    /// An instance's volumes are all used. The field lacks `devices`, as upstream has it.
    pub(super) fn volumes_have_disks(&mut self) {
        let devices = &self.spec.domain.devices;
        for (index, volume) in self.spec.volumes.iter().enumerate() {
            let used = devices.disks.iter().any(|disk| disk.name == volume.name)
                || devices.filesystems.iter().any(|filesystem| filesystem.name == volume.name);
            if !used && volume.memory_dump.is_none() {
                let path = self.domain("volumes").index(index).child("name");
                self.report.invalid(&path, format!("{path} '{}' not found.", volume.name));
            }
        }
    }

    pub(super) fn volumes(&mut self) {
        let list = self.path.child("volumes");
        let mut names = HashMap::new();
        for (index, volume) in self.spec.volumes.iter().enumerate() {
            let path = list.index(index);
            let first = *names.entry(&volume.name).or_insert(index);
            if first != index {
                let message = format!("{path} and {} must not have the same Name.", list.index(first));
                self.report.invalid(path.child("name"), message);
            }
            if volume.data_volume.as_ref().is_some_and(|source| source.name.is_empty()) {
                self.report.required(path.child("name"), "DataVolume 'name' must be set");
            }
            if sources(volume) != 1 {
                self.report.invalid(&path, format!("{path} must have exactly one source type set"));
            }
            if let Some(source) = CloudInit::of(volume) {
                self.cloud_init(&path, &source);
            }
            if volume.downward_metrics.is_some() && !self.config.gate("DownwardMetrics") {
                self.report.invalid(
                    &path,
                    "downwardMetrics disks are not allowed: DownwardMetrics feature gate is not enabled.",
                );
            }
            if let Some(host_disk) = &volume.host_disk {
                self.host_disk(&path, host_disk);
            }
            self.named_sources(&path, volume);
            if let Some(file) = volume.container_disk.as_ref().and_then(|source| source.path.as_deref()) {
                self.file_path(&path.child("containerDisk"), file);
            }
        }
        let count = |is: fn(&Volume) -> bool| self.spec.volumes.iter().filter(|volume| is(volume)).count();
        let several = [
            (count(|volume| volume.service_account.is_some()), "serviceAccount volume"),
            (count(|volume| volume.downward_metrics.is_some()), "downwardMetric volume"),
            (count(|volume| volume.memory_dump.is_some()), "memory dump volume"),
        ];
        for (count, what) in several {
            if count > 1 {
                self.report.invalid(&list, format!("{list} must have max one {what} set"));
            }
        }
        if !self.spec.utility_volumes.is_empty() {
            let path = self.path.child("utilityVolumes");
            self.report.invalid(&path, "cannot create VMI with utility volumes in spec, utility volumes can only be added via hotplug");
        }
    }

    fn cloud_init(&mut self, path: &Path, source: &CloudInit<'_>) {
        let path = path.child(source.kind);
        let user = self.payload(&path, source.kind, "userDataBase64", source.user, source.user_secret);
        if user.count > 1 {
            self.report.invalid(&path, format!("{path} must have only one userdatasource set."));
        }
        if user.length > CLOUD_INIT_MAX {
            let message = format!(
                "{path} userdata exceeds {CLOUD_INIT_MAX} byte limit. Should use UserDataSecretRef for larger data."
            );
            self.report.invalid(&path, message);
        }
        let network =
            self.payload(&path, source.kind, "networkDataBase64", source.network, source.network_secret);
        if network.count > 1 {
            self.report.invalid(&path, format!("{path} must have only one networkdata source set."));
        }
        if network.length > CLOUD_INIT_MAX {
            let message = format!(
                "{path} networkdata exceeds {CLOUD_INIT_MAX} byte limit. Should use NetworkDataSecretRef for larger data."
            );
            self.report.invalid(&path, message);
        }
        if user.count == 0 && network.count == 0 {
            let message =
                format!("{path} must have at least one userdatasource or one networkdatasource set.");
            self.report.invalid(&path, message);
        }
    }

    fn payload(
        &mut self,
        path: &Path,
        kind: &str,
        encoded_name: &str,
        [plain, encoded]: [&Option<String>; 2],
        secret: &Option<LocalObjectReference>,
    ) -> Payload {
        let mut payload = Payload { count: 0, length: 0 };
        if secret.as_ref().is_some_and(|reference| !reference.name.is_empty()) {
            payload.count += 1;
        }
        if let Some(encoded) = encoded.as_deref().filter(|text| !text.is_empty()) {
            payload.count += 1;
            match STANDARD.decode(encoded) {
                Ok(bytes) => payload.length = bytes.len(),
                Err(_) => {
                    let field = path.child(encoded_name);
                    // The doubled name is upstream's.
                    let message = format!("{field}.{kind}.{encoded_name} is not a valid base64 value.");
                    self.report.invalid(field, message);
                }
            }
        }
        if let Some(plain) = plain.as_deref().filter(|text| !text.is_empty()) {
            payload.count += 1;
            payload.length = plain.len();
        }
        payload
    }

    fn host_disk(&mut self, volume: &Path, disk: &HostDisk) {
        if !self.config.gate("HostDisk") {
            self.report.invalid(volume, "HostDisk feature gate is not enabled");
        }
        let path = volume.child("hostDisk");
        let file = path.child("path");
        if disk.path.is_empty() {
            let message = format!("{file} is required for hostDisk volume");
            self.report.add(Reason::FieldValueNotFound, file, message);
        } else {
            // Not an upstream rule: a relative path or `..` would leave the directory that is mounted.
            self.file_path(&file, &disk.path);
        }
        let kind = path.child("type");
        if disk.r#type != "Disk" && disk.r#type != "DiskOrCreate" {
            let message =
                format!("{kind} has invalid value '{}', allowed are 'Disk' or 'DiskOrCreate'", disk.r#type);
            self.report.invalid(&kind, message);
        }
        let capacity = disk.capacity.as_ref().and_then(|quantity| Amount::parse(&quantity.0).ok());
        let some_capacity = capacity.is_some_and(|amount| !amount.is_zero());
        if disk.r#type == "Disk" && some_capacity {
            let path = path.child("capacity");
            let message = format!("{path} is allowed to pass only with {kind} equal to 'DiskOrCreate'");
            self.report.invalid(&path, message);
        }
    }

    fn named_sources(&mut self, path: &Path, volume: &Volume) {
        let names = [
            (volume.config_map.as_ref().map(|source| &source.name), "configMap.name"),
            (volume.secret.as_ref().map(|source| &source.secret_name), "secret.secretName"),
            (
                volume.service_account.as_ref().map(|source| &source.service_account_name),
                "serviceAccount.serviceAccountName",
            ),
        ];
        for (name, field) in names {
            if name.is_some_and(|name| name.as_deref().unwrap_or_default().is_empty()) {
                let path = path.child(field);
                self.report.invalid(&path, format!("{path} is a required field"));
            }
        }
    }

    /// A path that names a file below the root and has no relative parts.
    pub(super) fn file_path(&mut self, field: &Path, path: &str) {
        if path.is_empty() {
            return;
        }
        if path == "/" {
            self.report.invalid(field, format!("{field} must not point to root"));
        } else if !text::is_clean_path(path) {
            let message = format!("{field} must be an absolute path to a file without relative components");
            self.report.invalid(field, message);
        } else if let Err(rule) = rules::file(path) {
            self.report.invalid(field, format!("{field} {rule}"));
        }
    }
}

/// How often, and with how many bytes, one kind of data is given.
struct Payload {
    count: usize,
    length: usize,
}
