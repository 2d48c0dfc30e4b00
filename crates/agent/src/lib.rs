//! The node agent: runs launcher pods through an OCI runtime and does the privileged part of every machine.

pub mod cluster;
pub mod config;
pub mod disk;
pub mod http;
pub mod image;
pub mod labels;
pub mod machine;
pub mod metrics;
pub mod network;
pub mod node;
pub mod oci;
pub mod pods;
pub mod policy;
pub mod preflight;
mod stamp;
pub mod volumes;

pub use ferrovirt_handler::machine::{client, clock, events, poll, redacted};
