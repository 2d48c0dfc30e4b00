//! Firmware and boot.

crate::wire::wire! {
    Firmware {
        acpi: Option<Acpi>,
        bootloader: Option<Bootloader>,
        kernel_boot: Option<KernelBoot>,
        serial: Option<String>,
        uuid: Option<String>,
    }

    Acpi {
        msdm_name_ref: Option<String>,
        slic_name_ref: Option<String>,
    }

    Bootloader {
        bios: Option<Bios>,
        efi: Option<Efi>,
    }

    Bios {
        use_serial: Option<bool>,
    }

    Efi {
        persistent: Option<bool>,
        secure_boot: Option<bool>,
    }

    KernelBoot {
        container: Option<KernelBootContainer>,
        kernel_args: Option<String>,
    }

    KernelBootContainer {
        image: String,
        image_pull_policy: Option<String>,
        image_pull_secret: Option<String>,
        initrd_path: Option<String>,
        kernel_path: Option<String>,
    }
}
