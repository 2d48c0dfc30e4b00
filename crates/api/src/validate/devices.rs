//! Devices that have rules or feature gates of their own.

use super::Rules;
use crate::{
    cause::Reason,
    kubevirt::{LaunchSecurity, Volume},
};

fn is_claim(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.data_volume.is_some()
}

impl Rules<'_> {
    pub(super) fn inputs(&mut self) {
        for (index, input) in self.spec.domain.devices.inputs.iter().enumerate() {
            let path = self.domain("devices.inputs").index(index);
            if !["virtio", "usb", ""].contains(&input.bus.as_deref().unwrap_or_default()) {
                self.report.invalid(path.child("bus"), "Input device can have only virtio or usb bus.");
            }
            if input.r#type != "tablet" {
                self.report.invalid(path.child("type"), "Input device can have only tablet type.");
            }
        }
    }

    pub(super) fn io_threads(&mut self) {
        let Some(policy) = &self.spec.domain.io_threads_policy else { return };
        if !["shared", "auto", "supplementalPool"].contains(&policy.as_str()) {
            self.report
                .invalid(self.domain("ioThreadsPolicy"), format!("Invalid IOThreadsPolicy ({policy})"));
        }
        let threads =
            self.spec.domain.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
        if policy == "supplementalPool" && threads.unwrap_or_default() < 1 {
            self.report.invalid(
                self.domain("ioThreads.count"),
                "the number of iothreads needs to be set and positive for the dedicated policy",
            );
        }
    }

    pub(super) fn gated_devices(&mut self) {
        let domain = &self.spec.domain;
        let devices = &domain.devices;
        if !devices.host_devices.is_empty() && !self.config.gate("HostDevices") {
            self.report.invalid(
                self.path.child("HostDevices"),
                "Host Devices feature gate is not enabled in kubevirt-config",
            );
        }
        if let Some(sound) = &devices.sound {
            if !["", "ich9", "ac97"].contains(&sound.model.as_deref().unwrap_or_default()) {
                self.report.invalid(
                    self.path.child("Sound"),
                    "Sound device type is not supported. Options: 'ich9' or 'ac97'",
                );
            }
            if sound.name.is_empty() {
                self.report.invalid(self.path.child("Sound"), "Sound device requires a name field.");
            }
        }
        if let Some(security) = &domain.launch_security {
            self.launch_security(security);
        }
        if devices.autoattach_vsock == Some(true) && !self.config.gate("VSOCK") {
            self.report.invalid(
                self.domain("devices.autoattachVSOCK"),
                "VSOCK feature gate is not enabled in kubevirt-config",
            );
        }
        let reserves =
            |disk: &crate::kubevirt::Disk| disk.lun.as_ref().is_some_and(|lun| lun.reservation == Some(true));
        if devices.disks.iter().any(reserves) && !self.config.gate("PersistentReservation") {
            self.report.invalid(
                self.domain("devices.disks.luns.reservation"),
                "persistent reservation is not enabled in kubevirt config",
            );
        }
        if devices.downward_metrics.is_some() && !self.config.gate("DownwardMetrics") {
            self.report.invalid(
                self.domain("devices.downwardMetrics"),
                "downwardMetrics virtio serial is not allowed: DownwardMetrics feature gate is not enabled",
            );
        }
        for filesystem in &devices.filesystems {
            let volume = self.spec.volumes.iter().rev().find(|volume| volume.name == filesystem.name);
            if volume.is_some_and(is_claim) && !self.config.gate("EnableVirtioFsStorageVolumes") {
                self.report.invalid(
                    self.domain("devices.filesystems"),
                    "virtiofs is not allowed: virtiofs feature gate is not enabled for PVC",
                );
            }
        }
        if devices.video.is_some() && devices.autoattach_graphics_device == Some(false) {
            self.report.invalid(
                self.path.child("video"),
                "Video configuration is not allowed when autoattachGraphicsDevice is set to false",
            );
        }
        for (index, device) in devices.panic_devices.iter().enumerate() {
            let Some(model) = device.model.as_deref() else { continue };
            if !["hyperv", "isa", "pvpanic"].contains(&model) {
                let path = self.domain("devices.panicDevices").index(index).child("model");
                self.report.invalid(path, format!("invalid PanicDeviceModel({model})"));
            }
        }
        if domain.reboot_policy.is_some() && !self.config.gate("RebootPolicy") {
            self.report.invalid(
                self.domain("rebootPolicy"),
                "RebootPolicy is specified but the RebootPolicy feature gate is not enabled",
            );
        }
        let reserved = domain.memory.as_ref().is_some_and(|memory| memory.reserved_overhead.is_some());
        if reserved && !self.config.gate("ReservedOverheadMemlock") {
            self.report.invalid(
                self.domain("memory.reservedOverhead"),
                "Reserved overhead memlock feature gate is not enabled in kubevirt-config",
            );
        }
    }

    /// The field lacks `domain`, as upstream has it.
    fn launch_security(&mut self, security: &LaunchSecurity) {
        let field = self.path.child("launchSecurity");
        let kinds = [
            ("SEV", security.sev.is_some(), "WorkloadEncryptionSEV"),
            ("SNP", security.snp.is_some(), "WorkloadEncryptionSEV"),
            ("TDX", security.tdx.is_some(), "WorkloadEncryptionTDX"),
        ];
        let mut given = kinds.into_iter().filter(|(_, given, _)| *given);
        let (Some((kind, _, gate)), None) = (given.next(), given.next()) else {
            self.report.add(
                Reason::FieldValueForbidden,
                field,
                "One and only one launchSecurity type can be set",
            );
            return;
        };
        if !self.config.gate(gate) {
            self.report.invalid(field, format!("{gate} feature gate is not enabled in kubevirt-config"));
            return;
        }
        let domain = &self.spec.domain;
        let smm = domain.features.as_ref().and_then(|features| features.smm.as_ref());
        if kind == "TDX" && smm.is_some_and(|smm| smm.enabled != Some(false)) {
            self.report.invalid(&field, "TDX does not work along with SMM");
        }
        let loader = domain.firmware.as_ref().and_then(|firmware| firmware.bootloader.as_ref());
        match loader.and_then(|loader| loader.efi.as_ref()) {
            None => self.report.invalid(&field, format!("{kind} requires OVMF (UEFI)")),
            Some(efi) => {
                if kind != "TDX" && efi.secure_boot != Some(false) {
                    self.report.invalid(&field, format!("{kind} does not work along with SecureBoot"));
                }
                if kind != "SEV" && efi.persistent == Some(true) {
                    let message = format!("{kind} does not work along with Persistent EFI variables");
                    self.report.invalid(&field, message);
                }
            }
        }
        let attestation = security.sev.as_ref().is_some_and(|sev| sev.attestation.is_some());
        if attestation && self.spec.start_strategy.as_deref() != Some("Paused") {
            self.report.invalid(&field, "SEV attestation requires VMI StartStrategy 'Paused'");
        }
        for interface in domain.devices.interfaces.iter().filter(|interface| interface.boot_order.is_some()) {
            let message = format!("{kind} does not work with bootable NICs: {}", interface.name);
            self.report.invalid(&field, message);
        }
    }
}
