//! Rules with a border about disks, the pod, processors and memory.

use serde_json::{Value, json};

use super::{
    causes, cluster, lay_over,
    limits::{Border, check},
};

fn disk(over: Value) -> Value {
    let mut disk = json!({"name": "a", "disk": {"bus": "virtio"}});
    lay_over(&mut disk, over);
    json!({"domain": {"devices": {"disks": [disk]}}, "volumes": [{"name": "a", "containerDisk": {"image": "x"}}]})
}

fn domain(over: Value) -> Value {
    json!({"domain": over})
}

#[test]
fn disks() {
    let serial = |length: usize| disk(json!({"serial": "s".repeat(length)}));
    let block = |logical: u32, physical: u32, discard: Value| {
        disk(
            json!({"blockSize": {"custom": {"logical": logical, "physical": physical, "discardGranularity": discard}}}),
        )
    };
    let sata = |logical: u32| {
        let custom = json!({"logical": logical, "physical": 4096});
        disk(json!({"disk": {"bus": "sata"}, "blockSize": {"custom": custom}}))
    };
    let path = |name: &str| format!("spec.domain.devices.disks[0].blockSize.custom.{name}");
    let [logical, physical, discard] =
        ["logical", "physical", "discardGranularity"].map(path).map(|path| &*path.leak());
    check(
        &[],
        vec![
            Border {
                inside: vec![],
                outside: vec![serial(257)],
                field: "spec.domain.devices.disks[0].serial",
                words: "less than or equal to 256",
            },
            Border {
                inside: vec![block(512, 2_097_152, json!(null)), block(2_097_152, 2_097_152, json!(null))],
                outside: vec![block(512, 4_194_304, json!(null))],
                field: physical,
                words: "greater than the supported maximum size of 2097152",
            },
            Border {
                inside: vec![],
                outside: vec![block(256, 512, json!(null))],
                field: logical,
                words: "less than the supported minimum size of 512",
            },
            Border {
                inside: vec![block(4096, 4096, json!(null))],
                outside: vec![block(4096, 2048, json!(null))],
                field: logical,
                words: "the same or less than the physical size of 2048",
            },
            Border {
                inside: vec![block(512, 512, json!(0)), block(512, 512, json!(1024))],
                outside: vec![block(512, 512, json!(1000))],
                field: discard,
                words: "must be multiples of logical size 512",
            },
            Border {
                inside: vec![sata(512)],
                outside: vec![sata(1024)],
                field: logical,
                words: "must be 512 for SATA",
            },
            Border {
                inside: vec![disk(json!({"dedicatedIOThread": true}))],
                outside: vec![disk(json!({"dedicatedIOThread": true, "disk": {"bus": "scsi"}}))],
                field: "spec.domain.devices.disks.domain.devices.disks[0]",
                words: "IOThreads are not supported for disks on a scsi bus",
            },
            Border {
                inside: vec![disk(json!({"io": "native"})), disk(json!({"io": "threads"}))],
                outside: vec![disk(json!({"io": "uring"}))],
                field: "spec.domain.devices.disks.domain.devices.disks[0].io",
                words: "Supported modes are: native, threads.",
            },
            Border {
                inside: vec![disk(json!({"errorPolicy": "report"}))],
                outside: vec![disk(json!({"errorPolicy": "panic"}))],
                field: "spec.domain.devices.disks[0].errorPolicy",
                words: "has invalid value \"panic\"",
            },
            Border {
                inside: vec![disk(json!({"disk": {"pciAddress": "0000:81:01.0"}}))],
                outside: vec![disk(json!({"disk": {"bus": "sata", "pciAddress": "0000:81:01.0"}}))],
                field: "spec.domain.devices.disks.domain.devices.disks.disk[0].pciAddress",
                words: "only possible with bus type virtio",
            },
        ],
    );
}

