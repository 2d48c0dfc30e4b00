//! The privileged part of a machine on its node.

pub mod machine;
pub mod net;
pub mod plug;
