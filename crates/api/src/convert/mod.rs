//! From the wire types into the model: total, and the only way there.
//!
//! Wire structs are taken apart without a rest pattern, so that a new field breaks the build until somebody has
//! decided about it here and in [`crate::support`]. Fields bound to `_` are decided there alone: refused, or without
//! effect on the machine.

mod devices;
mod storage;

use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_model::{
    Bytes, Machine, PageSize,
    machine::{Cpu, Devices, Firmware, KernelBoot, Memory, Scheduling},
};

use crate::{
    cause::{Cause, Path, Report},
    defaults::GRACE_SECONDS,
    kubevirt::{self, VirtualMachineInstance, VirtualMachineInstanceSpec},
    support,
};

/// The machine that an instance describes, or every reason why this version cannot make it.
///
/// The instance is expected to be defaulted and valid; one that is not is converted as far as it makes sense and
/// refused otherwise, never half understood.
pub fn machine(vmi: &VirtualMachineInstance) -> Result<Machine, Vec<Cause>> {
    let VirtualMachineInstance { api_version: _, kind: _, metadata, spec, status: _ } = vmi;
    let mut report = Report::default();
    support::refuse(&Path::new("spec"), spec, &mut report);
    let name = metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        report.required("metadata.name", "metadata.name is required: give the machine a name");
    }
    let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let seed = format!("{namespace}/{name}");
    let mut machine = specification(&Path::new("spec"), spec, &seed, &mut report);
    machine.namespace = namespace;
    machine.name = name;
    machine.uid = metadata.uid.clone().unwrap_or_default();
    if report.causes.is_empty() { Ok(machine) } else { Err(report.causes) }
}

