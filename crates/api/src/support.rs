//! What this version does with each field of a machine: the one place where that is decided.
//!
//! Every field that upstream knows is decoded; every leaf of the schema has a row here (a test walks the schema), so
//! that nothing that changes what the guest gets, or what it may do, is ever dropped in silence.

use serde_json::Value;

use crate::{
    cause::{Path, Report},
    kubevirt::{VirtualMachineInstanceSpec, VirtualMachineSpec},
};

/// What happens with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The machine gets what the field says.
    Acts,
    /// The field passes without effect, and the guest and its privileges are the same either way.
    Harmless(&'static str),
    /// Refused as not supported yet, unless the value is one of these (as JSON), which say what is the case anyway.
    Refused(&'static [&'static str]),
}

use Verdict::{Acts, Harmless, Refused};

const NO_PULL: &str = "images come from the node's image directory and are never pulled";
const NO_HOTPLUG: &str = "a ceiling for hot-plug, which is not offered";
const ONE_NODE: &str =
    "a preference between nodes or machines; copied to the pod for schedulers that look at it";
const TUNING: &str = "a hint about the work of the host; the guest sees the same device";

/// The decisions, by path below the specification of an instance. `[]` stands for the elements of a list; a row
/// covers everything below its path.
pub const TABLE: &[(&str, Verdict)] = &[
    ("accessCredentials", Refused(&[])),
    ("affinity", Harmless(ONE_NODE)),
    ("architecture", Refused(&["\"amd64\""])),
    ("dnsConfig", Refused(&[])),
    ("dnsPolicy", Refused(&["\"\"", "\"ClusterFirst\"", "\"Default\""])),
    ("domain.chassis", Refused(&[])),
    ("domain.clock", Refused(&["{}", "{\"utc\":{}}"])),
    ("domain.cpu.cores", Acts),
    ("domain.cpu.dedicatedCpuPlacement", Refused(&["false"])),
    ("domain.cpu.features", Refused(&[])),
    ("domain.cpu.isolateEmulatorThread", Refused(&["false"])),
    ("domain.cpu.maxSockets", Harmless(NO_HOTPLUG)),
    ("domain.cpu.model", Acts),
    ("domain.cpu.numa", Refused(&["{}"])),
    ("domain.cpu.realtime", Refused(&[])),
    ("domain.cpu.sockets", Acts),
    ("domain.cpu.threads", Acts),
    ("domain.devices.autoattachGraphicsDevice", Acts),
    ("domain.devices.autoattachInputDevice", Refused(&["false"])),
    ("domain.devices.autoattachMemBalloon", Acts),
    ("domain.devices.autoattachPodInterface", Acts),
    ("domain.devices.autoattachSerialConsole", Acts),
    ("domain.devices.autoattachVSOCK", Refused(&["false"])),
    ("domain.devices.blockMultiQueue", Acts),
    ("domain.devices.clientPassthrough", Refused(&[])),
    ("domain.devices.disableHotplug", Harmless("nothing is hot-plugged either way")),
    ("domain.devices.disks[].blockSize", Refused(&["{}"])),
    ("domain.devices.disks[].bootOrder", Acts),
    ("domain.devices.disks[].cache", Acts),
    ("domain.devices.disks[].cdrom.bus", Acts),
    ("domain.devices.disks[].cdrom.readonly", Acts),
    ("domain.devices.disks[].cdrom.tray", Refused(&["\"\"", "\"closed\""])),
    ("domain.devices.disks[].changedBlockTracking", Refused(&["false"])),
    ("domain.devices.disks[].dedicatedIOThread", Harmless(TUNING)),
    ("domain.devices.disks[].disk.bus", Acts),
    ("domain.devices.disks[].disk.pciAddress", Refused(&["\"\""])),
    ("domain.devices.disks[].disk.readonly", Acts),
    ("domain.devices.disks[].errorPolicy", Refused(&["\"\"", "\"stop\""])),
    ("domain.devices.disks[].io", Harmless(TUNING)),
    ("domain.devices.disks[].lun", Refused(&[])),
    ("domain.devices.disks[].name", Acts),
    ("domain.devices.disks[].serial", Acts),
    ("domain.devices.disks[].shareable", Refused(&["false"])),
    ("domain.devices.disks[].tag", Refused(&["\"\""])),
    ("domain.devices.downwardMetrics", Refused(&[])),
    ("domain.devices.filesystems", Refused(&[])),
    ("domain.devices.gpus", Refused(&[])),
    ("domain.devices.hostDevices", Refused(&[])),
    ("domain.devices.inputs", Refused(&[])),
    ("domain.devices.interfaces[].acpiIndex", Refused(&["0"])),
    ("domain.devices.interfaces[].binding", Refused(&[])),
    ("domain.devices.interfaces[].bootOrder", Acts),
    ("domain.devices.interfaces[].bridge", Acts),
    ("domain.devices.interfaces[].dhcpOptions", Refused(&["{}"])),
    ("domain.devices.interfaces[].macAddress", Acts),
    ("domain.devices.interfaces[].macvtap", Refused(&[])),
    ("domain.devices.interfaces[].masquerade", Acts),
    (
        "domain.devices.interfaces[].model",
        Refused(&["\"\"", "\"virtio\"", "\"e1000\"", "\"e1000e\"", "\"rtl8139\""]),
    ),
    ("domain.devices.interfaces[].name", Acts),
    ("domain.devices.interfaces[].passt", Refused(&[])),
    ("domain.devices.interfaces[].passtBinding", Refused(&[])),
    ("domain.devices.interfaces[].pciAddress", Refused(&["\"\""])),
    ("domain.devices.interfaces[].portRanges", Refused(&[])),
    ("domain.devices.interfaces[].ports", Acts),
    ("domain.devices.interfaces[].slirp", Refused(&[])),
    ("domain.devices.interfaces[].sriov", Refused(&[])),
    ("domain.devices.interfaces[].state", Refused(&["\"\"", "\"up\""])),
    ("domain.devices.interfaces[].tag", Refused(&["\"\""])),
    ("domain.devices.logSerialConsole", Harmless("the launcher keeps the console's output itself")),
    ("domain.devices.networkInterfaceMultiqueue", Acts),
    ("domain.devices.panicDevices", Refused(&[])),
    ("domain.devices.rng", Acts),
    ("domain.devices.sound", Refused(&[])),
    ("domain.devices.tpm", Refused(&["{\"enabled\":false}"])),
    ("domain.devices.useVirtioTransitional", Refused(&["false"])),
    ("domain.devices.video", Refused(&["{\"type\":\"vga\"}"])),
    ("domain.devices.watchdog", Refused(&[])),
    ("domain.features.acpi", Acts),
    ("domain.features.apic", Refused(&["{}", "{\"enabled\":true}"])),
    ("domain.features.hyperv", Refused(&["{}"])),
    ("domain.features.hypervPassthrough", Refused(&["{\"enabled\":false}"])),
    ("domain.features.kvm", Refused(&["{}", "{\"hidden\":false}"])),
    ("domain.features.pvspinlock", Refused(&["{}", "{\"enabled\":true}"])),
    ("domain.features.smm", Refused(&["{\"enabled\":false}"])),
    ("domain.firmware.acpi", Refused(&[])),
    ("domain.firmware.bootloader.bios", Refused(&["{}", "{\"useSerial\":false}"])),
    ("domain.firmware.bootloader.efi", Refused(&[])),
    ("domain.firmware.kernelBoot.container.image", Acts),
    ("domain.firmware.kernelBoot.container.imagePullPolicy", Harmless(NO_PULL)),
    ("domain.firmware.kernelBoot.container.imagePullSecret", Harmless(NO_PULL)),
    ("domain.firmware.kernelBoot.container.initrdPath", Acts),
    ("domain.firmware.kernelBoot.container.kernelPath", Acts),
    ("domain.firmware.kernelBoot.kernelArgs", Acts),
    ("domain.firmware.serial", Acts),
    ("domain.firmware.uuid", Acts),
    ("domain.ioThreads", Harmless(TUNING)),
    ("domain.ioThreadsPolicy", Harmless(TUNING)),
    ("domain.launchSecurity", Refused(&[])),
    ("domain.machine.type", Acts),
    ("domain.memory.guest", Acts),
    ("domain.memory.hugepages.pageSize", Acts),
    ("domain.memory.maxGuest", Harmless(NO_HOTPLUG)),
    ("domain.memory.reservedOverhead", Refused(&["{}"])),
    ("domain.rebootPolicy", Refused(&["\"Reboot\""])),
    ("domain.resources.limits.cpu", Acts),
    ("domain.resources.limits.ephemeral-storage", Harmless("the pod's scratch space is not accounted")),
    ("domain.resources.limits.memory", Acts),
    ("domain.resources.overcommitGuestOverhead", Refused(&["false"])),
    ("domain.resources.requests.cpu", Acts),
    ("domain.resources.requests.ephemeral-storage", Harmless("the pod's scratch space is not accounted")),
    ("domain.resources.requests.memory", Acts),
    ("evictionStrategy", Harmless("nothing evicts machines")),
    ("hostname", Acts),
    ("livenessProbe", Refused(&[])),
    ("networks[].multus", Refused(&[])),
    ("networks[].name", Acts),
    ("networks[].pod.vmIPv6NetworkCIDR", Refused(&["\"\""])),
    ("networks[].pod.vmNetworkCIDR", Refused(&["\"\"", "\"10.0.2.0/24\""])),
    ("networks[].resourceClaim", Refused(&[])),
    ("nodeSelector", Acts),
    ("priorityClassName", Acts),
    ("readinessProbe", Refused(&[])),
    ("resourceClaims", Refused(&[])),
    ("schedulerName", Acts),
    ("serviceAccountName", Acts),
    ("startStrategy", Acts),
    ("subdomain", Acts),
    ("terminationGracePeriodSeconds", Acts),
    ("tolerations", Harmless(ONE_NODE)),
    ("topologySpreadConstraints", Harmless(ONE_NODE)),
    ("utilityVolumes", Refused(&[])),
    ("volumes[].cloudInitConfigDrive", Refused(&[])),
    ("volumes[].cloudInitNoCloud", Acts),
    ("volumes[].configMap", Refused(&[])),
    ("volumes[].containerDisk.image", Acts),
    ("volumes[].containerDisk.imagePullPolicy", Harmless(NO_PULL)),
    ("volumes[].containerDisk.imagePullSecret", Harmless(NO_PULL)),
    ("volumes[].containerDisk.path", Acts),
    ("volumes[].containerPath", Refused(&[])),
    ("volumes[].dataVolume.hotpluggable", Harmless("an unplug is not offered")),
    ("volumes[].dataVolume.name", Acts),
    ("volumes[].downwardAPI", Refused(&[])),
    ("volumes[].downwardMetrics", Refused(&[])),
    ("volumes[].emptyDisk.capacity", Acts),
    ("volumes[].ephemeral", Acts),
    ("volumes[].hostDisk.capacity", Acts),
    ("volumes[].hostDisk.path", Acts),
    ("volumes[].hostDisk.shared", Harmless("says only whether the disk may be migrated")),
    ("volumes[].hostDisk.type", Acts),
    ("volumes[].memoryDump", Refused(&[])),
    ("volumes[].name", Acts),
    ("volumes[].persistentVolumeClaim.claimName", Acts),
    ("volumes[].persistentVolumeClaim.hotpluggable", Harmless("an unplug is not offered")),
    ("volumes[].persistentVolumeClaim.readOnly", Acts),
    ("volumes[].secret", Refused(&[])),
    ("volumes[].serviceAccount", Refused(&[])),
    ("volumes[].sysprep", Refused(&[])),
];

