//! What upstream does not ask of a machine, and its launcher does: the rules of a command line ([`ferrovirt_qemu::rules`])
//! for every value that becomes part of one, and names that are names wherever another object is named.

use ferrovirt_kubernetes::names;
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_qemu::{
    command::has_places,
    order::Bus,
    rules::{self, Broken},
};

use super::Rules;
use crate::{
    cause::Path,
    kubevirt::{Disk, Volume},
};

/// Names under which the launcher's pod has volumes of its own. A pod with two volumes of one name is refused by the API server,
/// after the machine was accepted: it would wait for ever. `crates/plan` compares the list with the privilege table.
const OWN_VOLUMES: [&str; 8] = [
    "ephemeral-disks",
    "hugepages",
    "image-helper",
    "image-sockets",
    "kernel-boot-volume",
    "private",
    "public",
    "sockets",
];
/// What follows a seed's name in the names of the volumes that its secrets become.
const SEED_SUFFIXES: [&str; 2] = ["-udata", "-ndata"];
/// The longest name of a volume of a pod (RFC 1123 label).
const MAX_VOLUME_NAME: usize = 63;

impl Rules<'_> {
    /// Volumes that become volumes of the pod have names that the pod does not have already.
    pub(super) fn pod_volume_names(&mut self) {
        let volumes = &self.spec.volumes;
        for (index, volume) in volumes.iter().enumerate().filter(|(_, volume)| is_in_the_pod(volume)) {
            let path = self.path.child("volumes").index(index).child("name");
            let name = volume.name.as_str();
            if OWN_VOLUMES.contains(&name) {
                let message =
                    format!("{path} '{name}' is a volume of the launcher's own: choose another name");
                self.report.invalid(&path, message);
            }
            let seed = SEED_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            let seed =
                seed.filter(|seed| volumes.iter().any(|other| other.name == *seed && has_secrets(other)));
            if let Some(seed) = seed {
                let message = format!(
                    "{path} '{name}' is what the secret of volume '{seed}' is called in the launcher's pod: choose another \
                     name"
                );
                self.report.invalid(&path, message);
            }
        }
        for (index, volume) in volumes.iter().enumerate().filter(|(_, volume)| has_secrets(volume)) {
            let longest =
                SEED_SUFFIXES.iter().map(|suffix| volume.name.len().saturating_add(suffix.len())).max();
            if longest > Some(MAX_VOLUME_NAME) {
                let path = self.path.child("volumes").index(index).child("name");
                let message = format!(
                    "{path} is too long: volumes of the launcher's pod are called by it and '-udata' or '-ndata', with \
                     {MAX_VOLUME_NAME} characters at the most"
                );
                self.report.invalid(&path, message);
            }
        }
    }

    /// Every value that QEMU gets as it is.
    pub(super) fn command_line(&mut self) {
        let domain = &self.spec.domain;
        let machine = domain.machine.as_ref().and_then(|machine| machine.r#type.as_deref());
        // Machines of other architectures are refused anyway, by their architecture.
        if matches!(self.spec.architecture.as_deref(), None | Some("" | "amd64")) {
            self.ask(&self.domain("machine.type"), machine, rules::machine_type);
        }
        if let Some(cpu) = &domain.cpu {
            self.ask(&self.domain("cpu.model"), cpu.model.as_deref(), rules::cpu_model);
            let [sockets, cores, threads] =
                [cpu.sockets, cpu.cores, cpu.threads].map(|count| count.unwrap_or_default().max(1));
            if let Err(rule) = rules::vcpus(sockets, cores, threads) {
                let path = self.domain("cpu");
                self.report.invalid(&path, format!("{path}: {rule}"));
            }
        }
        if let Some(firmware) = &domain.firmware {
            let path = self.domain("firmware");
            self.ask(&path.child("serial"), firmware.serial.as_deref(), rules::serial);
            if let Some(boot) = &firmware.kernel_boot {
                let path = path.child("kernelBoot");
                self.ask(&path.child("kernelArgs"), boot.kernel_args.as_deref(), rules::kernel_args);
            }
        }
        self.memory_size();
        let devices = &domain.devices;
        for (index, disk) in devices.disks.iter().enumerate() {
            let path = self.domain("devices.disks").index(index);
            self.boot_position(&path, disk.boot_order);
            let volume = self.spec.volumes.iter().find(|volume| volume.name == disk.name);
            let volume_read_only = volume.is_some_and(read_only);
            // A LUN is refused anyway, as what is not built.
            let is_disk = disk.cdrom.is_none() && disk.lun.is_none();
            if is_disk && bus(disk) == Bus::Sata && volume_read_only {
                self.report.invalid(
                    &path,
                    format!("{path}: its volume is read-only, and {}", rules::READ_ONLY_SATA),
                );
            }
        }
        for (index, interface) in devices.interfaces.iter().enumerate() {
            let path = self.domain("devices.interfaces").index(index);
            self.boot_position(&path, interface.boot_order);
            self.ask(&path.child("name"), Some(&interface.name), rules::interface_name);
        }
        let places = has_places(
            devices.disks.iter().map(bus),
            devices.interfaces.len(),
            devices.autoattach_mem_balloon.unwrap_or(true),
            devices.rng.is_some(),
        );
        if let Err(rule) = places {
            let path = self.domain("devices");
            self.report.invalid(&path, format!("{path} {rule}"));
        }
    }

    /// The names of other objects, which become parts of the paths of requests.
    pub(super) fn references(&mut self) {
        let list = self.path.child("volumes");
        for (index, volume) in self.spec.volumes.iter().enumerate() {
            let path = list.index(index);
            for (field, name) in names(volume) {
                self.name(&path.child(field), name);
            }
        }
        let pull = self.spec.domain.firmware.as_ref().and_then(|firmware| firmware.kernel_boot.as_ref());
        let pull = pull.and_then(|boot| boot.container.as_ref()?.image_pull_secret.as_deref());
        self.name(&self.domain("firmware.kernelBoot.container.imagePullSecret"), pull);
        self.name(&self.path.child("priorityClassName"), self.spec.priority_class_name.as_deref());
    }

    /// A name that is given must be one (RFC 1123 subdomain).
    fn name(&mut self, path: &Path, name: Option<&str>) {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return };
        let errors = names::subdomain_errors(name);
        if !errors.is_empty() {
            self.report.invalid(path, format!("{path} is not a name of an object: {}", errors.join("; ")));
        }
    }

    fn ask(&mut self, path: &Path, value: Option<&str>, rule: fn(&str) -> Result<(), Broken>) {
        if let Some(value) = value.filter(|value| !value.is_empty())
            && let Err(rule) = rule(value)
        {
            self.report.invalid(path, format!("{path} {rule}"));
        }
    }

    fn boot_position(&mut self, path: &Path, position: Option<u32>) {
        // Zero has a rule and words of upstream.
        if let Some(Err(rule)) = position.filter(|position| *position != 0).map(rules::boot_order) {
            let path = path.child("bootOrder");
            self.report.invalid(&path, format!("{path} {rule}"));
        }
    }

    /// The guest's memory, wherever it is given; a template may leave it out.
    fn memory_size(&mut self) {
        let memory = self.spec.domain.memory.as_ref();
        let page = memory.and_then(|memory| memory.hugepages.as_ref()?.page_size.as_deref());
        let page = page.and_then(|size| Amount::parse(size).ok()?.bytes().ok()).filter(|size| *size != 0);
        if let Some(Err(rule)) = page.map(rules::huge_page) {
            let path = self.domain("memory.hugepages.pageSize");
            self.report.invalid(&path, format!("{path} {rule}"));
        }
        // In the order of the conversion.
        let given = [
            (self.guest_memory(), "memory.guest"),
            (self.request("memory"), "resources.requests.memory"),
            (self.limit("memory"), "resources.limits.memory"),
        ];
        let Some((amount, field)) = given.into_iter().find(|(amount, _)| !amount.is_zero()) else { return };
        // What is no amount at all has been reported.
        let Ok(bytes) = amount.bytes() else { return };
        if let Err(rule) = rules::memory(bytes) {
            let path = self.domain(field);
            self.report.invalid(&path, format!("{path} '{amount}' {rule}"));
        }
    }
}

