//! Boot loader, direct kernel boot, ACPI tables.

use super::Rules;
use crate::{
    cause::Path,
    kubevirt::{Firmware, KernelBoot},
};

impl Rules<'_> {
    pub(super) fn firmware(&mut self) {
        let path = self.domain("firmware");
        let Some(firmware) = &self.spec.domain.firmware else { return };
        self.acpi_tables(firmware);
        let bootloader = firmware.bootloader.as_ref();
        if bootloader.is_some_and(|loader| loader.efi.is_some() && loader.bios.is_some()) {
            let path = path.child("bootloader");
            let message =
                format!("{path} has both EFI and BIOS configured, but they are mutually exclusive.");
            self.report.invalid(&path, message);
        }
        if let Some(kernel_boot) = &firmware.kernel_boot {
            self.kernel_boot(&path.child("kernelBoot"), kernel_boot);
        }
        let efi = bootloader.and_then(|loader| loader.efi.as_ref());
        let secure = efi.is_some_and(|efi| efi.secure_boot != Some(false));
        let features = self.spec.domain.features.as_ref();
        let smm =
            features.and_then(|features| features.smm.as_ref()).is_some_and(|smm| smm.enabled != Some(false));
        let tdx = self.spec.domain.launch_security.as_ref().is_some_and(|security| security.tdx.is_some());
        if secure && !smm && !tdx {
            let path = self.path.child("domain");
            let message = format!(
                "{path} has EFI SecureBoot enabled. SecureBoot requires SMM, which is currently disabled."
            );
            self.report.invalid(&path, message);
        }
    }

    fn kernel_boot(&mut self, path: &Path, boot: &KernelBoot) {
        let args = boot.kernel_args.as_deref().unwrap_or_default();
        let Some(container) = &boot.container else {
            if !args.is_empty() {
                self.report.invalid(
                    path.child("kernelArgs"),
                    "kernel arguments cannot be provided without an external kernel",
                );
            }
            return;
        };
        let path = path.child("container");
        let kernel = container.kernel_path.as_deref().unwrap_or_default();
        let initrd = container.initrd_path.as_deref().unwrap_or_default();
        if container.image.is_empty() {
            self.report.required(path.child("image"), format!("{path} must be defined with an image"));
        }
        if kernel.is_empty() && initrd.is_empty() {
            let message =
                format!("{path} must be defined with at least one of the following: kernelPath, initrdPath");
            self.report.required(&path, message);
        }
        self.file_path(&path.child("kernelPath"), kernel);
        self.file_path(&path.child("initrdPath"), initrd);
    }

    /// The field lacks its parents, as upstream has it.
    fn acpi_tables(&mut self, firmware: &Firmware) {
        let Some(acpi) = &firmware.acpi else { return };
        let path = self.path.child("acpi");
        let tables = [("slicNameRef", &acpi.slic_name_ref), ("msdmNameRef", &acpi.msdm_name_ref)];
        let given = |name: &Option<String>| !name.as_deref().unwrap_or_default().is_empty();
        if !tables.iter().any(|(_, name)| given(name)) {
            self.report.invalid(path, "ACPI was set but no SLIC nor MSDM volume reference was set");
            return;
        }
        for (field, name) in tables {
            let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let problem = match self.spec.volumes.iter().find(|volume| volume.name == name) {
                Some(volume) if volume.secret.is_some() => continue,
                Some(_) => "refers to Volume of unsupported type.",
                None => "does not have a matching Volume.",
            };
            self.report.invalid(path.child(field), format!("{path} {problem}"));
        }
    }
}
