//! Defaulting, in the order of KubeVirt's mutating webhooks. Idempotent; never an error: what is wrong is left for
//! validation to refuse.

use ferrovirt_kubernetes::quantity::Amount;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::{
    config::ClusterDefaults,
    kubevirt::{
        Cpu, CpuTopology, Disk, DiskTarget, Features, Interface, InterfaceBridge, InterfaceMasquerade,
        Machine, Memory, MemoryStatus, Network, PodNetwork, VirtualMachine, VirtualMachineInstance,
        VirtualMachineInstancePhaseTransitionTimestamp, VirtualMachineInstanceSpec, phase,
    },
};

/// Keeps a VirtualMachineInstance until its pods are gone.
pub const VMI_FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Keeps a VirtualMachine, or an instance that belongs to one, until the VM controller is done.
pub const VM_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
/// The user that upstream's unprivileged launcher runs as.
pub const RUNTIME_USER: i64 = 107;
/// Seconds between the request to shut down and the end of QEMU where the machine names none.
pub const GRACE_SECONDS: i64 = 30;
const PCI_TOPOLOGY: &str = "kubevirt.io/pci-topology-version";

/// Completes a VirtualMachine that is created or updated. `identity` gives the firmware of a new machine its UUID
/// and serial; on update, and where it is `None`, they stay as they are.
pub fn default_vm(vm: &mut VirtualMachine, defaults: &ClusterDefaults, identity: Option<Identity>) {
    let spec = &mut vm.spec.template.spec;
    architecture_and_machine(spec, defaults);
    if let Some(identity) = identity {
        let firmware = spec.domain.firmware.get_or_insert_default();
        firmware.uuid.get_or_insert(identity.uuid);
        firmware.serial.get_or_insert(identity.serial);
        let annotations = vm.spec.template.metadata.annotations.get_or_insert_default();
        annotations.entry(PCI_TOPOLOGY.to_owned()).or_insert_with(|| "v3".to_owned());
    }
}

/// Random firmware identity, drawn by the caller: this crate has no source of randomness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SMBIOS UUID.
    pub uuid: String,
    /// SMBIOS serial; upstream draws a second UUID.
    pub serial: String,
}

/// Completes a VirtualMachineInstance that is created: specification, finalizer and first status.
pub fn default_vmi(vmi: &mut VirtualMachineInstance, defaults: &ClusterDefaults) {
    default_vmi_spec(&mut vmi.spec, defaults);
    object_defaults(&mut vmi.spec, defaults);

    let annotations = vmi.metadata.annotations.get_or_insert_default();
    annotations.entry(PCI_TOPOLOGY.to_owned()).or_insert_with(|| "v3".to_owned());
    let finalizers = vmi.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == VMI_FINALIZER) {
        finalizers.push(VMI_FINALIZER.to_owned());
    }
    let status = vmi.status.get_or_insert_default();
    if let Some(guest) = vmi.spec.domain.memory.as_ref().and_then(|memory| memory.guest.clone()) {
        status.memory = Some(MemoryStatus {
            guest_at_boot: Some(guest.clone()),
            guest_current: Some(guest.clone()),
            guest_requested: Some(guest),
            memory_overhead: None,
        });
    }
    if let (Some(cpu), None) = (&vmi.spec.domain.cpu, &status.current_cpu_topology) {
        status.current_cpu_topology =
            Some(CpuTopology { cores: cpu.cores, sockets: cpu.sockets, threads: cpu.threads });
    }
    status.runtime_user = Some(RUNTIME_USER);
    if status.phase.as_deref().unwrap_or_default().is_empty() {
        status.phase = Some(phase::PENDING.to_owned());
        // The caller, who has a clock, fills the time in.
        status.phase_transition_timestamps.push(VirtualMachineInstancePhaseTransitionTimestamp {
            phase: Some(phase::PENDING.to_owned()),
            phase_transition_timestamp: None,
        });
    }
}

