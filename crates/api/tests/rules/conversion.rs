//! From the wire into the model: each field arrives in its own place. No two values here are equal, so that what is taken
//! from a wrong field is seen.

use ferrovirt_api::machine;
use ferrovirt_model::{
    Bytes, Machine,
    machine::{
        Binding, Bus, Cache, DiskTarget, KernelBoot, MAX_TAP_QUEUES, NicModel, Payload, Protocol, Scheduling,
        Source,
    },
};
use serde_json::{Value, json};

use super::{instance, specification};

fn converted(over: Value) -> Machine {
    machine(&instance(specification(over))).unwrap()
}

/// Field and message of each cause for which there is no machine.
fn refused(over: Value) -> Vec<(String, String)> {
    let causes = machine(&instance(specification(over))).unwrap_err();
    causes.into_iter().map(|cause| (cause.field, cause.message)).collect()
}

#[test]
fn processors_memory_and_resources() {
    let machine = converted(json!({"domain": {
        "cpu": {"sockets": 2, "cores": 3, "threads": 5, "model": "Haswell"},
        "memory": {"guest": "6Mi", "hugepages": {"pageSize": "2Mi"}},
        "resources": {"requests": {"cpu": "1100m", "memory": "7Mi"}, "limits": {"cpu": "13", "memory": "17Mi"}},
    }}));
    let cpu = &machine.cpu;
    assert_eq!((cpu.sockets, cpu.cores, cpu.threads, cpu.model.as_str()), (2, 3, 5, "Haswell"));
    assert_eq!((cpu.request_millis, cpu.limit_millis), (Some(1100), Some(13_000)));
    let memory = &machine.memory;
    assert_eq!((memory.guest, memory.huge_pages.map(|page| page.bytes())), (Bytes::mib(6), Some(2 << 20)));
    assert_eq!((memory.request, memory.limit), (Some(Bytes::mib(7)), Some(Bytes::mib(17))));
}

/// Where no guest memory is given: the request, else the limit, else one huge page. Zero is as good as nothing.
#[test]
fn guest_memory_is_taken_from_the_first_that_is_given() {
    let guest = |memory: Value, requests: Value, limits: Value| {
        let spec = json!({"domain": {"devices": {}, "memory": memory, "resources": {"requests": requests, "limits": limits}}});
        machine(&instance(spec)).map(|machine| machine.memory.guest)
    };
    let mib = |mib: u64| json!({"memory": format!("{mib}Mi")});
    let page = json!({"hugepages": {"pageSize": "2Mi"}});
    assert_eq!(guest(json!({"guest": "8Mi"}), mib(6), mib(10)), Ok(Bytes::mib(8)));
    assert_eq!(guest(page.clone(), mib(6), mib(10)), Ok(Bytes::mib(6)));
    assert_eq!(guest(page.clone(), mib(0), mib(10)), Ok(Bytes::mib(10)));
    assert_eq!(guest(page, json!({}), json!({})), Ok(Bytes::mib(2)));
    assert_eq!(guest(json!({}), json!({}), json!({})).unwrap_err()[0].field, "spec.domain.memory.guest");
    let odd = guest(json!({"guest": "3Mi", "hugepages": {"pageSize": "2Mi"}}), json!({}), json!({}));
    assert_eq!(odd.unwrap_err()[0].field, "spec.domain.memory.guest");
}

#[test]
fn firmware_and_devices() {
    let machine = converted(json!({"domain": {
        "machine": {"type": "pc-q35-8.2"},
        "features": {"acpi": {"enabled": false}},
        "firmware": {
            "uuid": "5D307CA9B3EF428C886106E72D69F223", "serial": "s-1",
            "kernelBoot": {"kernelArgs": "quiet", "container": {"image": "i", "kernelPath": "/k", "initrdPath": "/r"}},
        },
        "devices": {
            "autoattachGraphicsDevice": false, "autoattachMemBalloon": true, "autoattachSerialConsole": false,
            "rng": {}, "blockMultiQueue": true,
        },
    }}));
    assert_eq!((machine.machine_type.as_str(), machine.acpi), ("pc-q35-8.2", false));
    assert_eq!(machine.firmware.uuid, "5d307ca9-b3ef-428c-8861-06e72d69f223");
    assert_eq!(machine.firmware.serial.as_deref(), Some("s-1"));
    let boot = KernelBoot {
        image: "i".into(),
        kernel_path: Some("/k".into()),
        initrd_path: Some("/r".into()),
        args: "quiet".into(),
    };
    assert_eq!(machine.firmware.kernel_boot, Some(boot));
    let devices = &machine.devices;
    assert!(!devices.graphics && !devices.serial_console);
    assert!(devices.balloon && devices.rng && devices.block_multi_queue);

    let plain = converted(json!({}));
    let devices = &plain.devices;
    assert!(plain.acpi && devices.graphics && devices.serial_console && devices.balloon);
    assert!(!devices.rng && !devices.block_multi_queue && !plain.start_paused);
    assert_eq!(
        (plain.machine_type.as_str(), plain.cpu.model.as_str(), plain.grace_seconds),
        ("q35", "host-model", 30)
    );

    let initrd = json!({"firmware": {"kernelBoot": {"container": {"image": "i", "initrdPath": "/r"}}}});
    assert_eq!(
        refused(json!({"domain": initrd}))[0].0,
        "spec.domain.firmware.kernelBoot.container.kernelPath"
    );
}

