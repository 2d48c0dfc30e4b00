//! The privileged part of a machine on its node.

pub mod api;
pub mod machine;
pub mod net;
pub mod plug;
