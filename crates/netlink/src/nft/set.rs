//! Sets and maps.

use super::NAME;

/// Type of a part of a key, or of a map's value. The number is nft's own, by which it shows elements; to the kernel a
/// key is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Name of an interface, 16 bytes.
    Ifname,
    /// Hardware address.
    EtherAddr,
    /// IPv4 address.
    Ipv4Addr,
    /// Packet mark, in the machine's order.
    Mark,
    /// Type of frames.
    EtherType,
    /// Operation of ARP.
    ArpOp,
    /// Protocol above IP.
    InetProto,
    /// Port.
    InetService,
}

impl Type {
    /// Bytes.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Ifname => NAME,
            Self::EtherAddr => 6,
            Self::Ipv4Addr | Self::Mark => 4,
            Self::EtherType | Self::ArpOp | Self::InetService => 2,
            Self::InetProto => 1,
        }
    }

    /// nft's number (`enum datatypes` of its `datatype.h`).
    fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::EtherAddr => 9,
            Self::EtherType => 10,
            Self::ArpOp => 11,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
            Self::Ifname => 41,
        }
    }

    /// Whether the value is in the machine's order.
    pub(super) fn is_native(self) -> bool {
        matches!(self, Self::Mark | Self::Ifname)
    }

    /// nft's number of several types one behind the other.
    pub(super) fn joined(types: &[Self]) -> u32 {
        types.iter().fold(0, |number, part| number << 6 | part.number())
    }

    /// Bytes of a key: parts of several begin at multiples of four.
    pub(super) fn key_length(types: &[Self]) -> usize {
        match types {
            [one] => one.length(),
            several => several.iter().map(|part| part.length().next_multiple_of(4)).sum(),
        }
    }
}

/// A named set or map.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// Name.
    pub name: &'a str,
    /// What a key consists of.
    pub key: &'a [Type],
    /// What a map's value is.
    pub value: Option<Type>,
    /// Filled by rules, with at most so many elements.
    pub dynamic: Option<u32>,
}

impl<'a> Set<'a> {
    /// A set of keys.
    pub fn of(name: &'a str, key: &'a [Type]) -> Self {
        Self { name, key, value: None, dynamic: None }
    }

    /// A map.
    pub fn map(name: &'a str, key: &'a [Type], value: Type) -> Self {
        Self { value: Some(value), ..Self::of(name, key) }
    }

    /// A set that rules fill.
    pub fn dynamic(name: &'a str, key: &'a [Type], most: u32) -> Self {
        Self { dynamic: Some(most), ..Self::of(name, key) }
    }
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// See [`key`].
    pub key: Vec<u8>,
    /// Of a map.
    pub value: Option<Vec<u8>>,
}

/// A key of several parts, each filled up to a multiple of four bytes.
pub fn key(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend(*part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}
