//! Wire types of `kubevirt.io/v1`, with upstream's names.
//!
//! Every field that upstream knows is here, so that strict decoding accepts what upstream accepts. What this
//! version does not act on is refused by validation, see [`crate::support`].
// Names and meaning of the fields are those of the public API; the description of a field is given where it adds
// to its name.
#![allow(missing_docs)]

mod cluster;
mod conditions;
mod credentials;
mod devices;
mod disk;
mod domain;
mod features;
mod firmware;
mod kinds;
mod network;
mod status;
mod vm;
mod vmi;
mod volume;
mod words;

pub use cluster::*;
pub use credentials::*;
pub use devices::*;
pub use disk::*;
pub use domain::*;
pub use features::*;
pub use firmware::*;
pub use kinds::*;
pub use network::*;
pub use status::*;
pub use vm::*;
pub use vmi::*;
pub use volume::*;
pub use words::*;