/// The part of defaulting that validation of a VirtualMachine's template looks through, too.
pub fn default_vmi_spec(spec: &mut VirtualMachineInstanceSpec, defaults: &ClusterDefaults) {
    architecture_and_machine(spec, defaults);
    cpu_request(spec, defaults);
    guest_memory(spec);
    cpu_topology(spec);
    for container_disk in spec.volumes.iter_mut().filter_map(|volume| volume.container_disk.as_mut()) {
        let image = &container_disk.image;
        let moving = image.ends_with(":latest") || !image.contains([':', '@']);
        container_disk
            .image_pull_policy
            .get_or_insert_with(|| if moving { "Always" } else { "IfNotPresent" }.to_owned());
    }
    if spec.eviction_strategy.is_none() {
        spec.eviction_strategy = defaults.eviction_strategy.clone();
    }
    network(spec, defaults);
    disks_for_volumes(spec);
}

fn architecture_and_machine(spec: &mut VirtualMachineInstanceSpec, defaults: &ClusterDefaults) {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if empty(&spec.architecture) {
        spec.architecture = Some(defaults.architecture.clone());
    }
    let machine = spec.domain.machine.get_or_insert_with(Machine::default);
    if empty(&machine.r#type) {
        machine.r#type = Some(match spec.architecture.as_deref() {
            Some("arm64") => "virt".to_owned(),
            Some("s390x") => "s390-ccw-virtio".to_owned(),
            _ => defaults.machine_type.clone(),
        });
    }
}

/// A CPU limit alone is also the request.
fn cpu_request(spec: &mut VirtualMachineInstanceSpec, defaults: &ClusterDefaults) {
    let dedicated = spec.domain.cpu.as_ref().and_then(|cpu| cpu.dedicated_cpu_placement).unwrap_or_default();
    let Some(resources) = &spec.domain.resources else {
        if let (Some(request), false) = (&defaults.cpu_request, dedicated) {
            spec.domain.resources.get_or_insert_default().requests.insert("cpu".to_owned(), request.clone());
        }
        return;
    };
    let zero = |quantity: Option<&Quantity>| {
        quantity.and_then(|q| Amount::parse(&q.0).ok()).is_none_or(Amount::is_zero)
    };
    let request = match resources.limits.get("cpu") {
        Some(limit) if !zero(Some(limit)) && zero(resources.requests.get("cpu")) => Some(limit.clone()),
        _ if resources.requests.contains_key("cpu") || dedicated => None,
        _ => defaults.cpu_request.clone(),
    };
    if let Some(request) = request {
        spec.domain.resources.get_or_insert_default().requests.insert("cpu".to_owned(), request);
    }
}

/// Guest memory: the request, else the limit, else one huge page.
fn guest_memory(spec: &mut VirtualMachineInstanceSpec) {
    let memory = spec.domain.memory.get_or_insert_with(Memory::default);
    if memory.guest.is_some() {
        return;
    }
    let resources = spec.domain.resources.as_ref();
    let given = |quantity: Option<&Quantity>| {
        quantity.and_then(|q| Amount::parse(&q.0).ok()).filter(|a| !a.is_zero())
    };
    let page = || {
        let text = memory.hugepages.as_ref()?.page_size.as_deref()?;
        Amount::parse(text).ok()
    };
    memory.guest = given(resources.and_then(|r| r.requests.get("memory")))
        .or_else(|| given(resources.and_then(|r| r.limits.get("memory"))))
        .or_else(page)
        .map(|amount| Quantity(amount.to_string()));
}

/// Without a topology: as many sockets as the CPU limit or request has processors, rounded up.
fn cpu_topology(spec: &mut VirtualMachineInstanceSpec) {
    let none = |count: Option<u32>| count.unwrap_or_default() == 0;
    let cpu = spec.domain.cpu.get_or_insert_with(Cpu::default);
    if !(none(cpu.cores) && none(cpu.sockets) && none(cpu.threads)) {
        return;
    }
    let resources = spec.domain.resources.as_ref();
    let quantity = resources.and_then(|r| r.limits.get("cpu").or_else(|| r.requests.get("cpu")));
    let sockets = quantity.and_then(|q| Amount::parse(&q.0).ok()).map_or(1, Amount::whole);
    cpu.sockets = Some(u32::try_from(sockets).unwrap_or(u32::MAX));
    cpu.cores = Some(1);
    cpu.threads = Some(1);
}

