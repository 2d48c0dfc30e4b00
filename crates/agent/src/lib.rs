//! The node agent: runs launcher pods through an OCI runtime and does the privileged part of every machine.

pub mod cluster;
pub mod config;
pub mod container;
pub mod http;
pub mod labels;
pub mod machine;
pub mod metrics;
pub mod node;
pub mod pods;
pub mod policy;
pub mod preflight;

pub use ferrovirt_handler::machine::{client, clock, events, poll, redacted};
