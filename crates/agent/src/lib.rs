//! The node agent: runs launcher pods through an OCI runtime and does the privileged part of every machine.

pub mod image;
pub mod network;
pub mod oci;
pub mod volumes;