fn bus(disk: &Disk) -> Bus {
    let bus = match (&disk.cdrom, &disk.disk) {
        (Some(target), _) => target.bus.as_deref(),
        (None, Some(target)) => target.bus.as_deref(),
        (None, None) => None,
    };
    match bus {
        Some("virtio") => Bus::Virtio,
        Some("scsi") => Bus::Scsi,
        Some("usb") => Bus::Usb,
        _ => Bus::Sata,
    }
}

/// The volume is one of the pod, under its own name. Others are files that the launcher makes.
fn is_in_the_pod(volume: &Volume) -> bool {
    volume.container_disk.is_some()
        || volume.host_disk.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.data_volume.is_some()
        || volume.ephemeral.is_some()
}

/// A seed whose contents the kubelet mounts.
fn has_secrets(volume: &Volume) -> bool {
    let Some(source) = &volume.cloud_init_no_cloud else { return false };
    [&source.secret_ref, &source.network_data_secret_ref]
        .into_iter()
        .flatten()
        .any(|reference| !reference.name.is_empty())
}

/// The guest gets the volume itself, and must not write to it.
fn read_only(volume: &Volume) -> bool {
    volume.persistent_volume_claim.as_ref().is_some_and(|source| source.read_only == Some(true))
}

/// Every object that a volume names, with the field that names it.
fn names(volume: &Volume) -> Vec<(&'static str, Option<&str>)> {
    let mut found = Vec::new();
    if let Some(source) = &volume.cloud_init_no_cloud {
        found.push(("cloudInitNoCloud.secretRef.name", source.secret_ref.as_ref().map(|r| r.name.as_str())));
        let network = source.network_data_secret_ref.as_ref().map(|r| r.name.as_str());
        found.push(("cloudInitNoCloud.networkDataSecretRef.name", network));
    }
    if let Some(source) = &volume.cloud_init_config_drive {
        found.push((
            "cloudInitConfigDrive.secretRef.name",
            source.secret_ref.as_ref().map(|r| r.name.as_str()),
        ));
        let network = source.network_data_secret_ref.as_ref().map(|r| r.name.as_str());
        found.push(("cloudInitConfigDrive.networkDataSecretRef.name", network));
    }
    if let Some(source) = &volume.config_map {
        found.push(("configMap.name", source.name.as_deref()));
    }
    if let Some(source) = &volume.container_disk {
        found.push(("containerDisk.imagePullSecret", source.image_pull_secret.as_deref()));
    }
    if let Some(source) = &volume.data_volume {
        found.push(("dataVolume.name", Some(&source.name)));
    }
    if let Some(source) = &volume.ephemeral {
        let claim = source.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
        found.push(("ephemeral.persistentVolumeClaim.claimName", claim));
    }
    if let Some(source) = &volume.memory_dump {
        found.push(("memoryDump.claimName", Some(&source.claim_name)));
    }
    if let Some(source) = &volume.persistent_volume_claim {
        found.push(("persistentVolumeClaim.claimName", Some(&source.claim_name)));
    }
    if let Some(source) = &volume.secret {
        found.push(("secret.secretName", source.secret_name.as_deref()));
    }
    if let Some(source) = &volume.service_account {
        found.push(("serviceAccount.serviceAccountName", source.service_account_name.as_deref()));
    }
    if let Some(source) = &volume.sysprep {
        found.push(("sysprep.secret.name", source.secret.as_ref().map(|r| r.name.as_str())));
        found.push(("sysprep.configMap.name", source.config_map.as_ref().map(|r| r.name.as_str())));
    }
    found
}
