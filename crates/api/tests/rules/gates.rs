//! Feature gates, and the names of other objects.

use serde_json::{Value, json};

use super::{
    causes, cluster,
    limits::{Border, check, interface},
};

/// The source of a volume that names another object.
type Source = fn(&str) -> Value;

fn domain(over: Value) -> Value {
    json!({"domain": over})
}

/// A feature behind a gate is refused by the gate where it is off, and not by it where it is on.
#[test]
fn gates() {
    let device = |name: &str, value: Value| domain(json!({"devices": {name: value}}));
    let lun = json!({
        "domain": {"devices": {"disks": [{"name": "a", "lun": {"reservation": true}}]}},
        "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}],
    });
    let shared = json!({
        "domain": {"devices": {"filesystems": [{"name": "a", "virtiofs": {}}]}},
        "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}],
    });
    let secure = |kind: &str| {
        let efi = json!({"bootloader": {"efi": {"secureBoot": false}}});
        domain(json!({"launchSecurity": {kind: {}}, "firmware": efi}))
    };
    let rows = [
        (
            "HostDevices",
            device("hostDevices", json!([{"name": "h", "deviceName": "a/b"}])),
            "spec.HostDevices",
        ),
        ("VSOCK", device("autoattachVSOCK", json!(true)), "spec.domain.devices.autoattachVSOCK"),
        ("PersistentReservation", lun, "spec.domain.devices.disks.luns.reservation"),
        ("DownwardMetrics", device("downwardMetrics", json!({})), "spec.domain.devices.downwardMetrics"),
        ("EnableVirtioFsStorageVolumes", shared, "spec.domain.devices.filesystems"),
        ("RebootPolicy", domain(json!({"rebootPolicy": "Terminate"})), "spec.domain.rebootPolicy"),
        ("WorkloadEncryptionSEV", secure("sev"), "spec.launchSecurity"),
        ("WorkloadEncryptionSEV", secure("snp"), "spec.launchSecurity"),
        ("WorkloadEncryptionTDX", secure("tdx"), "spec.launchSecurity"),
        (
            "ReservedOverheadMemlock",
            domain(json!({"memory": {"reservedOverhead": {"memLock": "Required"}}})),
            "spec.domain.memory.reservedOverhead",
        ),
        (
            "PasstBinding",
            interface(json!({"masquerade": null, "passtBinding": {}})),
            "spec.domain.devices.interfaces[0].name",
        ),
        (
            "HostDisk",
            json!({"volumes": [{"name": "a", "hostDisk": {"path": "/a", "type": "Disk"}}]}),
            "spec.volumes[0]",
        ),
    ];
    for (gate, spec, field) in rows {
        let mut off = cluster(&[]);
        off.feature_gates.remove(gate);
        let refused = causes(spec.clone(), &off);
        assert!(refused.iter().any(|(at, _)| at == field), "{gate}: {refused:?}");
        assert!(
            refused.iter().all(|(_, message)| !message.starts_with("not supported yet")),
            "{gate}: {refused:?}"
        );
        let on = causes(spec, &cluster(&[gate]));
        assert!(on.iter().all(|(_, message)| message.starts_with("not supported yet")), "{gate}: {on:?}");
    }
}

/// Every name of another object is a name: it becomes a part of a request's path.
#[test]
fn names_of_other_objects() {
    let of = |kind: &str, source: Value| json!({"volumes": [{"name": "a", kind: source}]});
    let boot = |secret: &str| {
        let container = json!({"image": "i", "kernelPath": "/k", "imagePullSecret": secret});
        domain(json!({"firmware": {"kernelBoot": {"container": container}}}))
    };
    let rows: [(&str, Source, &str); 13] = [
        ("cloudInitNoCloud", |name| json!({"secretRef": {"name": name}}), "secretRef.name"),
        (
            "cloudInitNoCloud",
            |name| json!({"networkDataSecretRef": {"name": name}}),
            "networkDataSecretRef.name",
        ),
        ("cloudInitConfigDrive", |name| json!({"secretRef": {"name": name}}), "secretRef.name"),
        (
            "cloudInitConfigDrive",
            |name| json!({"networkDataSecretRef": {"name": name}}),
            "networkDataSecretRef.name",
        ),
        ("configMap", |name| json!({"name": name}), "name"),
        ("containerDisk", |name| json!({"image": "x", "imagePullSecret": name}), "imagePullSecret"),
        ("dataVolume", |name| json!({"name": name}), "name"),
        (
            "ephemeral",
            |name| json!({"persistentVolumeClaim": {"claimName": name}}),
            "persistentVolumeClaim.claimName",
        ),
        ("persistentVolumeClaim", |name| json!({"claimName": name}), "claimName"),
        ("secret", |name| json!({"secretName": name}), "secretName"),
        ("serviceAccount", |name| json!({"serviceAccountName": name}), "serviceAccountName"),
        ("sysprep", |name| json!({"secret": {"name": name}}), "secret.name"),
        ("sysprep", |name| json!({"configMap": {"name": name}}), "configMap.name"),
    ];
    let mut borders = Vec::new();
    for (kind, source, field) in rows {
        borders.push(Border {
            inside: vec![of(kind, source("a-name.of-it"))],
            outside: ["../other/x", "a/b", "Name", "a?b"].map(|name| of(kind, source(name))).into(),
            field: format!("spec.volumes[0].{kind}.{field}").leak(),
            words: "is not a name of an object",
        });
    }
    borders.push(Border {
        inside: vec![boot("s"), json!({"priorityClassName": "high"})],
        outside: vec![boot("../s")],
        field: "spec.domain.firmware.kernelBoot.container.imagePullSecret",
        words: "is not a name of an object",
    });
    check(&[], borders);
}