/// A machine that names neither interfaces nor networks is on the pod network.
fn network(spec: &mut VirtualMachineInstanceSpec, defaults: &ClusterDefaults) {
    let devices = &mut spec.domain.devices;
    if devices.autoattach_pod_interface == Some(false)
        || !devices.interfaces.is_empty()
        || !spec.networks.is_empty()
    {
        return;
    }
    let bridge = defaults.default_network_interface == "bridge";
    devices.interfaces.push(Interface {
        name: "default".to_owned(),
        bridge: bridge.then(InterfaceBridge::default),
        masquerade: (!bridge).then(InterfaceMasquerade::default),
        ..Interface::default()
    });
    spec.networks.push(Network {
        name: "default".to_owned(),
        pod: Some(PodNetwork::default()),
        ..Network::default()
    });
}

/// A volume that nothing refers to becomes a disk.
fn disks_for_volumes(spec: &mut VirtualMachineInstanceSpec) {
    let devices = &mut spec.domain.devices;
    for volume in &spec.volumes {
        let used = devices.disks.iter().any(|disk| disk.name == volume.name)
            || devices.filesystems.iter().any(|filesystem| filesystem.name == volume.name);
        if !used && volume.memory_dump.is_none() && volume.container_path.is_none() {
            devices.disks.push(Disk { name: volume.name.clone(), ..Disk::default() });
        }
    }
}

/// What upstream sets on instances only: ACPI, disk targets and busses, model, the rest of the topology.
fn object_defaults(spec: &mut VirtualMachineInstanceSpec, defaults: &ClusterDefaults) {
    let features = spec.domain.features.get_or_insert_with(Features::default);
    for state in [&mut features.smm, &mut features.pvspinlock].into_iter().flatten() {
        state.enabled.get_or_insert(true);
    }
    features.acpi.get_or_insert_default().enabled.get_or_insert(true);

    let amd64 = spec.architecture.as_deref() == Some("amd64");
    for disk in &mut spec.domain.devices.disks {
        if disk.disk.is_none() && disk.lun.is_none() && disk.cdrom.is_none() {
            disk.disk = Some(DiskTarget::default());
        }
        let bus = disk
            .disk
            .as_mut()
            .map(|target| &mut target.bus)
            .or(disk.lun.as_mut().map(|target| &mut target.bus))
            .or(disk.cdrom.as_mut().map(|target| &mut target.bus));
        if let Some(bus) = bus
            && bus.as_deref().unwrap_or_default().is_empty()
        {
            *bus = Some(if amd64 { "sata" } else { "virtio" }.to_owned());
        }
    }
    for cdrom in spec.domain.devices.disks.iter_mut().filter_map(|disk| disk.cdrom.as_mut()) {
        cdrom.readonly.get_or_insert(true);
        cdrom.tray.get_or_insert_with(|| "closed".to_owned());
    }
    if let Some(i6300esb) =
        spec.domain.devices.watchdog.as_mut().and_then(|watchdog| watchdog.i6300esb.as_mut())
    {
        i6300esb.action.get_or_insert_with(|| "reset".to_owned());
    }
    let cpu = spec.domain.cpu.get_or_insert_with(Cpu::default);
    for count in [&mut cpu.sockets, &mut cpu.cores, &mut cpu.threads] {
        if count.unwrap_or_default() == 0 {
            *count = Some(1);
        }
    }
    if cpu.model.as_deref().unwrap_or_default().is_empty() {
        cpu.model = Some(defaults.cpu_model.clone());
    }
    for feature in &mut cpu.features {
        feature.policy.get_or_insert_with(|| "require".to_owned());
    }
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
}
