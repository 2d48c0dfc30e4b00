//! SELinux policies as values: the reader and writer of the kernel's binary form ([`policy`]), names and indexes over
//! it ([`database`]), search ([`query`]).
//!
//! The crate is pure: no files, no clock, no threads. Bytes come in, values and texts go out, and no input makes it
//! panic or take more memory than a small multiple of its size.

pub mod avc;
pub mod cil;
pub mod clone;
pub mod database;
pub mod decide;
pub mod diff;
pub mod error;
pub mod policy;
pub mod query;
pub mod text;

pub use database::Database;
pub use error::{InvalidPolicy, LookupError, PolicyError, ReadError};
pub use policy::Policy;
