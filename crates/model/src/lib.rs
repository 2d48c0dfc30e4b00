//! The validated vocabulary of machines and clusters.
//!
//! Values of these types are valid by construction: the wire types of `ferrovirt-api` are converted into them
//! once, and everything behind that conversion (privileges, rendering, the node agent) works on them alone.
//! Nothing here can be serialized on purpose: what travels over a wire has its own versioned type.

pub mod machine;
pub mod profile;
pub mod size;

pub use machine::Machine;
pub use profile::Profile;
pub use size::{Bytes, PageSize};