/// A machine without a UUID has one that depends on its own name and namespace alone.
#[test]
fn a_machines_own_uuid() {
    let uuid = |namespace: &str, name: &str, memory: &str| {
        let mut vmi = instance(specification(json!({"domain": {"memory": {"guest": memory}}})));
        (vmi.metadata.namespace, vmi.metadata.name) = (Some(namespace.into()), Some(name.into()));
        machine(&vmi).unwrap().firmware.uuid
    };
    assert_eq!(uuid("a", "b", "64Mi"), uuid("a", "b", "65Mi"));
    assert_ne!(uuid("a", "b", "64Mi"), uuid("a", "c", "64Mi"));
    assert_ne!(uuid("a", "b", "64Mi"), uuid("c", "b", "64Mi"));
}

#[test]
fn scheduling_and_life() {
    let machine = converted(json!({
        "nodeSelector": {"k": "v"}, "hostname": "h", "subdomain": "d", "serviceAccountName": "a",
        "priorityClassName": "p", "schedulerName": "s", "startStrategy": "Paused", "terminationGracePeriodSeconds": 7,
    }));
    let scheduling = Scheduling {
        node_selector: [("k".to_owned(), "v".to_owned())].into(),
        hostname: Some("h".into()),
        subdomain: Some("d".into()),
        service_account: Some("a".into()),
        priority_class: Some("p".into()),
        scheduler: Some("s".into()),
    };
    assert_eq!(machine.scheduling, scheduling);
    assert_eq!((machine.grace_seconds, machine.start_paused), (7, true));
    let seconds = |seconds: i64| converted(json!({"terminationGracePeriodSeconds": seconds})).grace_seconds;
    assert_eq!([seconds(-5), seconds(0), seconds(i64::MAX)], [0, 0, u32::MAX]);
    let empty = json!({"hostname": "", "subdomain": "", "serviceAccountName": "", "priorityClassName": "", "schedulerName": ""});
    assert_eq!(converted(empty).scheduling, Scheduling::default());
}

#[test]
fn every_source_of_a_disk() {
    let source = |source: Value| {
        let mut volume = source;
        volume["name"] = json!("a");
        converted(json!({"domain": {"devices": {"disks": [{"name": "a"}]}}, "volumes": [volume]})).disks[0]
            .source
            .clone()
    };
    let claim = |read_only, ephemeral| Source::Claim { claim: "c".into(), read_only, ephemeral };
    let host = |create: Option<Bytes>| Source::HostDisk { path: "/d".into(), create };
    let seed = |user_data, network_data| Source::CloudInit { user_data, network_data };
    let inline = |text: &str| Some(Payload::Inline(text.into()));
    let secret = |name: &str| Some(Payload::Secret(name.into()));
    let rows = [
        (
            json!({"containerDisk": {"image": "i", "path": ""}}),
            Source::ContainerDisk { image: "i".into(), path: None },
        ),
        (
            json!({"containerDisk": {"image": "i", "path": "/p"}}),
            Source::ContainerDisk { image: "i".into(), path: Some("/p".into()) },
        ),
        (json!({"hostDisk": {"path": "/d", "type": "Disk", "capacity": "1Mi"}}), host(None)),
        (
            json!({"hostDisk": {"path": "/d", "type": "DiskOrCreate", "capacity": "1Mi"}}),
            host(Some(Bytes::mib(1))),
        ),
        (json!({"hostDisk": {"path": "/d", "type": "DiskOrCreate", "capacity": "0"}}), host(None)),
        (json!({"hostDisk": {"path": "/d", "type": "DiskOrCreate"}}), host(None)),
        (json!({"emptyDisk": {"capacity": "3Mi"}}), Source::EmptyDisk { capacity: Bytes::mib(3) }),
        (json!({"persistentVolumeClaim": {"claimName": "c"}}), claim(false, false)),
        (json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}), claim(true, false)),
        (json!({"dataVolume": {"name": "c"}}), claim(false, false)),
        (json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}), claim(false, true)),
        (
            json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}}),
            claim(true, true),
        ),
        (json!({"cloudInitNoCloud": {"userData": "u", "networkData": "n"}}), seed(inline("u"), inline("n"))),
        (
            json!({"cloudInitNoCloud": {"userDataBase64": "dQ==", "networkDataBase64": "bg=="}}),
            seed(inline("u"), inline("n")),
        ),
        (
            json!({"cloudInitNoCloud": {"secretRef": {"name": "u"}, "networkDataSecretRef": {"name": "n"}}}),
            seed(secret("u"), secret("n")),
        ),
        (json!({"cloudInitNoCloud": {"userData": "", "networkData": "n"}}), seed(None, inline("n"))),
    ];
    for (volume, expected) in rows {
        assert_eq!(source(volume.clone()), expected, "{volume}");
    }
}