/// The part of [`machine`] below the specification. `seed` names the machine where no UUID is given.
pub(crate) fn specification(
    path: &Path,
    spec: &VirtualMachineInstanceSpec,
    seed: &str,
    report: &mut Report,
) -> Machine {
    let VirtualMachineInstanceSpec {
        access_credentials: _,
        affinity: _,
        architecture: _,
        dns_config: _,
        dns_policy: _,
        domain,
        eviction_strategy: _,
        hostname,
        liveness_probe: _,
        networks,
        node_selector,
        priority_class_name,
        readiness_probe: _,
        resource_claims: _,
        scheduler_name,
        service_account_name,
        start_strategy,
        subdomain,
        termination_grace_period_seconds,
        tolerations: _,
        topology_spread_constraints: _,
        utility_volumes: _,
        volumes,
    } = spec;
    let kubevirt::DomainSpec {
        chassis: _,
        clock: _,
        cpu,
        devices,
        features,
        firmware,
        io_threads: _,
        io_threads_policy: _,
        launch_security: _,
        machine,
        memory,
        reboot_policy: _,
        resources,
    } = domain;
    let path_of = |name: &str| path.child("domain").child(name);
    let resources = Resources::of(&path_of("resources"), resources.as_ref(), report);
    let cpu = processors(cpu.as_ref(), &resources);
    let disks = storage::disks(path, &devices.disks, volumes, report);
    let interfaces = devices::interfaces(path, devices, networks, cpu.vcpus(), report);
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Machine {
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        memory: self::memory(&path_of("memory"), memory.as_ref(), &resources, report),
        machine_type: machine
            .as_ref()
            .and_then(|machine| given(&machine.r#type))
            .unwrap_or_else(|| "q35".to_owned()),
        firmware: self::firmware(&path_of("firmware"), firmware.as_ref(), seed, report),
        disks,
        interfaces,
        devices: Devices {
            graphics: devices.autoattach_graphics_device.unwrap_or(true),
            serial_console: devices.autoattach_serial_console.unwrap_or(true),
            balloon: devices.autoattach_mem_balloon.unwrap_or(true),
            rng: devices.rng.is_some(),
            block_multi_queue: devices.block_multi_queue.unwrap_or_default(),
        },
        acpi: features
            .as_ref()
            .and_then(|features| features.acpi.as_ref())
            .is_none_or(|acpi| acpi.enabled.unwrap_or(true)),
        grace_seconds: {
            let seconds = termination_grace_period_seconds.unwrap_or(GRACE_SECONDS).max(0);
            u32::try_from(seconds).unwrap_or(u32::MAX)
        },
        start_paused: start_strategy.as_deref() == Some("Paused"),
        scheduling: Scheduling {
            node_selector: node_selector.clone(),
            hostname: given(hostname),
            subdomain: given(subdomain),
            service_account: given(service_account_name),
            priority_class: given(priority_class_name),
            scheduler: given(scheduler_name),
        },
        cpu,
    }
}

/// The user's requests and limits, before overhead.
#[derive(Default)]
struct Resources {
    cpu_request: Option<u64>,
    cpu_limit: Option<u64>,
    memory_request: Option<Bytes>,
    memory_limit: Option<Bytes>,
}

impl Resources {
    fn of(path: &Path, resources: Option<&kubevirt::ResourceRequirements>, report: &mut Report) -> Self {
        let Some(kubevirt::ResourceRequirements { limits, overcommit_guest_overhead: _, requests }) =
            resources
        else {
            return Self::default();
        };
        let mut read = |list: &str, name: &str| {
            let quantity = if list == "limits" { limits.get(name) } else { requests.get(name) }?;
            let amount = Amount::parse(&quantity.0)
                .and_then(|amount| if name == "cpu" { amount.millis() } else { amount.bytes() });
            amount
                .map_err(|error| {
                    let path = path.child(list).child(name);
                    report.invalid(&path, format!("{path} '{}': {error}", quantity.0));
                })
                .ok()
                .filter(|amount| *amount != 0)
        };
        Self {
            cpu_request: read("requests", "cpu"),
            cpu_limit: read("limits", "cpu"),
            memory_request: read("requests", "memory").map(Bytes),
            memory_limit: read("limits", "memory").map(Bytes),
        }
    }
}

fn processors(cpu: Option<&kubevirt::Cpu>, resources: &Resources) -> Cpu {
    let mut topology = (1, 1, 1);
    let mut name = None;
    if let Some(cpu) = cpu {
        let kubevirt::Cpu {
            cores,
            dedicated_cpu_placement: _,
            features: _,
            isolate_emulator_thread: _,
            max_sockets: _,
            model,
            numa: _,
            realtime: _,
            sockets,
            threads,
        } = cpu;
        let count = |count: &Option<u32>| count.unwrap_or_default().max(1);
        topology = (count(sockets), count(cores), count(threads));
        name = model.clone().filter(|model| !model.is_empty());
    }
    let (sockets, cores, threads) = topology;
    Cpu {
        sockets,
        cores,
        threads,
        model: name.unwrap_or_else(|| "host-model".to_owned()),
        request_millis: resources.cpu_request,
        limit_millis: resources.cpu_limit,
    }
}

fn memory(
    path: &Path,
    memory: Option<&kubevirt::Memory>,
    resources: &Resources,
    report: &mut Report,
) -> Memory {
    let mut guest = None;
    let mut huge_pages = None;
    if let Some(kubevirt::Memory { guest: wanted, hugepages, max_guest: _, reserved_overhead: _ }) = memory {
        if let Some(wanted) = wanted {
            let path = path.child("guest");
            match Amount::parse(&wanted.0).and_then(Amount::bytes) {
                Ok(bytes) => guest = Some(Bytes(bytes)),
                Err(error) => report.invalid(&path, format!("{path} '{}': {error}", wanted.0)),
            }
        }
        if let Some(kubevirt::Hugepages { page_size }) = hugepages {
            let path = path.child("hugepages.pageSize");
            let text = page_size.as_deref().unwrap_or_default();
            match Amount::parse(text).and_then(Amount::bytes) {
                Ok(bytes) => {
                    huge_pages = PageSize::new(bytes);
                    if huge_pages.is_none() {
                        report.invalid(&path, format!("{path} '{text}': must be greater than 0"));
                    }
                }
                Err(error) => report.invalid(&path, format!("{path} '{text}': {error}")),
            }
        }
    }
    let guest = guest.or(resources.memory_request).or(resources.memory_limit);
    let guest = guest.or(huge_pages.map(|page| Bytes(page.bytes()))).unwrap_or_default();
    let field = path.child("guest");
    if guest.0 == 0 && report.causes.is_empty() {
        report.required(&field, format!("{field} must be more than 0: say how much memory the guest has"));
    }
    if let Some(page) = huge_pages
        && guest.0 % page.bytes() != 0
    {
        let pages = path.child("hugepages.pageSize");
        let message = format!("{field} '{guest}' is not a multiple of the page size {pages} '{page}'");
        report.invalid(&field, message);
    }
    Memory { guest, huge_pages, request: resources.memory_request, limit: resources.memory_limit }
}

fn firmware(path: &Path, firmware: Option<&kubevirt::Firmware>, seed: &str, report: &mut Report) -> Firmware {
    let mut result = Firmware { uuid: uuid_of(seed), serial: None, kernel_boot: None };
    let Some(kubevirt::Firmware { acpi: _, bootloader: _, kernel_boot, serial, uuid }) = firmware else {
        return result;
    };
    if let Some(uuid) = uuid.as_deref().filter(|uuid| !uuid.is_empty()) {
        match canonical_uuid(uuid) {
            Some(uuid) => result.uuid = uuid,
            None => {
                let path = path.child("uuid");
                let message =
                    format!("{path} '{uuid}' is not a UUID such as 5d307ca9-b3ef-428c-8861-06e72d69f223");
                report.invalid(&path, message);
            }
        }
    }
    result.serial = serial.clone().filter(|serial| !serial.is_empty());
    let Some(kubevirt::KernelBoot { container, kernel_args }) = kernel_boot else { return result };
    let Some(container) = container else { return result };
    let kubevirt::KernelBootContainer {
        image,
        image_pull_policy: _,
        image_pull_secret: _,
        initrd_path,
        kernel_path,
    } = container;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let boot = KernelBoot {
        image: image.clone(),
        kernel_path: given(kernel_path),
        initrd_path: given(initrd_path),
        args: kernel_args.clone().unwrap_or_default(),
    };
    if boot.kernel_path.is_none() {
        let path = path.child("kernelBoot.container.kernelPath");
        report.unsupported(&path, format!("not supported yet: an initrd without a kernel, {path} is empty"));
    }
    result.kernel_boot = Some(boot);
    result
}

/// Lower case with hyphens, from either of the two usual forms.
fn canonical_uuid(text: &str) -> Option<String> {
    let hyphens_fit = text.len() == 32
        || (text.len() == 36
            && text.bytes().enumerate().all(|(at, b)| (b == b'-') == matches!(at, 8 | 13 | 18 | 23)));
    let digits: String = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    if !hyphens_fit || digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(format_uuid)
}

fn format_uuid(value: u128) -> String {
    let part = |shift: u32, bits: u32| (value >> shift) & ((1 << bits) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 32),
        part(80, 16),
        part(64, 16),
        part(48, 16),
        part(0, 48)
    )
}

/// A UUID (version 8) that a machine keeps over restarts because it depends on its name alone: the 128-bit FNV-1a
/// hash, which is no secret and need not resist anybody.
fn uuid_of(seed: &str) -> String {
    let hash = seed.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let versioned = (hash & !(0xf << 76)) | (0x8 << 76);
    format_uuid((versioned & !(0x3 << 62)) | (0x2 << 62))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids() {
        let uuid = uuid_of("default/vm");
        assert_eq!(canonical_uuid(&uuid), Some(uuid.clone()));
        assert_eq!(uuid.as_bytes()[14], b'8');
        assert_ne!(uuid, uuid_of("default/vn"));
        let upper = "5D307CA9-B3EF-428C-8861-06E72D69F223";
        assert_eq!(canonical_uuid(upper), Some(upper.to_lowercase()));
        assert_eq!(canonical_uuid(&upper.replace('-', "")), Some(upper.to_lowercase()));
        for text in
            ["", "5d307ca9", "5d307ca9-b3ef-428c-8861-06e72d69f22g", "5d307ca9b-3ef-428c-8861-06e72d69f223"]
        {
            assert_eq!(canonical_uuid(text), None, "{text}");
        }
    }
}
