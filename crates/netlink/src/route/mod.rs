//! Links, addresses and what a bridge knows (`linux/rtnetlink.h`, `linux/if_link.h`).
//!
//! No request here names another network namespace, another link below a new one, or a kind of link that is not a
//! constant: what is sent through a socket of a stranger's namespace stays in it.

mod address;
mod gateway;
mod link;
mod namespace;
mod show;

pub use address::{Address, Fixed, addresses, addresses6, read6};
pub use gateway::gateway_of_another;
pub use link::{Bridge, Link, Port, delete_link};
pub use namespace::target;
pub use show::{Shown, link_at, link_named, links};

/// A network namespace other than the socket's, by the number that the socket's has for it.
pub type Target = i32;

/// `AF_INET`, `AF_INET6`, and `AF_BRIDGE`.
const INET: u8 = 2;
const INET6: u8 = 10;
const BRIDGE: u8 = 7;
/// `IFF_UP`.
const UP: u32 = 1;

/// Types of messages about links.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;

/// Attributes of links.
mod attribute {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    /// The other end, or the link below.
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    pub(super) const INFO: u16 = 18;
    pub(super) const FAMILIES: u16 = 26;
    pub(super) const TARGET: u16 = 46;
    pub(super) const PROPERTIES: u16 = 52;
    pub(super) const ALTERNATIVE: u16 = 53;
}

/// What stands before a link's attributes: `struct ifinfomsg`.
fn head(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}