#[test]
fn a_disk_with_everything() {
    let disk = |disk: Value| {
        let mut over = json!({"name": "a"});
        super::lay_over(&mut over, disk);
        // A second volume, so that one is found by name and not by place.
        let volumes = json!([{"name": "b", "emptyDisk": {"capacity": "2Mi"}}, {"name": "a", "emptyDisk": {"capacity": "1Mi"}}]);
        converted(json!({"domain": {"devices": {"disks": [over, {"name": "b"}]}}, "volumes": volumes}))
            .disks
            .remove(0)
    };
    let full = disk(
        json!({"disk": {"bus": "scsi", "readonly": true}, "serial": "s", "bootOrder": 3, "cache": "writeback"}),
    );
    assert_eq!((full.target, full.bus, full.read_only), (DiskTarget::Disk, Bus::Scsi, true));
    assert_eq!(
        (full.serial.as_deref(), full.boot_order, full.cache),
        (Some("s"), Some(3), Some(Cache::Writeback))
    );
    assert_eq!(full.source, Source::EmptyDisk { capacity: Bytes::mib(1) });
    for (name, bus) in [
        ("virtio", Bus::Virtio),
        ("sata", Bus::Sata),
        ("scsi", Bus::Scsi),
        ("usb", Bus::Usb),
        ("", Bus::Sata),
    ] {
        assert_eq!(disk(json!({"disk": {"bus": name}})).bus, bus, "{name}");
    }
    for (name, cache) in
        [("", None), ("none", Some(Cache::None)), ("writethrough", Some(Cache::Writethrough))]
    {
        assert_eq!(disk(json!({"cache": name})).cache, cache, "{name}");
    }
    // A CD-ROM is read-only unless it says otherwise; a disk is not.
    let read_only = |over: Value| disk(over).read_only;
    assert!(read_only(json!({"cdrom": {}})) && !read_only(json!({"cdrom": {"readonly": false}})));
    assert!(!read_only(json!({})) && !read_only(json!({"disk": {}})));
    assert_eq!(disk(json!({"cdrom": {}})).target, DiskTarget::Cdrom);
}

#[test]
fn what_is_no_disk() {
    let disks = |disks: Value, volumes: Value| {
        refused(json!({"domain": {"devices": {"disks": disks}}, "volumes": volumes}))
    };
    let volume = json!({"name": "a", "emptyDisk": {"capacity": "1Mi"}});
    let one = |disk: Value| disks(json!([disk]), json!([volume]))[0].0.clone();
    assert_eq!(one(json!({"name": "a", "disk": {"bus": "fdc"}})), "spec.domain.devices.disks[0]");
    assert_eq!(one(json!({"name": "a", "cache": "unsafe"})), "spec.domain.devices.disks[0].cache");
    let causes = disks(json!([]), json!([volume]));
    assert_eq!(causes[0].0, "spec.volumes[0].name");
    let causes = disks(json!([{"name": "a"}, {"name": "b"}]), json!([volume]));
    assert_eq!(causes[0].0, "spec.domain.devices.disks[1].name");
    let with = |source: Value| {
        let mut volume = source;
        volume["name"] = json!("a");
        disks(json!([{"name": "a"}]), json!([volume]))[0].0.clone()
    };
    assert_eq!(with(json!({})), "spec.volumes[0]");
    assert_eq!(
        with(json!({"emptyDisk": {"capacity": "1Mi"}, "persistentVolumeClaim": {"claimName": "c"}})),
        "spec.volumes[0]"
    );
    assert_eq!(one(json!({"name": "a", "disk": {}, "cdrom": {}})), "spec.domain.devices.disks[0]");
    assert_eq!(with(json!({"containerDisk": {"image": ""}})), "spec.volumes[0].containerDisk.image");
    assert_eq!(with(json!({"emptyDisk": {"capacity": "0"}})), "spec.volumes[0].emptyDisk.capacity");
    assert_eq!(
        with(json!({"persistentVolumeClaim": {"claimName": ""}})),
        "spec.volumes[0].persistentVolumeClaim"
    );
    assert_eq!(with(json!({"ephemeral": {}})), "spec.volumes[0].ephemeral.persistentVolumeClaim");
    assert_eq!(
        with(json!({"cloudInitNoCloud": {"networkDataBase64": "*"}})),
        "spec.volumes[0].cloudInitNoCloud.networkDataBase64"
    );
}

