//! nf_tables: batches of tables, chains, sets and rules (`linux/netfilter/nf_tables.h`). A batch is carried out whole or
//! not at all.
//!
//! Words and order are those of nft(8), so that a reader who knows its language finds it again; what the kernel then
//! has is shown by `nft list ruleset` as if nft had written it.

mod batch;
mod expression;
mod rule;
mod set;

pub use batch::{Batch, BatchError, Hook, Kind, Table, tables};
pub use expression::Field;
pub use rule::Rule;
pub use set::{Element, Set, Type, key};

/// A family of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// ARP.
    Arp = 3,
    /// Frames of bridges.
    Bridge = 7,
}

/// Bytes of an interface's name in a register (`IFNAMSIZ`).
const NAME: usize = 16;

/// An interface's name as rules and sets have it: filled up with zeroes.
///
/// A name that is too long is cut off; interfaces have none of those.
pub fn name(text: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    for (place, byte) in bytes.iter_mut().zip(text.bytes().take(NAME - 1)) {
        *place = byte;
    }
    bytes
}
