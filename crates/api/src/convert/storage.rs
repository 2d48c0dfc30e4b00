//! Disks and the volumes behind them.

use base64::{Engine, engine::general_purpose::STANDARD};
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_model::{
    Bytes,
    machine::{Bus, Cache, Disk, DiskTarget, Payload, Source},
};
use k8s_openapi::{api::core::v1::LocalObjectReference, apimachinery::pkg::api::resource::Quantity};

use crate::{
    cause::{Path, Report},
    kubevirt::{self, Volume},
    validate::sources,
};

pub(super) fn disks(
    path: &Path,
    disks: &[kubevirt::Disk],
    volumes: &[Volume],
    report: &mut Report,
) -> Vec<Disk> {
    for (index, volume) in volumes.iter().enumerate() {
        if !disks.iter().any(|disk| disk.name == volume.name) {
            let path = path.child("volumes").index(index).child("name");
            report.invalid(&path, format!("{path} '{}': no disk uses this volume", volume.name));
        }
    }
    let list = path.child("domain.devices.disks");
    let convert = |(index, disk)| {
        let path = path.child("volumes");
        disk_of(&list.index(index), disk, &path, volumes, report)
    };
    disks.iter().enumerate().filter_map(convert).collect()
}

fn disk_of(
    path: &Path,
    disk: &kubevirt::Disk,
    volumes_path: &Path,
    volumes: &[Volume],
    report: &mut Report,
) -> Option<Disk> {
    let kubevirt::Disk {
        block_size: _,
        boot_order,
        cache,
        cdrom,
        changed_block_tracking: _,
        dedicated_io_thread: _,
        disk: hard_disk,
        error_policy: _,
        io: _,
        lun: _,
        name,
        serial,
        shareable: _,
        tag: _,
    } = disk;
    let (target, bus, read_only) = match (cdrom, hard_disk) {
        (Some(_), Some(_)) => {
            report.invalid(path, format!("{path} can only have a single target type defined"));
            return None;
        }
        (Some(kubevirt::CdromTarget { bus, readonly, tray: _ }), None) => {
            (DiskTarget::Cdrom, bus.as_deref(), readonly.unwrap_or(true))
        }
        (None, Some(kubevirt::DiskTarget { bus, pci_address: _, readonly })) => {
            (DiskTarget::Disk, bus.as_deref(), readonly.unwrap_or_default())
        }
        (None, None) => (DiskTarget::Disk, None, false),
    };
    let bus = match bus.unwrap_or_default() {
        "virtio" => Bus::Virtio,
        "sata" | "" => Bus::Sata,
        "scsi" => Bus::Scsi,
        "usb" => Bus::Usb,
        other => {
            report.invalid(path, format!("{path} is set with an unrecognized bus {other}"));
            return None;
        }
    };
    let cache = match cache.as_deref().unwrap_or_default() {
        "" => None,
        "none" => Some(Cache::None),
        "writethrough" => Some(Cache::Writethrough),
        "writeback" => Some(Cache::Writeback),
        other => {
            let path = path.child("cache");
            report.invalid(&path, format!("{path} has invalid value {other}"));
            return None;
        }
    };
    let Some((index, volume)) = volumes.iter().enumerate().find(|(_, volume)| volume.name == *name) else {
        let path = path.child("name");
        report.unsupported(
            &path,
            format!("not supported yet: a drive without a volume, {path} '{name}' has none"),
        );
        return None;
    };
    Some(Disk {
        name: name.clone(),
        target,
        bus,
        read_only,
        serial: serial.clone().filter(|serial| !serial.is_empty()),
        boot_order: *boot_order,
        cache,
        source: source(&volumes_path.index(index), volume, report)?,
    })
}