/// The limit is one of bytes of data, not of their encoding, and holds for each kind of data alone.
#[test]
fn seeds() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let encoded = |length: usize| STANDARD.encode(vec![b'x'; length]);
    let seed = |data: Value| json!({"volumes": [{"name": "a", "cloudInitNoCloud": data}]});
    let field = "spec.volumes[0].cloudInitNoCloud";
    check(
        &[],
        vec![
            Border {
                inside: vec![
                    seed(json!({"userData": "x".repeat(2048), "networkData": "x".repeat(2048)})),
                    seed(json!({"userDataBase64": encoded(2048)})),
                ],
                outside: vec![
                    seed(json!({"userData": "x".repeat(2049)})),
                    seed(json!({"userDataBase64": encoded(2049)})),
                ],
                field,
                words: "userdata exceeds 2048 byte limit",
            },
            Border {
                inside: vec![seed(json!({"networkDataBase64": encoded(2048)}))],
                outside: vec![
                    seed(json!({"networkData": "x".repeat(2049)})),
                    seed(json!({"networkDataBase64": encoded(2049)})),
                ],
                field,
                words: "networkdata exceeds 2048 byte limit",
            },
            Border {
                inside: vec![seed(json!({"secretRef": {"name": "s"}, "networkData": "x"}))],
                outside: vec![seed(
                    json!({"userData": "x", "networkData": "x", "networkDataBase64": encoded(1)}),
                )],
                field,
                words: "must have only one networkdata source set",
            },
        ],
    );
}

#[test]
fn the_pod() {
    let dns = |policy: &str, config: Value| json!({"dnsPolicy": policy, "dnsConfig": config});
    let servers = |count: usize| json!({"nameservers": vec!["10.0.0.1"; count]});
    let searches = |length: usize, count: usize| json!({"nameservers": ["::1"], "searches": vec!["x".repeat(length); count]});
    // Two domains and the blank between them: 256 and 257 characters.
    let long = |last: usize| {
        let domain =
            |length: usize| format!("{}.{}.{}", "a".repeat(40), "b".repeat(40), "c".repeat(length - 82));
        json!({"nameservers": ["::1"], "searches": [domain(127), domain(last)]})
    };
    check(
        &[],
        vec![
            Border {
                inside: vec![json!({"hostname": "h".repeat(63)})],
                outside: vec![json!({"hostname": "h".repeat(64)}), json!({"hostname": "a.b"})],
                field: "spec.hostname",
                words: "DNS_LABEL",
            },
            Border {
                inside: vec![json!({"subdomain": "a.b"})],
                outside: vec![json!({"subdomain": "a..b"})],
                field: "spec.subdomain",
                words: "DNS_SUBDOMAIN",
            },
            Border {
                inside: vec![dns("None", servers(1)), dns("None", servers(3))],
                outside: vec![dns("None", servers(4))],
                field: "nameservers",
                words: "not have more than 3 nameservers",
            },
            Border {
                inside: vec![dns("ClusterFirst", servers(0))],
                outside: vec![dns("None", servers(0))],
                field: "nameservers",
                words: "at least one DNS nameserver",
            },
            Border {
                inside: vec![],
                outside: vec![json!({"dnsPolicy": "None"})],
                field: "spec.dnsConfig",
                words: "must provide `dnsConfig`",
            },
            Border {
                inside: vec![dns("None", searches(1, 6))],
                outside: vec![dns("None", searches(1, 7))],
                field: "searchDomains",
                words: "more than 6 search paths",
            },
            Border {
                inside: vec![dns("None", long(128))],
                outside: vec![dns("None", long(129))],
                field: "searchDomains",
                words: "more than 256 characters",
            },
            Border {
                inside: vec![json!({"startStrategy": "Paused"})],
                outside: vec![json!({"startStrategy": "Paused", "livenessProbe": {"exec": {}}})],
                field: "spec.startStrategy",
                words: "Pausing VMI with LivenessProbe is not supported",
            },
            Border {
                inside: vec![json!({"readinessProbe": {"exec": {}}})],
                outside: vec![json!({"readinessProbe": {"exec": {}, "guestAgentPing": {}}})],
                field: "spec.readinessProbe",
                words: "must have exactly one probe type set",
            },
        ],
    );
}

