//! A DHCP server for one guest (RFC 2131): the one lease is known beforehand, so there is nothing to remember.
//!
//! The guest's bytes are hostile. They are only read here, never trusted with a length, and the answer is made from
//! the order. Own code rather than a crate: the launcher's closure stays small, and a server for one client is a
//! small part of what such crates bring.

mod answer;
mod request;
mod resolver;

pub use answer::{Answer, Destination, answer};
pub use request::{Kind, Malformed, Request};
pub use resolver::take_resolver;
