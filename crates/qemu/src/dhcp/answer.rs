//! What the server answers.

use super::request::{FIXED, Kind, MAGIC, Request};
use crate::order::Lease;
use std::net::Ipv4Addr;

/// Seconds that a lease holds: the address never changes, so long enough that renewals are rare.
const SECONDS: u32 = 24 * 60 * 60;
/// Largest message that every client must take (RFC 2131, section 2: 576 bytes of IP packet).
const MOST: usize = 576 - 20 - 8;
/// Shortest message that old clients take.
const LEAST: usize = 300;

/// One datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where to.
    pub to: Destination,
}

/// Where an answer goes, port 68.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// 255.255.255.255: the client has no address yet. (RFC 2131 prefers an Ethernet unicast unless the client asks
    /// otherwise; that would need a raw socket, and the clients take a broadcast.)
    Broadcast,
    /// The client's address, which it uses already.
    Unicast(Ipv4Addr),
}

/// The answer to a client's message, or none. Only the interface with this Ethernet address gets the lease.
pub fn answer(request: &Request, lease: &Lease, mac: [u8; 6]) -> Option<Answer> {
    if request.mac != mac {
        return None;
    }
    match request.kind {
        Kind::Decline | Kind::Release => None,
        Kind::Discover => Some(build(request, lease, 2, Some(lease.address))),
        Kind::Inform => Some(build(request, lease, 5, None)),
        Kind::Request => {
            // The client has chosen another server.
            if request.server.is_some_and(|server| server != lease.server) {
                return None;
            }
            let wanted = request.requested.unwrap_or(request.client);
            if wanted == lease.address {
                Some(build(request, lease, 5, Some(lease.address)))
            } else {
                Some(refuse(request, lease))
            }
        }
    }
}

fn build(request: &Request, lease: &Lease, kind: u8, address: Option<Ipv4Addr>) -> Answer {
    let mut message = Message::new(request, kind, lease.server);
    if let Some(address) = address {
        message.set(16, &address.octets());
        message.option(51, &SECONDS.to_be_bytes());
    }
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(lease.prefix.into())).unwrap_or(0);
    message.option(1, &mask.to_be_bytes());
    if let Some(gateway) = lease.gateway {
        message.option(3, &gateway.octets());
    }
    let dns: Vec<u8> = lease.dns.iter().flat_map(Ipv4Addr::octets).collect();
    message.option(6, &dns);
    message.option(26, &lease.mtu.to_be_bytes());
    message.option(61, &request.client_id);
    message.option(12, lease.hostname.as_bytes());
    if let Some(domain) = lease.search.first() {
        message.option(15, domain.as_bytes());
    }
    message.option(119, &search(&lease.search, message.room()));
    // Only to the address that it was given: a guest must not choose where its launcher sends to.
    let to = if request.client == lease.address {
        Destination::Unicast(lease.address)
    } else {
        Destination::Broadcast
    };
    Answer { bytes: message.finish(), to }
}

fn refuse(request: &Request, lease: &Lease) -> Answer {
    let mut message = Message::new(request, 6, lease.server);
    // A refusal names no address of the client, whatever it claimed.
    message.set(12, &[0; 4]);
    message.option(61, &request.client_id);
    Answer { bytes: message.finish(), to: Destination::Broadcast }
}

/// Domains in the form of RFC 1035, as many as fit (RFC 3397); a name that DNS cannot carry is left out.
fn search(domains: &[String], room: usize) -> Vec<u8> {
    let mut list = Vec::new();
    for domain in domains {
        let mut name = Vec::new();
        for label in domain.trim_end_matches('.').split('.') {
            match u8::try_from(label.len()) {
                Ok(length @ 1..=63) => name.push(length),
                _ => {
                    name.clear();
                    break;
                }
            }
            name.extend_from_slice(label.as_bytes());
        }
        if name.is_empty() || name.len() > 254 {
            continue;
        }
        name.push(0);
        if list.len() + name.len() > room.min(255) {
            break;
        }
        list.extend(name);
    }
    list
}

struct Message(Vec<u8>);

impl Message {
    fn new(request: &Request, kind: u8, server: Ipv4Addr) -> Self {
        let mut message = Self(vec![0; FIXED]);
        message.set(0, &[2, 1, 6, 0]);
        message.set(4, &request.transaction);
        message.set(10, &request.flags);
        message.set(12, &request.client.octets());
        message.set(24, &request.relay.octets());
        message.set(28, &request.mac);
        message.0.extend(MAGIC);
        message.option(53, &[kind]);
        message.option(54, &server.octets());
        message
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in self.0.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }

    /// Bytes that one more option may have.
    fn room(&self) -> usize {
        MOST.saturating_sub(self.0.len() + 3)
    }

    /// Adds an option, unless it is empty or does not fit.
    fn option(&mut self, code: u8, value: &[u8]) {
        if let Ok(length @ 1..) = u8::try_from(value.len())
            && value.len() <= self.room()
        {
            self.0.extend([code, length]);
            self.0.extend_from_slice(value);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push(255);
        if self.0.len() < LEAST {
            self.0.resize(LEAST, 0);
        }
        self.0
    }
}