#[test]
fn processors_and_memory() {
    let resources = |resources: Value| domain(json!({"resources": resources}));
    let dedicated = |cpu: Value, resources: Value| {
        let mut cpu = cpu;
        lay_over(&mut cpu, json!({"dedicatedCpuPlacement": true}));
        domain(json!({"cpu": cpu, "resources": resources}))
    };
    let pages = |size: &str, guest: &str| {
        domain(json!({"memory": {"guest": guest, "hugepages": {"pageSize": size}}}))
    };
    check(
        &[],
        vec![
            Border {
                inside: vec![resources(json!({"requests": {"memory": "1M"}}))],
                outside: vec![resources(json!({"requests": {"memory": "999999"}}))],
                field: "spec.domain.resources.requests.memory",
                words: "greater than or equal to 1M",
            },
            Border {
                inside: vec![resources(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2000m"}}))],
                outside: vec![resources(json!({"requests": {"cpu": "2001m"}, "limits": {"cpu": "2"}}))],
                field: "spec.domain.resources.requests.cpu",
                words: "is greater than",
            },
            Border {
                inside: vec![pages("2Mi", "64Mi"), pages("64Mi", "64Mi")],
                outside: vec![pages("128Mi", "64Mi")],
                field: "spec.domain.resources.requests.memory",
                words: "equal to or larger than page size",
            },
            Border {
                inside: vec![],
                outside: vec![pages("2Mi", "63Mi")],
                field: "spec.domain.resources.requests.memory",
                words: "is not a multiple of the page size",
            },
            Border {
                inside: vec![dedicated(json!({"cores": 1, "threads": 2}), json!({}))],
                outside: vec![dedicated(json!({"cores": 1, "threads": 3}), json!({}))],
                field: "spec.domain.cpu.dedicatedCpuPlacement",
                words: "Not more than two threads",
            },
            Border {
                inside: vec![dedicated(json!({"sockets": 2, "cores": 2}), json!({"limits": {"cpu": "4"}}))],
                outside: vec![dedicated(json!({"sockets": 2, "cores": 2}), json!({"limits": {"cpu": "3"}}))],
                field: "spec.domain.cpu.dedicatedCpuPlacement",
                words: "must not be provided at the same time",
            },
            Border {
                inside: vec![dedicated(
                    json!({"cores": 1}),
                    json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "65536Ki"}}),
                )],
                outside: vec![dedicated(
                    json!({"cores": 1}),
                    json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "65Mi"}}),
                )],
                field: "spec.domain.resources.requests.memory",
                words: "must be equal to",
            },
            Border {
                inside: vec![
                    domain(json!({"cpu": {"sockets": 4, "maxSockets": 4}})),
                    domain(json!({"cpu": {"sockets": 4, "maxSockets": 0}})),
                ],
                outside: vec![domain(json!({"cpu": {"sockets": 5, "maxSockets": 4}}))],
                field: "spec.domain.cpu.sockets",
                words: "greater than the maximum sockets",
            },
            Border {
                inside: vec![domain(json!({"cpu": {"sockets": 5, "cores": 51}}))],
                outside: vec![domain(json!({"cpu": {"sockets": 2, "cores": 128}}))],
                field: "spec.domain.cpu",
                words: "255",
            },
        ],
    );
    let mut config = cluster(&[]);
    config.live_update = false;
    let limited = |limit: &str| resources(json!({"limits": {"memory": limit}}));
    assert!(causes(limited("64Mi"), &config).is_empty());
    assert_eq!(causes(limited("65535Ki"), &config)[0].0, "spec.domain.memory.guest");
}
