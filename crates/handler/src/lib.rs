//! The privileged part of a machine on its node.

pub mod net;
pub mod plug;
