//! Rendering of grants into pods, SCCs and roles, reading them back, and the pure decisions of every controller.

pub mod decide;
pub mod subresource;