fn interface(over: Value, cpu: Value, multi_queue: bool) -> Value {
    let mut nic = json!({"name": "net", "masquerade": {}});
    super::lay_over(&mut nic, over);
    json!({
        "domain": {"cpu": cpu, "devices": {"networkInterfaceMultiqueue": multi_queue, "interfaces": [nic]}},
        "networks": [{"name": "other", "multus": null}, {"name": "net", "pod": {}}],
    })
}

#[test]
fn an_interface_with_everything() {
    let nic = |over: Value| converted(interface(over, json!({}), false)).interfaces.remove(0);
    let full = nic(json!({
        "model": "e1000e", "macAddress": "de-ad-00-00-be-af", "bootOrder": 2,
        "ports": [{"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 65535}],
    }));
    assert_eq!((full.name.as_str(), full.model, full.boot_order), ("net", NicModel::E1000e, Some(2)));
    assert_eq!((full.mac, full.binding), (Some([0xde, 0xad, 0, 0, 0xbe, 0xaf]), Binding::Masquerade));
    let ports: Vec<_> =
        full.ports.iter().map(|port| (port.name.as_deref(), port.protocol, port.port)).collect();
    assert_eq!(ports, [(Some("dns"), Protocol::Udp, 53), (None, Protocol::Tcp, 65535)]);
    assert_eq!(nic(json!({"masquerade": null, "bridge": {}})).binding, Binding::Bridge);
    for (name, model) in [("", NicModel::Virtio), ("e1000", NicModel::E1000), ("rtl8139", NicModel::Rtl8139)]
    {
        assert_eq!(nic(json!({"model": name})).model, model, "{name}");
    }
    let field = |over: Value| refused(interface(over, json!({}), false))[0].0.clone();
    let at = |name: &str| format!("spec.domain.devices.interfaces[0]{name}");
    assert_eq!(field(json!({"bridge": {}})), at(""));
    assert_eq!(field(json!({"name": "other"})), at(".name"));
    assert_eq!(field(json!({"macAddress": "01:00:00:00:00:00"})), at(".macAddress"));
    assert_eq!(field(json!({"macAddress": "x"})), at(".macAddress"));
    assert_eq!(field(json!({"ports": [{"port": 1}, {"port": 0}]})), at(".ports[1].port"));
    assert_eq!(field(json!({"ports": [{"port": 65536}]})), at(".ports[0].port"));
    assert_eq!(field(json!({"ports": [{"port": 1, "protocol": "SCTP"}]})), at(".ports[0].protocol"));
}

/// One TAP has no more queues than the kernel gives it.
#[test]
fn queues_end_where_the_kernel_ends() {
    let queues = |cpu: Value| converted(interface(json!({}), cpu, true)).interfaces[0].queues;
    assert_eq!(queues(json!({"sockets": 16, "cores": 16})), MAX_TAP_QUEUES);
    assert_eq!(queues(json!({"sockets": 257})), MAX_TAP_QUEUES);
    assert_eq!(queues(json!({"sockets": u32::MAX, "cores": u32::MAX})), MAX_TAP_QUEUES);
}

#[test]
fn a_machine_has_a_name() {
    let mut vmi = instance(specification(json!({})));
    vmi.metadata.uid = Some("u".into());
    let named = machine(&vmi).unwrap();
    assert_eq!((named.namespace.as_str(), named.name.as_str(), named.uid.as_str()), ("default", "vm", "u"));
    vmi.metadata.name = None;
    assert_eq!(machine(&vmi).unwrap_err()[0].field, "metadata.name");
}
