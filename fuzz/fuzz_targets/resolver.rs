//! A `resolv.conf`: what is made of it stays within what a guest may be given.
#![no_main]

use ferrovirt_qemu::{
    dhcp::{Request, answer, take_resolver},
    order::Lease,
};
use libfuzzer_sys::fuzz_target;
use std::net::Ipv4Addr;

fuzz_target!(|bytes: &[u8]| {
    let address = Ipv4Addr::new(10, 0, 2, 2);
    let mut lease = Lease {
        address,
        prefix: 24,
        server: Ipv4Addr::new(10, 0, 2, 1),
        gateway: None,
        dns: Vec::new(),
        search: Vec::new(),
        hostname: "h".to_owned(),
        mtu: 1500,
    };
    take_resolver(&String::from_utf8_lossy(bytes), &mut lease);
    assert!(lease.dns.len() <= 3 && lease.dns.iter().all(|server| !server.is_loopback()));
    assert!(lease.search.len() <= 6 && lease.search.iter().all(|domain| domain.len() <= 253));
    if let Ok(request) = Request::parse(bytes)
        && let Some(answer) = answer(&request, &lease, request.mac)
    {
        assert!((300..=548).contains(&answer.bytes.len()));
    }
});
