//! The DHCP server, message by message.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

use ferrovirt_qemu::{
    dhcp::{Answer, Destination, Kind, Malformed, Request, answer},
    order::Lease,
};
use std::{collections::BTreeMap, net::Ipv4Addr};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

fn lease() -> Lease {
    Lease {
        address: GUEST,
        prefix: 24,
        server: SERVER,
        gateway: Some(SERVER),
        dns: vec![Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(1, 1, 1, 1)],
        search: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
        hostname: "example".into(),
        mtu: 1480,
    }
}

/// A message of a client as udhcpc lays it out.
fn message(kind: u8, client: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    bytes[12..16].copy_from_slice(&client.octets());
    bytes[28..34].copy_from_slice(&MAC);
    bytes.extend([99, 130, 83, 99, 53, 1, kind, 61, 7, 1]);
    bytes.extend(MAC);
    bytes.extend(options);
    bytes.push(255);
    bytes
}

fn ask(kind: u8, client: Ipv4Addr, options: &[u8]) -> Option<Answer> {
    answer(&Request::parse(&message(kind, client, options)).unwrap(), &lease(), MAC)
}

fn options(bytes: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut map = BTreeMap::new();
    let mut rest = &bytes[240..];
    while rest[0] != 255 {
        let length = usize::from(rest[1]);
        assert!(map.insert(rest[0], rest[2..2 + length].to_vec()).is_none());
        rest = &rest[2 + length..];
    }
    map
}

#[test]
fn a_discover_is_answered_by_a_broadcast_offer_with_everything() {
    let offer = ask(1, Ipv4Addr::UNSPECIFIED, &[55, 2, 1, 3]).unwrap();
    assert_eq!(offer.to, Destination::Broadcast);
    assert_eq!(&offer.bytes[..8], &[2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(&offer.bytes[16..20], &GUEST.octets());
    assert_eq!(&offer.bytes[28..34], &MAC);
    assert!((300..=548).contains(&offer.bytes.len()));
    let given = options(&offer.bytes);
    assert_eq!(given[&53], [2]);
    assert_eq!(given[&54], SERVER.octets());
    assert_eq!(given[&51], 86400_u32.to_be_bytes());
    assert_eq!(given[&1], [255, 255, 255, 0]);
    assert_eq!(given[&3], SERVER.octets());
    assert_eq!(given[&6], [10, 96, 0, 10, 1, 1, 1, 1]);
    assert_eq!(given[&26], 1480_u16.to_be_bytes());
    assert_eq!(given[&12], b"example");
    assert_eq!(given[&15], b"default.svc.cluster.local");
    assert_eq!(given[&61], [&[1][..], &MAC].concat());
    assert_eq!(given[&119], b"\x07default\x03svc\x07cluster\x05local\0\x07cluster\x05local\0");
}

#[test]
fn requests_are_granted_refused_or_left_to_the_chosen_server() {
    let none = Ipv4Addr::UNSPECIFIED;
    let requested = |address: Ipv4Addr| [&[50, 4][..], &address.octets()].concat();
    let ack = ask(3, none, &requested(GUEST)).unwrap();
    assert_eq!((options(&ack.bytes)[&53].as_slice(), ack.to), (&[5][..], Destination::Broadcast));
    let nak = ask(3, none, &requested(Ipv4Addr::new(192, 168, 0, 9))).unwrap();
    assert_eq!(options(&nak.bytes)[&53], [6]);
    assert_eq!(&nak.bytes[12..20], &[0; 8]);
    let other_server = [requested(GUEST), vec![54, 4, 10, 0, 2, 77]].concat();
    assert_eq!(ask(3, none, &other_server), None);
    // Renewal: the client has its address and listens on it only.
    let renewed = ask(3, GUEST, &[]).unwrap();
    assert_eq!(
        (options(&renewed.bytes)[&53].as_slice(), renewed.to),
        (&[5][..], Destination::Unicast(GUEST))
    );
}

#[test]
fn inform_gets_no_address_and_goodbyes_get_nothing() {
    let answer = ask(8, GUEST, &[]).unwrap();
    assert_eq!(&answer.bytes[16..20], &[0; 4]);
    assert!(!options(&answer.bytes).contains_key(&51));
    assert_eq!(ask(4, GUEST, &[]), None);
    assert_eq!(ask(7, GUEST, &[]), None);
}

#[test]
fn another_interface_gets_nothing() {
    let request = Request::parse(&message(1, Ipv4Addr::UNSPECIFIED, &[])).unwrap();
    assert_eq!(answer(&request, &lease(), [2, 0, 0, 0, 0, 9]), None);
}

#[test]
fn what_does_not_fit_is_left_out() {
    let long = Lease {
        search: (0..60).map(|n| format!("name{n}.{}.example", "x".repeat(60))).collect(),
        hostname: "h".repeat(300),
        dns: vec![SERVER; 100],
        prefix: 200,
        ..lease()
    };
    let request = Request::parse(&message(1, Ipv4Addr::UNSPECIFIED, &[])).unwrap();
    let offer = answer(&request, &long, MAC).unwrap();
    assert!(offer.bytes.len() <= 548);
    let given = options(&offer.bytes);
    assert!(!given.contains_key(&6) && !given.contains_key(&12));
    assert_eq!(given[&119].last(), Some(&0));
}

#[test]
fn malformed_bytes_are_distinguished_and_never_a_panic() {
    let good = message(1, Ipv4Addr::UNSPECIFIED, &[12, 3, b'a', b'b', b'c']);
    assert_eq!(Request::parse(&good).unwrap().kind, Kind::Discover);
    for length in 0..good.len() {
        let _ = Request::parse(&good[..length]);
    }
    assert_eq!(Request::parse(&good[..100]), Err(Malformed::Short));
    assert_eq!(Request::parse(&good[..236]), Err(Malformed::NoOptions));
    assert_eq!(Request::parse(&message(2, GUEST, &[])), Err(Malformed::Kind));
    assert_eq!(Request::parse(&message(1, GUEST, &[12, 200, 0])), Err(Malformed::CutOff(12)));
    let mut token_ring = good.clone();
    token_ring[1] = 6;
    assert_eq!(Request::parse(&token_ring), Err(Malformed::NotEthernet));
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = good.clone();
            changed[at] = value;
            if let Ok(request) = Request::parse(&changed) {
                let _ = answer(&request, &lease(), MAC);
            }
        }
    }
}
