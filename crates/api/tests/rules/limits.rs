//! Rules with a border, here those of networks: what is just inside passes, what is just outside is refused at its field.

use serde_json::{Value, json};

use super::{causes, cluster};

/// Both sides of one border. What passes upstream's rule may still be refused as not built yet.
pub(super) struct Border {
    pub(super) inside: Vec<Value>,
    pub(super) outside: Vec<Value>,
    pub(super) field: &'static str,
    pub(super) words: &'static str,
}

pub(super) fn check(gates: &[&str], borders: Vec<Border>) {
    let config = cluster(gates);
    for Border { inside, outside, field, words } in borders {
        for spec in inside {
            let found = causes(spec.clone(), &config);
            let refused = found.iter().find(|(_, message)| !message.starts_with("not supported yet: "));
            assert!(refused.is_none(), "{words}: {spec}: {found:?}");
        }
        for spec in outside {
            let found = causes(spec.clone(), &config);
            let fits = found.len() == 1 && found[0].0 == field && found[0].1.contains(words);
            assert!(fits, "{words}: {spec}: {found:?}");
        }
    }
}

pub(super) fn interface(over: Value) -> Value {
    let mut interface = json!({"name": "net", "masquerade": {}});
    super::lay_over(&mut interface, over);
    json!({"domain": {"devices": {"interfaces": [interface]}}, "networks": [{"name": "net", "pod": {}}]})
}

