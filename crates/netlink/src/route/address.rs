//! Addresses of links, and of what is behind the ports of a bridge.

use super::{BRIDGE, INET, INET6, Target};
use crate::{
    channel::{Error, Socket},
    message::{CREATE, EXCLUSIVE, Message, REPLACE},
    read::{self, Part},
};
use std::net::{Ipv4Addr, Ipv6Addr};

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_NEIGHBOUR: u16 = 28;

/// Attributes of addresses.
mod attribute {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    pub(super) const BROADCAST: u16 = 4;
    pub(super) const TARGET: u16 = 10;
}

/// An IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
}

impl Address {
    fn request(self, kind: u16, flags: u16) -> Message {
        let [a, b, c, d] = self.index.to_ne_bytes();
        let mut message = Message::new(kind, flags, &[INET, self.prefix, 0, 0, a, b, c, d]);
        let bytes = self.address.octets();
        message.attributes().push(attribute::LOCAL, &bytes).push(attribute::ADDRESS, &bytes);
        message
    }

    /// Gives it to its link; fine when the link has it.
    pub fn put(self, broadcast: Option<Ipv4Addr>) -> Message {
        let mut message = self.request(NEW_ADDRESS, CREATE | REPLACE);
        if let Some(broadcast) = broadcast {
            message.attributes().push(attribute::BROADCAST, &broadcast.octets());
        }
        message
    }

    /// Gives it to its link. An address that is there is a refusal (`EEXIST`).
    pub fn add(self) -> Message {
        self.request(NEW_ADDRESS, CREATE | EXCLUSIVE)
    }

    /// Takes it away.
    pub fn delete(self) -> Message {
        self.request(DELETE_ADDRESS, 0)
    }

    /// Reads a message; `None` when it is none of an IPv4 address.
    pub fn read(part: &Part<'_>) -> Option<Self> {
        let (index, prefix, bytes) = body::<4>(part, INET)?;
        Some(Self { index, address: bytes.into(), prefix })
    }
}

/// Link, prefix length and address of a message about an address of this family, which has so many bytes.
fn body<const BYTES: usize>(part: &Part<'_>, wanted: u8) -> Option<(u32, u8, [u8; BYTES])> {
    let (family, prefix) = (*part.payload.first()?, *part.payload.get(1)?);
    if part.header.kind != NEW_ADDRESS || family != wanted || usize::from(prefix) > BYTES * 8 {
        return None;
    }
    let index = read::u32_at(part.payload, 4)?;
    let mut found = None;
    for item in read::attributes(part.payload.get(8..)?) {
        let (kind, bytes) = item.ok()?;
        // Of a link between two the other's is the address.
        if kind == attribute::LOCAL || kind == attribute::ADDRESS && found.is_none() {
            found = Some(bytes.try_into().ok()?);
        }
    }
    Some((index, prefix, found?))
}

/// Reads a message; `None` when it is none of an IPv6 address.
pub fn read6(part: &Part<'_>) -> Option<Ipv6Addr> {
    body::<16>(part, INET6).map(|(_, _, bytes)| bytes.into())
}

/// The IPv4 addresses of the socket's namespace or of another.
///
/// # Errors
/// See [`Error`].
pub fn addresses(socket: &mut Socket, target: Option<Target>) -> Result<Vec<Address>, Error> {
    list(socket, target, INET, Address::read)
}

/// The IPv6 addresses of the socket's namespace or of another.
///
/// # Errors
/// See [`Error`].
pub fn addresses6(socket: &mut Socket, target: Option<Target>) -> Result<Vec<Ipv6Addr>, Error> {
    list(socket, target, INET6, read6)
}

fn list<T>(
    socket: &mut Socket,
    target: Option<Target>,
    family: u8,
    read: impl Fn(&Part<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut message = Message::new(GET_ADDRESS, 0, &[family, 0, 0, 0, 0, 0, 0, 0]);
    if let Some(target) = target {
        message.attributes().push(attribute::TARGET, &target.to_ne_bytes());
    }
    socket.list(&message, read)
}

/// A hardware address that is behind a port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Index of the port.
    pub port: u32,
    /// The address.
    pub address: [u8; 6],
    /// It stays there, no matter who else says to have it.
    pub sticky: bool,
}

impl Fixed {
    /// Tells the bridge of it, for ever. Fine when it knows, also of another port.
    pub fn put(self) -> Message {
        /// `NUD_NOARP`: the entry does not age; `NTF_MASTER`: the bridge's, not the port's own; `NTF_STICKY`.
        const NO_ARP: u16 = 0x40;
        const MASTER: u8 = 0x04;
        const STICKY: u8 = 0x40;
        let flags = if self.sticky { MASTER | STICKY } else { MASTER };
        let [a, b, c, d] = self.port.to_ne_bytes();
        let [low, high] = NO_ARP.to_ne_bytes();
        let fixed = [BRIDGE, 0, 0, 0, a, b, c, d, low, high, flags, 0];
        let mut message = Message::new(NEW_NEIGHBOUR, CREATE | REPLACE, &fixed);
        message.attributes().push(2, &self.address);
        message
    }
}
