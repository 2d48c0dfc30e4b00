//! What every part of Kubernetes says in the same way, written down once: how objects are read as JSON, what their
//! metadata holds, and whatever else more than one crate needs to know of Kubernetes itself.
//!
//! Pure: no clock, no file, no socket. Nothing here knows of machines.

pub mod condition;
pub mod difference;
pub mod json;
pub mod names;
pub mod object;
pub mod quantity;
pub mod rbac;
pub mod segment;
pub mod selector;
pub mod status;
pub mod subject;
pub mod time;
pub mod typed_condition;
