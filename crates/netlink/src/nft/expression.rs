//! Expressions, the steps of rules. Registers have four bytes; a value takes as many as it needs.

use crate::message::Attributes;
use std::net::Ipv4Addr;

use super::Type;

/// What a rule can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Name of the interface by which a packet came.
    Iifname,
    /// Name of the interface by which it goes.
    Oifname,
    /// Family of the packet in a table of several (`NFPROTO_*`, one byte).
    Nfproto,
    /// Protocol of the frame, which a rule of the bridge asks for before it looks into a header of it.
    Protocol,
    /// Protocol above IP, one byte.
    L4proto,
    /// Packet mark.
    Mark,
    /// State of the connection: bits, in the machine's order.
    CtState,
    /// Hardware address of the receiver.
    EtherDaddr,
    /// Hardware address of the sender.
    EtherSaddr,
    /// Type of the frame.
    EtherType,
    /// IPv4 address of the sender.
    IpSaddr,
    /// IPv4 address of the receiver.
    IpDaddr,
    /// ARP: kind of network.
    ArpHtype,
    /// ARP: kind of protocol.
    ArpPtype,
    /// ARP: length of hardware addresses.
    ArpHlen,
    /// ARP: length of protocol addresses.
    ArpPlen,
    /// ARP: operation.
    ArpOperation,
    /// ARP: the sender's hardware address.
    ArpSaddrEther,
    /// ARP: the sender's address.
    ArpSaddrIp,
    /// ARP: the address that is asked for.
    ArpDaddrIp,
    /// ICMP: type.
    IcmpType,
    /// Port of the receiver.
    Dport,
}

/// Where a field is.
enum Place {
    Meta(u32),
    Ct(u32),
    /// Header (link, network, transport), byte, length.
    Payload(u32, u32, u32),
}

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

impl Field {
    fn place(self) -> Place {
        use Place::{Ct, Meta, Payload};
        match self {
            Self::Protocol => Meta(1),
            Self::Mark => Meta(3),
            Self::Iifname => Meta(6),
            Self::Oifname => Meta(7),
            Self::Nfproto => Meta(15),
            Self::L4proto => Meta(16),
            Self::CtState => Ct(0),
            Self::EtherDaddr => Payload(LINK, 0, 6),
            Self::EtherSaddr => Payload(LINK, 6, 6),
            Self::EtherType => Payload(LINK, 12, 2),
            Self::IpSaddr => Payload(NETWORK, 12, 4),
            Self::IpDaddr => Payload(NETWORK, 16, 4),
            Self::ArpHtype => Payload(NETWORK, 0, 2),
            Self::ArpPtype => Payload(NETWORK, 2, 2),
            Self::ArpHlen => Payload(NETWORK, 4, 1),
            Self::ArpPlen => Payload(NETWORK, 5, 1),
            Self::ArpOperation => Payload(NETWORK, 6, 2),
            Self::ArpSaddrEther => Payload(NETWORK, 8, 6),
            Self::ArpSaddrIp => Payload(NETWORK, 14, 4),
            Self::ArpDaddrIp => Payload(NETWORK, 24, 4),
            Self::IcmpType => Payload(TRANSPORT, 0, 1),
            Self::Dport => Payload(TRANSPORT, 2, 2),
        }
    }

    /// The type of its values in sets; `None` for what no set of ours has.
    pub(super) fn kind(self) -> Option<Type> {
        Some(match self {
            Self::Iifname | Self::Oifname => Type::Ifname,
            Self::Mark => Type::Mark,
            Self::EtherDaddr | Self::EtherSaddr | Self::ArpSaddrEther => Type::EtherAddr,
            Self::EtherType | Self::Protocol => Type::EtherType,
            Self::IpSaddr | Self::IpDaddr | Self::ArpSaddrIp | Self::ArpDaddrIp => Type::Ipv4Addr,
            Self::ArpOperation => Type::ArpOp,
            Self::L4proto => Type::InetProto,
            Self::Dport => Type::InetService,
            _ => return None,
        })
    }

    /// Loads it into the registers from slot `slot` on.
    pub(super) fn load(self, slot: usize) -> Attributes {
        match self.place() {
            Place::Meta(key) => expression("meta", |data| {
                data.big(1, register(slot)).big(2, key);
            }),
            Place::Ct(key) => expression("ct", |data| {
                data.big(1, register(slot)).big(2, key);
            }),
            Place::Payload(base, offset, length) => payload(base, offset, length, slot),
        }
    }