fn source(path: &Path, volume: &Volume, report: &mut Report) -> Option<Source> {
    let Volume {
        cloud_init_config_drive: _,
        cloud_init_no_cloud,
        config_map: _,
        container_disk,
        container_path: _,
        data_volume,
        downward_api: _,
        downward_metrics: _,
        empty_disk,
        ephemeral,
        host_disk,
        memory_dump: _,
        name: _,
        persistent_volume_claim,
        secret: _,
        service_account: _,
        sysprep: _,
    } = volume;
    // Which of several is meant is not ours to guess.
    if sources(volume) > 1 {
        report.invalid(path, format!("{path} must have exactly one source type set"));
        return None;
    }
    if let Some(source) = container_disk {
        let kubevirt::ContainerDiskSource { image, image_pull_policy: _, image_pull_secret: _, path: file } =
            source;
        if image.is_empty() {
            let path = path.child("containerDisk.image");
            report.required(&path, format!("{path} must name an image"));
        }
        return Some(Source::ContainerDisk {
            image: image.clone(),
            path: file.clone().filter(|file| !file.is_empty()),
        });
    }
    if let Some(kubevirt::HostDisk { capacity, path: file, shared: _, r#type }) = host_disk {
        let path = path.child("hostDisk.capacity");
        let capacity = capacity.as_ref().and_then(|capacity| bytes(&path, capacity, report));
        return Some(Source::HostDisk {
            path: file.clone(),
            create: capacity.filter(|capacity| r#type == "DiskOrCreate" && capacity.0 != 0),
        });
    }
    if let Some(kubevirt::EmptyDiskSource { capacity }) = empty_disk {
        let path = path.child("emptyDisk.capacity");
        let capacity = bytes(&path, capacity, report)?;
        if capacity.0 == 0 {
            report.invalid(&path, format!("{path} '0': must be greater than 0"));
        }
        return Some(Source::EmptyDisk { capacity });
    }
    if let Some(source) = persistent_volume_claim {
        let kubevirt::PersistentVolumeClaimVolumeSource { claim_name, hotpluggable: _, read_only } = source;
        return Some(claim(&path.child("persistentVolumeClaim"), claim_name, *read_only, false, report));
    }
    if let Some(kubevirt::DataVolumeSource { hotpluggable: _, name }) = data_volume {
        // The claim of a DataVolume has the DataVolume's name.
        return Some(claim(&path.child("dataVolume"), name, None, false, report));
    }
    if let Some(kubevirt::EphemeralVolumeSource { persistent_volume_claim }) = ephemeral {
        let path = path.child("ephemeral.persistentVolumeClaim");
        let (name, read_only) = persistent_volume_claim
            .as_ref()
            .map_or(("", None), |source| (source.claim_name.as_str(), source.read_only));
        return Some(claim(&path, name, read_only, true, report));
    }
    if let Some(source) = cloud_init_no_cloud {
        let kubevirt::CloudInitNoCloudSource {
            network_data,
            network_data_base64,
            network_data_secret_ref,
            secret_ref,
            user_data,
            user_data_base64,
        } = source;
        let path = path.child("cloudInitNoCloud");
        return Some(Source::CloudInit {
            user_data: payload(
                &path.child("userDataBase64"),
                user_data,
                user_data_base64,
                secret_ref,
                report,
            ),
            network_data: payload(
                &path.child("networkDataBase64"),
                network_data,
                network_data_base64,
                network_data_secret_ref,
                report,
            ),
        });
    }
    // Another source has been reported by `support`; none at all has not.
    if report.causes.is_empty() {
        report.invalid(path, format!("{path} must have exactly one source type set"));
    }
    None
}

fn claim(path: &Path, name: &str, read_only: Option<bool>, ephemeral: bool, report: &mut Report) -> Source {
    if name.is_empty() {
        report.required(path, format!("{path} must name a PersistentVolumeClaim"));
    }
    Source::Claim { claim: name.to_owned(), read_only: read_only.unwrap_or_default(), ephemeral }
}

fn payload(
    path: &Path,
    plain: &Option<String>,
    encoded: &Option<String>,
    secret: &Option<LocalObjectReference>,
    report: &mut Report,
) -> Option<Payload> {
    if let Some(reference) = secret.as_ref().filter(|reference| !reference.name.is_empty()) {
        return Some(Payload::Secret(reference.name.clone()));
    }
    if let Some(encoded) = encoded.as_deref().filter(|text| !text.is_empty()) {
        let decoded = STANDARD.decode(encoded);
        if decoded.is_err() {
            report.invalid(path, format!("{path} is not a valid base64 value."));
        }
        return decoded.ok().map(Payload::Inline);
    }
    plain.as_ref().filter(|text| !text.is_empty()).map(|text| Payload::Inline(text.clone().into_bytes()))
}

fn bytes(path: &Path, quantity: &Quantity, report: &mut Report) -> Option<Bytes> {
    Amount::parse(&quantity.0)
        .and_then(Amount::bytes)
        .map(Bytes)
        .map_err(|error| report.invalid(path, format!("{path} '{}': {error}", quantity.0)))
        .ok()
}
