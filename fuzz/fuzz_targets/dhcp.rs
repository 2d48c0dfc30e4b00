//! Datagrams of a guest: read, and answered within what every client must take.
#![no_main]

use ferrovirt_qemu::{
    dhcp::{Request, answer},
    order::Lease,
};
use libfuzzer_sys::fuzz_target;
use std::net::Ipv4Addr;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = Request::parse(bytes) else { return };
    let address = Ipv4Addr::new(10, 0, 2, 2);
    let lease = Lease {
        address,
        prefix: 24,
        server: Ipv4Addr::new(10, 0, 2, 1),
        gateway: None,
        dns: vec![address; 40],
        search: vec!["a".repeat(63); 9],
        hostname: "h".repeat(63),
        mtu: 1500,
    };
    if let Some(answer) = answer(&request, &lease, request.mac) {
        assert!((300..=548).contains(&answer.bytes.len()));
    }
});
