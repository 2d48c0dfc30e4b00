//! Rules under which one field makes another one necessary or impossible, each at both sides. Most of these devices are not built
//! yet; their machines are refused in upstream's words first, which clients know.

use serde_json::{Value, json};

use super::limits::{Border, check, interface};

fn domain(over: Value) -> Value {
    json!({"domain": over})
}

/// A machine with this security, firmware and features.
fn secured(security: Value, firmware: Value, features: Value) -> Value {
    domain(json!({"launchSecurity": security, "firmware": firmware, "features": features}))
}

fn loader(efi: Value) -> Value {
    json!({"bootloader": {"efi": efi}})
}

#[test]
fn confidential_machines() {
    const FIELD: &str = "spec.launchSecurity";
    let insecure = || loader(json!({"secureBoot": false}));
    // SMM is what secure boot needs by itself; a state without a word is one that is on.
    let smm = || json!({"smm": {}});
    let none = || json!({});
    let paused = |spec: Value| {
        let mut spec = spec;
        spec["startStrategy"] = json!("Paused");
        spec
    };
    let attested = || secured(json!({"sev": {"attestation": {}}}), insecure(), none());
    let bootable = |order: Value| {
        let mut spec = interface(json!({"bootOrder": order}));
        spec["domain"]["launchSecurity"] = json!({"sev": {}});
        spec["domain"]["firmware"] = insecure();
        spec
    };
    let borders = vec![
        Border {
            inside: vec![secured(json!({"sev": {}}), insecure(), none())],
            outside: vec![secured(json!({"sev": {}}), json!({"bootloader": {"bios": {}}}), none())],
            field: FIELD,
            words: "SEV requires OVMF (UEFI)",
        },
        Border {
            inside: vec![secured(json!({"snp": {}}), insecure(), none())],
            // Secure boot is what EFI has unless it says otherwise.
            outside: vec![
                secured(json!({"snp": {}}), loader(json!({})), smm()),
                secured(json!({"snp": {}}), loader(json!({"secureBoot": true})), smm()),
            ],
            field: FIELD,
            words: "SNP does not work along with SecureBoot",
        },
        Border {
            inside: vec![
                // TDX has secure boot of its own, without SMM.
                secured(json!({"tdx": {}}), loader(json!({})), none()),
                secured(json!({"tdx": {}}), loader(json!({})), json!({"smm": {"enabled": false}})),
            ],
            outside: vec![
                secured(json!({"tdx": {}}), loader(json!({})), smm()),
                secured(json!({"tdx": {}}), loader(json!({})), json!({"smm": {"enabled": true}})),
            ],
            field: FIELD,
            words: "TDX does not work along with SMM",
        },
        Border {
            inside: vec![secured(
                json!({"sev": {}}),
                loader(json!({"secureBoot": false, "persistent": true})),
                none(),
            )],
            outside: vec![secured(
                json!({"snp": {}}),
                loader(json!({"secureBoot": false, "persistent": true})),
                none(),
            )],
            field: FIELD,
            words: "SNP does not work along with Persistent EFI",
        },
        Border {
            inside: vec![secured(json!({"tdx": {}}), loader(json!({"persistent": false})), none())],
            outside: vec![secured(json!({"tdx": {}}), loader(json!({"persistent": true})), none())],
            field: FIELD,
            words: "TDX does not work along with Persistent EFI",
        },
        Border {
            inside: vec![paused(attested())],
            outside: vec![attested()],
            field: FIELD,
            words: "attestation requires VMI StartStrategy 'Paused'",
        },
        Border {
            inside: vec![bootable(json!(null))],
            outside: vec![bootable(json!(1))],
            field: FIELD,
            words: "SEV does not work with bootable NICs: net",
        },
        Border {
            inside: vec![],
            outside: vec![
                secured(json!({}), insecure(), none()),
                secured(json!({"sev": {}, "tdx": {}}), insecure(), none()),
            ],
            field: FIELD,
            words: "One and only one launchSecurity type",
        },
    ];
    check(&["WorkloadEncryptionTDX"], borders);
    // A gate that is off is the only thing that is said.
    let ungated = Border {
        inside: vec![],
        outside: vec![secured(json!({"tdx": {}}), json!({}), smm())],
        field: FIELD,
        words: "WorkloadEncryptionTDX feature gate is not enabled",
    };
    check(&[], vec![ungated]);
}

