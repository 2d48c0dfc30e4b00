//! The node agent: runs launcher pods through an OCI runtime and does the privileged part of every machine.

pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod disk;
pub mod events;
pub mod http;
pub mod image;
pub mod machine;
pub mod metrics;
pub mod network;
pub mod node;
pub mod oci;
pub mod pods;
pub mod policy;
mod poll;
pub mod preflight;
pub mod redacted;
pub mod selinux;
mod stamp;
pub mod volumes;