/// The decisions for the fields of a VirtualMachine outside its template.
pub const VM_TABLE: &[(&str, Verdict)] = &[
    ("dataVolumeTemplates", Refused(&[])),
    ("instancetype", Refused(&["{}"])),
    ("preference", Refused(&["{}"])),
    ("runStrategy", Acts),
    ("running", Acts),
    ("template", Acts),
    ("updateVolumesStrategy", Harmless("volumes of a running machine do not change")),
];

/// Adds a cause for every field of an instance that this version would have to ignore.
pub(crate) fn refuse(path: &Path, spec: &VirtualMachineInstanceSpec, report: &mut Report) {
    // Wire types always serialize: their maps have text keys.
    let value = serde_json::to_value(spec).unwrap_or_default();
    walk(TABLE, "", &value, path, report);
}

/// The same for a VirtualMachine outside its template.
pub(crate) fn refuse_vm(path: &Path, spec: &VirtualMachineSpec, report: &mut Report) {
    let value = serde_json::to_value(spec).unwrap_or_default();
    walk(VM_TABLE, "", &value, path, report);
}

fn walk(table: &[(&str, Verdict)], pattern: &str, value: &Value, path: &Path, report: &mut Report) {
    match table.iter().find(|(row, _)| *row == pattern).map(|(_, verdict)| *verdict) {
        Some(Acts | Harmless(_)) => return,
        Some(Refused(neutral)) => {
            let same =
                |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|neutral| neutral == *value);
            if !neutral.iter().any(same) {
                report.unsupported(path, format!("not supported yet: {path}"));
            }
            return;
        }
        None => {}
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let deeper = if pattern.is_empty() { name.clone() } else { format!("{pattern}.{name}") };
                walk(table, &deeper, value, &path.child(name), report);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                walk(table, &format!("{pattern}[]"), value, &path.index(index), report);
            }
        }
        // A key of an open map that nobody has decided about.
        _ => report.unsupported(path, format!("not supported yet: {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crd::schema, kubevirt::VirtualMachine};

    fn undecided(table: &[(&str, Verdict)], pattern: &str, node: &Value, missing: &mut Vec<String>) {
        if table.iter().any(|(row, _)| *row == pattern) {
            return;
        }
        let deeper =
            |name: &str| if pattern.is_empty() { name.to_owned() } else { format!("{pattern}.{name}") };
        if let Some(properties) = node.get("properties").and_then(Value::as_object) {
            for (name, inner) in properties {
                undecided(table, &deeper(name), inner, missing);
            }
        } else if let Some(items) = node.get("items") {
            undecided(table, &format!("{pattern}[]"), items, missing);
        } else if node.get("additionalProperties").is_some() {
            if !table.iter().any(|(row, _)| row.starts_with(&deeper(""))) {
                missing.push(pattern.to_owned());
            }
        } else {
            missing.push(pattern.to_owned());
        }
    }

    #[test]
    fn every_field_is_decided() {
        let vm = schema::<VirtualMachine>();
        let spec = &vm["properties"]["spec"];
        let mut missing = Vec::new();
        undecided(VM_TABLE, "", spec, &mut missing);
        undecided(TABLE, "", &spec["properties"]["template"]["properties"]["spec"], &mut missing);
        assert!(missing.is_empty(), "no row for {missing:?}");
    }

    /// A row for a field that does not exist would decide nothing.
    #[test]
    fn every_row_names_a_field() {
        let vm = schema::<VirtualMachine>();
        let template = &vm["properties"]["spec"]["properties"]["template"]["properties"]["spec"];
        for (row, verdict) in TABLE {
            let mut node = template;
            for name in row.split('.') {
                let list = name.ends_with("[]");
                let name = name.trim_end_matches("[]");
                node = match node.get("additionalProperties") {
                    Some(values) => values,
                    None => &node["properties"][name],
                };
                assert!(!node.is_null(), "{row}");
                if list {
                    node = &node["items"];
                }
            }
            if let Refused(neutral) = verdict {
                for text in *neutral {
                    assert!(serde_json::from_str::<Value>(text).is_ok(), "{row}: {text}");
                }
            }
        }
    }
}