#[test]
fn firmware() {
    let tables =
        |acpi: Value, volumes: Value| json!({"domain": {"firmware": {"acpi": acpi}}, "volumes": volumes});
    let secret = json!([{"name": "t", "secret": {"secretName": "s"}}]);
    let image = json!([{"name": "t", "containerDisk": {"image": "x"}}]);
    let borders = vec![
        Border {
            inside: vec![
                secured(json!(null), loader(json!({"secureBoot": false})), json!({})),
                secured(json!(null), loader(json!({})), json!({"smm": {"enabled": true}})),
            ],
            outside: vec![
                secured(json!(null), loader(json!({})), json!({})),
                secured(json!(null), loader(json!({"secureBoot": true})), json!({"smm": {"enabled": false}})),
            ],
            field: "spec.domain",
            words: "SecureBoot requires SMM",
        },
        Border {
            inside: vec![],
            outside: vec![secured(
                json!(null),
                json!({"bootloader": {"bios": {}, "efi": {"secureBoot": false}}}),
                json!({}),
            )],
            field: "spec.domain.firmware.bootloader",
            words: "mutually exclusive",
        },
        Border {
            inside: vec![domain(json!({"firmware": {"kernelBoot": {}}}))],
            outside: vec![domain(json!({"firmware": {"kernelBoot": {"kernelArgs": "quiet"}}}))],
            field: "spec.domain.firmware.kernelBoot.kernelArgs",
            words: "without an external kernel",
        },
        Border {
            inside: vec![tables(json!({"slicNameRef": "t"}), secret.clone())],
            outside: vec![tables(json!({"slicNameRef": "t"}), image)],
            field: "spec.acpi.slicNameRef",
            words: "refers to Volume of unsupported type",
        },
        Border {
            inside: vec![tables(json!({"msdmNameRef": "t", "slicNameRef": ""}), secret.clone())],
            outside: vec![tables(json!({"msdmNameRef": "other", "slicNameRef": "t"}), secret)],
            field: "spec.acpi.msdmNameRef",
            words: "does not have a matching Volume",
        },
        Border {
            inside: vec![],
            outside: vec![
                tables(json!({"msdmNameRef": "", "slicNameRef": ""}), json!([])),
                tables(json!({}), json!([])),
            ],
            field: "spec.acpi",
            words: "no SLIC nor MSDM",
        },
    ];
    check(&[], borders);
}