#[test]
fn interfaces() {
    let option = |numbers: &[i32]| {
        let options: Vec<_> = numbers.iter().map(|number| json!({"option": number, "value": "v"})).collect();
        interface(json!({"dhcpOptions": {"privateOptions": options}}))
    };
    let port = |ports: Value| interface(json!({"ports": ports}));
    let servers = |server: &str| interface(json!({"dhcpOptions": {"ntpServers": ["10.0.0.1", server]}}));
    let mac = |address: &str| interface(json!({"macAddress": address}));
    check(
        &[],
        vec![
            Border {
                inside: vec![option(&[224, 254])],
                outside: vec![option(&[223]), option(&[255])],
                field: "spec",
                words: "must be in range 224 to 254",
            },
            Border {
                inside: vec![],
                outside: vec![option(&[240, 240])],
                field: "spec",
                words: "duplicate DHCPPrivateOptions",
            },
            Border {
                inside: vec![servers("10.0.0.2")],
                outside: vec![servers("fd00::1"), servers("time.example.com")],
                field: "spec.domain.devices.interfaces[0].dhcpOptions.ntpServers[1]",
                words: "valid IPv4 addresses",
            },
            Border {
                inside: vec![port(json!([{"port": 1}, {"port": 65535, "protocol": "UDP"}]))],
                outside: vec![port(json!([{"port": -1}])), port(json!([{"port": 65536}]))],
                field: "spec.domain.devices.interfaces[0].ports[0].port",
                words: "in range 0 < x < 65536",
            },
            Border {
                inside: vec![port(json!([{"port": 1, "name": "a"}, {"port": 2, "name": "b"}]))],
                outside: vec![port(json!([{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]))],
                field: "spec.domain.devices.interfaces[0].ports[1].name",
                words: "Duplicate name of the port: a",
            },
            Border {
                inside: vec![mac("de:ad:00:00:be:af"), mac("de-ad-00-00-be-af"), mac("dead.0000.beaf")],
                outside: vec![mac("de:ad:00:00:be:af:00:01")],
                field: "spec.domain.devices.interfaces[0].macAddress",
                words: "too long MAC address",
            },
            Border {
                inside: vec![interface(json!({"pciAddress": "0000:81:01.7"}))],
                outside: vec![interface(json!({"pciAddress": "0000:81:01.8"}))],
                field: "spec.domain.devices.interfaces[0].pciAddress",
                words: "malformed PCI address",
            },
            Border {
                inside: vec![interface(json!({"bootOrder": 1}))],
                outside: vec![interface(json!({"bootOrder": 0}))],
                field: "spec[0].bootOrder",
                words: "must have a boot order > 0",
            },
            Border {
                inside: vec![interface(json!({"state": "up"})), interface(json!({"state": "down"}))],
                outside: vec![interface(json!({"state": "asleep"}))],
                field: "spec.domain.devices.interfaces[0].state",
                words: "state value is unsupported: asleep",
            },
        ],
    );
}

#[test]
fn port_ranges() {
    let ranges = |ranges: &[(&str, i32, i32)]| {
        let of = |(protocol, start, end): &(&str, i32, i32)| json!({"protocol": protocol, "start": start, "end": end});
        interface(json!({"portRanges": ranges.iter().map(of).collect::<Vec<_>>()}))
    };
    let many: Vec<_> = (1..=11).map(|port| ("TCP", port, port)).collect();
    let both =
        interface(json!({"ports": [{"port": 1}], "portRanges": [{"protocol": "TCP", "start": 2, "end": 2}]}));
    let ungated = causes(ranges(&many[..1]), &cluster(&[]));
    assert_eq!(ungated[0].0, "spec.domain.devices.interfaces[0].name");
    assert!(ungated[0].1.contains("PortRangesSpec feature gate is not enabled"), "{ungated:?}");
    check(
        &["PortRangesSpec"],
        vec![
            Border {
                inside: vec![ranges(&many[..10])],
                outside: vec![ranges(&many)],
                field: "spec.domain.devices.interfaces[0].portRanges",
                words: "No more than 10",
            },
            Border {
                inside: vec![
                    ranges(&[("TCP", 91, 99), ("TCP", 80, 90)]),
                    ranges(&[("TCP", 80, 90), ("UDP", 90, 99)]),
                ],
                outside: vec![
                    ranges(&[("TCP", 90, 99), ("TCP", 80, 90)]),
                    ranges(&[("UDP", 80, 90), ("TCP", 80, 90), ("UDP", 85, 86)]),
                ],
                field: "spec.domain.devices.interfaces[0].portRanges",
                words: "overlap",
            },
            Border {
                inside: vec![ranges(&[("TCP", 1, 65535)])],
                outside: vec![ranges(&[("TCP", 0, 1)])],
                field: "spec.domain.devices.interfaces[0].portRanges[0].start",
                words: "Start must be a valid port number",
            },
            Border {
                inside: vec![],
                outside: vec![ranges(&[("TCP", 1, 65536)])],
                field: "spec.domain.devices.interfaces[0].portRanges[0].end",
                words: "End must be a valid port number",
            },
            Border {
                inside: vec![ranges(&[("TCP", 5, 5)])],
                outside: vec![ranges(&[("TCP", 6, 5)])],
                field: "spec.domain.devices.interfaces[0].portRanges[0].start",
                words: "less than or equal to end",
            },
            Border {
                inside: vec![],
                outside: vec![both],
                field: "spec.domain.devices.interfaces[0].name",
                words: "Cannot define both ports and portRanges",
            },
        ],
    );
}

#[test]
fn networks() {
    let on = |networks: Value, second: Value| json!({"domain": {"devices": {"interfaces": [{"name": "net", "bridge": {}}, second]}}, "networks": networks});
    let bridge = |name: &str| json!({"name": name, "bridge": {}});
    let multus =
        |name: &str, default: bool| json!({"name": name, "multus": {"networkName": "n", "default": default}});
    check(
        &[],
        vec![
            Border {
                inside: vec![on(json!([multus("net", true), multus("m", false)]), bridge("m"))],
                outside: vec![on(json!([multus("net", true), multus("m", true)]), bridge("m"))],
                field: "spec.networks",
                words: "only have one default network",
            },
            Border {
                inside: vec![on(json!([{"name": "net", "pod": {}}, multus("m", false)]), bridge("m"))],
                outside: vec![on(json!([{"name": "net", "pod": {}}, multus("m", true)]), bridge("m"))],
                field: "spec.networks",
                words: "Pod network cannot be defined when Multus default network is defined",
            },
            Border {
                inside: vec![],
                outside: vec![on(json!([{"name": "net", "pod": {}}, {"name": "m"}]), bridge("m"))],
                field: "spec.networks[1]",
                words: "should have a network type",
            },
            Border {
                inside: vec![],
                outside: vec![on(
                    json!([{"name": "net", "pod": {}}, {"name": "m", "multus": {"networkName": ""}}]),
                    bridge("m"),
                )],
                field: "spec.networks[1]",
                words: "must have a networkName",
            },
            Border {
                inside: vec![],
                outside: vec![on(json!([{"name": "net", "pod": {}}]), bridge("net"))],
                field: "spec.domain.devices.interfaces[1].name",
                words: "Only one interface can be connected to one specific network",
            },
            Border {
                inside: vec![on(
                    json!([{"name": "net", "pod": {}}, multus("m", false)]),
                    json!({"name": "m", "bridge": {}, "state": "absent"}),
                )],
                outside: vec![on(
                    json!([multus("net", false), multus("m", true)]),
                    json!({"name": "m", "bridge": {}, "state": "absent"}),
                )],
                field: "spec.domain.devices.interfaces[1].state",
                words: "is not supported on default networks",
            },
        ],
    );
    let spec = interface(json!({"masquerade": null, "bridge": {}}));
    let mut config = cluster(&[]);
    assert!(causes(spec.clone(), &config).is_empty());
    config.bridge_on_pod_network = false;
    assert_eq!(
        causes(spec, &config)[0].1,
        "Bridge on pod network configuration is not enabled under kubevirt-config"
    );
}