    /// Loads its first bytes into the first registers; `None` for what is not in a header.
    pub(super) fn load_first(self, length: u32) -> Option<Attributes> {
        match self.place() {
            Place::Payload(base, offset, all) if length <= all => Some(payload(base, offset, length, 0)),
            _ => None,
        }
    }
}

/// Number of a register: those that begin at a multiple of four have the old number of one of sixteen bytes, as nft
/// writes them.
fn register(slot: usize) -> u32 {
    let slot = u32::try_from(slot).unwrap_or(u32::MAX / 2);
    if slot.is_multiple_of(4) { 1 + slot / 4 } else { 8 + slot }
}

/// One expression with what it needs.
pub(super) fn expression(name: &str, fill: impl FnOnce(&mut Attributes)) -> Attributes {
    let mut data = Attributes::new();
    fill(&mut data);
    let mut all = Attributes::new();
    all.text(1, name);
    if !data.bytes().is_empty() {
        all.nest(2, &data);
    }
    all
}

fn payload(base: u32, offset: u32, length: u32, slot: usize) -> Attributes {
    expression("payload", |data| {
        data.big(1, register(slot)).big(2, base).big(3, offset).big(4, length);
    })
}

/// A value as data of an expression or an element.
pub(super) fn value(bytes: &[u8]) -> Attributes {
    let mut data = Attributes::new();
    data.push(1, bytes);
    data
}

pub(super) fn compare(equal: bool, bytes: &[u8]) -> Attributes {
    expression("cmp", |data| {
        data.big(1, register(0)).big(2, u32::from(!equal)).nest(3, &value(bytes));
    })
}

pub(super) fn mask(bytes: &[u8]) -> Attributes {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    expression("bitwise", |data| {
        data.big(1, register(0)).big(2, register(0)).big(3, length);
        data.nest(4, &value(bytes)).nest(5, &value(&vec![0; bytes.len()]));
    })
}

/// Which set is looked into.
#[derive(Clone, Copy)]
pub(super) struct SetName<'a> {
    pub(super) name: &'a str,
    /// Of a set without a name of its own.
    pub(super) id: Option<u32>,
}

pub(super) fn lookup(set: SetName<'_>, inside: bool, map: bool) -> Attributes {
    expression("lookup", |data| {
        data.text(1, set.name).big(2, register(0));
        if map {
            data.big(3, register(0));
        }
        if let Some(id) = set.id {
            data.big(4, id);
        }
        if !inside {
            data.big(5, 1);
        }
    })
}

pub(super) fn set_mark() -> Attributes {
    expression("meta", |data| {
        data.big(2, 3).big(3, register(0));
    })
}

/// A packet mark into the first register.
pub(super) fn mark_value(mark: u32) -> Attributes {
    expression("immediate", |data| {
        data.big(1, register(0)).nest(2, &value(&mark.to_ne_bytes()));
    })
}

/// Adds the key in the first register to the set and goes on where its connections are over the number.
pub(super) fn count_over(set: &str, most: u32) -> Attributes {
    let limit = expression("connlimit", |data| {
        data.big(1, most).big(2, 1);
    });
    expression("dynset", |data| {
        data.text(1, set).big(3, 0).big(4, register(0)).nest(7, &limit);
    })
}

pub(super) fn counter() -> Attributes {
    expression("counter", |_| ())
}

pub(super) fn named_counter(name: &str) -> Attributes {
    expression("objref", |data| {
        data.big(1, 1).text(2, name);
    })
}

/// A verdict (`NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`) and the chain that it names.
pub(super) fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let mut inner = Attributes::new();
    inner.big(1, code.cast_unsigned());
    if let Some(chain) = chain {
        inner.text(2, chain);
    }
    let mut verdict = Attributes::new();
    verdict.nest(2, &inner);
    expression("immediate", |data| {
        data.big(1, 0).nest(2, &verdict);
    })
}

/// The address into the first register, and the translation to it.
pub(super) fn translate(destination: bool, to: Ipv4Addr) -> [Attributes; 2] {
    let immediate = expression("immediate", |data| {
        data.big(1, register(0)).nest(2, &value(&to.octets()));
    });
    let nat = expression("nat", |data| {
        data.big(1, u32::from(destination)).big(2, 2).big(3, register(0));
    });
    [immediate, nat]
}

pub(super) fn masquerade() -> Attributes {
    expression("masq", |_| ())
}