#[test]
fn disks_and_their_volumes() {
    let disk = |disk: Value, source: Value| {
        let (mut disk, mut volume) = (disk, source);
        (disk["name"], volume["name"]) = (json!("a"), json!("a"));
        json!({"domain": {"devices": {"disks": [disk]}}, "volumes": [volume]})
    };
    let virtio = |over: Value| {
        let mut disk = json!({"disk": {"bus": "virtio"}});
        super::lay_over(&mut disk, over);
        disk
    };
    let image = || json!({"containerDisk": {"image": "x"}});
    let metrics = || json!({"downwardMetrics": {}});
    let custom = |state: Value| {
        let size = json!({"custom": {"logical": 512, "physical": 512}, "matchVolume": state});
        disk(virtio(json!({"blockSize": size})), image())
    };
    let claim = || json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}});
    let borders = vec![
        Border {
            inside: vec![
                disk(json!({"lun": {}}), json!({"dataVolume": {"name": "d"}})),
                disk(json!({"lun": {}}), claim()),
            ],
            outside: vec![
                disk(json!({"lun": {}}), image()),
                disk(json!({"lun": {}}), json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}})),
            ],
            field: "spec.domain.devices.disks[0].lun",
            words: "only be mapped to a DataVolume or PersistentVolumeClaim",
        },
        Border {
            inside: vec![disk(virtio(json!({})), metrics())],
            outside: vec![disk(json!({"disk": {"bus": "sata"}}), metrics())],
            field: "spec.domain.devices.disks[0].disk.bus",
            words: "must be mapped to virtio bus",
        },
        Border {
            inside: vec![],
            outside: vec![disk(json!({"cdrom": {"bus": "sata"}}), metrics())],
            field: "spec.domain.devices.disks[0].disk",
            words: "must be mapped to a disk",
        },
        Border {
            inside: vec![custom(json!(null)), custom(json!({"enabled": false}))],
            outside: vec![custom(json!({})), custom(json!({"enabled": true}))],
            field: "spec.domain.devices.disks[0].blockSize",
            words: "matching can't be enabled together with a custom value",
        },
        Border {
            // A hard disk on SATA has no way to be read-only; a CD-ROM is, and virtio can be.
            inside: vec![disk(json!({"cdrom": {"bus": "sata"}}), claim()), disk(virtio(json!({})), claim())],
            outside: vec![disk(json!({"disk": {"bus": "sata"}}), claim()), disk(json!({}), claim())],
            field: "spec.domain.devices.disks[0]",
            words: "its volume is read-only",
        },
        Border {
            inside: vec![disk(json!({"cdrom": {"bus": "scsi"}}), image())],
            outside: vec![disk(json!({"cdrom": {"bus": "virtio"}}), image())],
            field: "spec.domain.devices.disks[0].cdrom.bus",
            words: "virtio is invalid for CD-ROM",
        },
    ];
    check(&["DownwardMetrics"], borders);
}

#[test]
fn processors_and_threads() {
    let dedicated = |architecture: &str, threads: u32| {
        let cpu = json!({"dedicatedCpuPlacement": true, "cores": 1, "threads": threads});
        json!({"architecture": architecture, "domain": {"cpu": cpu}})
    };
    let pool = |count: Value| {
        domain(
            json!({"ioThreadsPolicy": "supplementalPool", "ioThreads": {"supplementalPoolThreadCount": count}}),
        )
    };
    let borders = vec![
        Border {
            inside: vec![dedicated("arm64", 1), dedicated("amd64", 2)],
            outside: vec![dedicated("arm64", 2)],
            field: "spec.architecture",
            words: "threads must not be greater than 1",
        },
        Border {
            inside: vec![pool(json!(1))],
            outside: vec![
                pool(json!(0)),
                pool(json!(null)),
                domain(json!({"ioThreadsPolicy": "supplementalPool"})),
            ],
            field: "spec.domain.ioThreads.count",
            words: "needs to be set and positive",
        },
        Border {
            inside: vec![domain(
                json!({"ioThreadsPolicy": "shared", "ioThreads": {"supplementalPoolThreadCount": 0}}),
            )],
            outside: vec![domain(json!({"ioThreadsPolicy": "dedicated"}))],
            field: "spec.domain.ioThreadsPolicy",
            words: "Invalid IOThreadsPolicy (dedicated)",
        },
    ];
    check(&[], borders);
}

