//! Disks as the guest sees them.

use std::collections::HashSet;

use ferrovirt_kubernetes::names;

use super::{Rules, text};
use crate::{
    cause::{Path, Reason},
    kubevirt::{CustomBlockSize, Disk},
};

/// The word for the target of a disk and its bus; empty words when there is none.
fn target(disk: &Disk) -> (&'static str, &str) {
    let (name, bus) = if let Some(target) = &disk.disk {
        ("disk", &target.bus)
    } else if let Some(target) = &disk.lun {
        ("lun", &target.bus)
    } else if let Some(target) = &disk.cdrom {
        ("cdrom", &target.bus)
    } else {
        return ("", "");
    };
    (name, bus.as_deref().unwrap_or_default())
}

impl Rules<'_> {
    fn disk_path(&self, index: usize) -> Path {
        self.domain("devices.disks").index(index)
    }

    /// Upstream appends the path of disks to itself in a few places; clients match on the result.
    fn doubled(&self, list: &str, index: usize) -> Path {
        self.domain("devices.disks").child("domain.devices").child(list).index(index)
    }

    /// Disks and the volumes behind them, and the boot order of disks and interfaces.
    pub(super) fn disk_volumes_and_boot_order(&mut self) {
        let mut orders = HashSet::new();
        for (index, disk) in self.spec.domain.devices.disks.iter().enumerate() {
            let path = self.disk_path(index);
            let volume = self.spec.volumes.iter().rev().find(|volume| volume.name == disk.name);
            match volume {
                None if disk.cdrom.is_none() => {
                    let message = format!("{path}.Name '{}' not found.", disk.name);
                    self.report.invalid(path.child("name"), message);
                }
                None if !self.config.gate("DeclarativeHotplugVolumes") => self.report.invalid(
                    path.child("name"),
                    "DeclarativeHotplugVolumes feature gate not enabled, cannot define an empty CD-ROM disk",
                ),
                _ => {}
            }
            let claim = |volume: &crate::kubevirt::Volume| {
                volume.persistent_volume_claim.is_some() || volume.data_volume.is_some()
            };
            if disk.lun.is_some() && volume.is_some_and(|volume| !claim(volume)) {
                let path = path.child("lun");
                let message =
                    format!("{path} can only be mapped to a DataVolume or PersistentVolumeClaim volume.");
                self.report.invalid(&path, message);
            }
            if volume.is_some_and(|volume| volume.downward_metrics.is_some()) {
                let (name, bus) = target(disk);
                if name != "disk" {
                    let path = path.child("disk");
                    let message = format!(
                        "DownwardMetrics volume must be mapped to a disk, but disk is not set on {path}."
                    );
                    self.report.required(&path, message);
                } else if !["", "virtio"].contains(&bus) {
                    let path = path.child("disk.bus");
                    let message = format!(
                        "DownwardMetrics volume must be mapped to virtio bus, but {path} is set to {bus}"
                    );
                    self.report.invalid(&path, message);
                }
            }
            if let Some(order) = disk.boot_order
                && !orders.insert(order)
            {
                let path = path.child("bootOrder");
                self.report
                    .invalid(&path, format!("Boot order for {path} already set for a different device."));
            }
        }
        for (index, interface) in self.spec.domain.devices.interfaces.iter().enumerate() {
            let Some(order) = interface.boot_order else { continue };
            if order < 1 {
                let path = self.path.index(index);
                let message = format!("{path} must have a boot order > 0, if supplied");
                self.report.invalid(path.child("bootOrder"), message);
            } else if !orders.insert(order) {
                let path = self.domain("devices.interfaces").index(index).child("bootOrder");
                self.report
                    .invalid(&path, format!("Boot order for {path} already set for a different device."));
            }
        }
    }

    pub(super) fn disks(&mut self) {
        let disks = &self.spec.domain.devices.disks;
        for (index, disk) in disks.iter().enumerate() {
            let path = self.disk_path(index);
            for (other, earlier) in disks.iter().enumerate().take(index) {
                if earlier.name == disk.name {
                    let message =
                        format!("{path} and {} must not have the same Name.", self.disk_path(other));
                    self.report.invalid(path.child("name"), message);
                }
            }
            let targets = [disk.disk.is_some(), disk.lun.is_some(), disk.cdrom.is_some()];
            if targets.into_iter().filter(|given| *given).count() > 1 {
                self.report.invalid(&path, format!("{path} can only have a single target type defined"));
            }
            self.disk_pci_address(index, disk);
            if disk.boot_order == Some(0) {
                let message = format!("{path} must have a boot order > 0, if supplied");
                self.report.invalid(path.child("bootOrder"), message);
            }
            self.disk_bus(index, disk);
            self.disk_options(&path, index, disk);
            for error in names::label_errors(&disk.name) {
                let path = self.doubled("disks", index).child("name");
                self.report.invalid(path, error);
            }
            self.block_size(&path.child("blockSize"), disk);
        }
    }

    fn disk_pci_address(&mut self, index: usize, disk: &Disk) {
        let Some(target) = &disk.disk else { return };
        let address = target.pci_address.as_deref().unwrap_or_default();
        if address.is_empty() {
            return;
        }
        let path = self.doubled("disks.disk", index);
        let name = path.child("name");
        if target.bus.as_deref() != Some("virtio") {
            let message =
                format!("disk {name} - setting a PCI address is only possible with bus type virtio.");
            self.report.invalid(path.child("pciAddress"), message);
        }
        if !text::is_pci_address(address) {
            let message = format!("disk {name} has malformed PCI address ({address}).");
            self.report.invalid(path.child("pciAddress"), message);
        }
    }

    fn disk_bus(&mut self, index: usize, disk: &Disk) {
        let path = self.disk_path(index);
        let (name, bus) = target(disk);
        if bus.is_empty() {
            return;
        }
        let field = path.child(name).child("bus");
        match bus {
            "ide" => self.report.invalid(field, "IDE bus is not supported"),
            "virtio" if name == "cdrom" => {
                self.report.invalid(field, "Bus type virtio is invalid for CD-ROM device");
            }
            "sata" if disk.disk.as_ref().is_some_and(|target| target.readonly == Some(true)) => {
                self.report.invalid(field, "sata hard-disks do not support read-only.");
            }
            "virtio" | "sata" | "scsi" | "usb" => {}
            _ => {
                let message = format!(
                    "{path} is set with an unrecognized bus {bus}, must be one of: [virtio scsi sata usb]"
                );
                self.report.invalid(field, message);
            }
        }
        if disk.dedicated_io_thread == Some(true) && bus != "virtio" {
            let path = self.doubled("disks", index);
            self.report.unsupported(path, format!("IOThreads are not supported for disks on a {bus} bus"));
        }
    }

    fn disk_options(&mut self, path: &Path, index: usize, disk: &Disk) {
        let serial = disk.serial.as_deref().unwrap_or_default();
        let charset = |b: u8| b.is_ascii_alphanumeric() || b"_.+-".contains(&b);
        if !serial.bytes().all(charset) {
            let message =
                format!("{path} must be made up of the following characters [A-Za-z0-9_.+-], if specified");
            self.report.invalid(path.child("serial"), message);
        }
        if serial.chars().count() > 256 {
            let message = format!("{path} must be less than or equal to 256 in length, if specified");
            self.report.invalid(path.child("serial"), message);
        }
        let cache = disk.cache.as_deref().unwrap_or_default();
        if !["", "none", "writethrough", "writeback"].contains(&cache) {
            let path = path.child("cache");
            self.report.invalid(&path, format!("{path} has invalid value {cache}"));
        }
        if !["", "native", "threads"].contains(&disk.io.as_deref().unwrap_or_default()) {
            let message = format!(
                "Disk IO mode for {} is not supported. Supported modes are: native, threads.",
                self.domain("devices.disks")
            );
            let path = self.doubled("disks", index).child("io");
            self.report.unsupported(path, message);
        }
        let policy = disk.error_policy.as_deref().unwrap_or("stop");
        if !["stop", "ignore", "report", "enospace"].contains(&policy) {
            let path = path.child("errorPolicy");
            self.report.invalid(&path, format!("{path} has invalid value \"{policy}\""));
        }
    }

    fn block_size(&mut self, path: &Path, disk: &Disk) {
        let Some(size) = &disk.block_size else { return };
        let Some(custom) = &size.custom else { return };
        if size.match_volume.as_ref().is_some_and(|state| state.enabled != Some(false)) {
            self.report.invalid(path, "Block size matching can't be enabled together with a custom value");
            return;
        }
        let path = path.child("custom");
        let CustomBlockSize { discard_granularity, logical, physical } = custom;
        let (logical, physical) = (logical.unwrap_or_default(), physical.unwrap_or_default());
        if logical > physical {
            let message = format!(
                "Logical size {logical} must be the same or less than the physical size of {physical}"
            );
            self.report.invalid(path.child("logical"), message);
        } else if target(disk).1 == "sata" && logical != 512 {
            let message = format!("Logical size {logical} must be 512 for SATA devices");
            self.report.invalid(path.child("logical"), message);
        } else if let Some(discard) = discard_granularity
            && discard.checked_rem(logical).is_some_and(|rest| rest != 0)
        {
            let message =
                format!("Discard granularity {discard} must be multiples of logical size {logical}");
            self.report.invalid(path.child("discardGranularity"), message);
        } else {
            for (name, size) in [("logical", logical), ("physical", physical)] {
                let message = if size < 512 {
                    format!("Provided size of {size} is less than the supported minimum size of 512")
                } else if size > 2_097_152 {
                    format!("Provided size of {size} is greater than the supported maximum size of 2097152")
                } else if !size.is_power_of_two() {
                    format!("Provided size of {size} is not a power of 2")
                } else {
                    continue;
                };
                self.report.add(Reason::FieldValueInvalid, path.child(name), message);
            }
        }
    }
}