#[test]
fn networks() {
    let one = |over: Value, network: Value| {
        let (mut interface, mut network) = (over, network);
        (interface["name"], network["name"]) = (json!("net"), json!("net"));
        json!({"domain": {"devices": {"interfaces": [interface]}}, "networks": [network]})
    };
    let multus = |default: bool| json!({"multus": {"networkName": "n", "default": default}});
    let state =
        |binding: &str, state: &str, network: Value| one(json!({binding: {}, "state": state}), network);
    let both = |first: Value, second: Value| {
        let (mut first, mut second) = (first, second);
        (first["name"], second["name"]) = (json!("a"), json!("b"));
        let interfaces = json!([{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}]);
        json!({"domain": {"devices": {"interfaces": interfaces}}, "networks": [first, second]})
    };
    let reserved = "02:00:00:00:00:00";
    let pod = || json!({"pod": {}});
    let field = "spec.domain.devices.interfaces[0].state";
    let borders = vec![
        Border {
            inside: vec![state("sriov", "", multus(false))],
            outside: vec![state("sriov", "up", multus(false)), state("sriov", "down", multus(false))],
            field,
            words: "is not supported for SR-IOV NICs",
        },
        Border {
            inside: vec![state("bridge", "absent", multus(false))],
            outside: vec![state("bridge", "absent", pod()), state("bridge", "absent", multus(true))],
            field,
            words: "is not supported on default networks",
        },
        Border {
            inside: vec![],
            outside: vec![state("sriov", "absent", multus(false))],
            field,
            words: "supported only for bridge binding",
        },
        Border {
            // The address is the pod's bridge's, which is there for masquerade.
            inside: vec![one(json!({"bridge": {}, "macAddress": reserved}), pod())],
            outside: vec![one(json!({"masquerade": {}, "macAddress": reserved}), pod())],
            field: "spec.domain.devices.interfaces[0].macAddress",
            words: "reserved for the in-pod bridge",
        },
        Border {
            inside: vec![both(pod(), multus(false)), both(multus(true), multus(false))],
            outside: vec![both(pod(), multus(true)), both(multus(true), pod())],
            field: "spec.networks",
            words: "cannot be defined when Multus default network is defined",
        },
        Border {
            inside: vec![],
            outside: vec![both(multus(true), multus(true))],
            field: "spec.networks",
            words: "only have one default network",
        },
    ];
    check(&[], borders);
}

/// Names of columns and where their values are.
type Columns<'a> = &'a [(&'a str, &'a str)];

/// The columns of `kubectl get`, as upstream's clients and their scripts know them; the last ones with `-o wide` alone.
#[test]
fn columns_of_kubectl() {
    let condition = |kind: &str| format!(".status.conditions[?(@.type=='{kind}')].status");
    let rows: [(&str, Columns<'_>, Columns<'_>); 3] = [
        (
            "VirtualMachine",
            &[
                ("Age", ".metadata.creationTimestamp"),
                ("Status", ".status.printableStatus"),
                ("Ready", &condition("Ready")),
            ],
            &[],
        ),
        (
            "VirtualMachineInstance",
            &[
                ("Age", ".metadata.creationTimestamp"),
                ("Phase", ".status.phase"),
                ("IP", ".status.interfaces[0].ipAddress"),
                ("NodeName", ".status.nodeName"),
                ("Ready", &condition("Ready")),
            ],
            &[("Live-Migratable", &condition("LiveMigratable")), ("Paused", &condition("Paused"))],
        ),
        ("KubeVirt", &[("Age", ".metadata.creationTimestamp"), ("Phase", ".status.phase")], &[]),
    ];
    for (kind, always, wide) in rows {
        let crd = ferrovirt_api::crd().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        assert!(crd.spec.names.categories.iter().flatten().any(|category| category == "all"), "{kind}");
        for version in &crd.spec.versions {
            let columns = |wanted: fn(i32) -> bool| -> Vec<(&str, &str)> {
                let all = version.additional_printer_columns.iter().flatten();
                let some = all.filter(|column| wanted(column.priority.unwrap_or_default()));
                some.map(|column| (column.name.as_str(), column.json_path.as_str())).collect()
            };
            assert_eq!(columns(|priority| priority == 0), always, "{kind} {}", version.name);
            assert_eq!(columns(|priority| priority > 0), wide, "{kind} {}", version.name);
        }
    }
}
