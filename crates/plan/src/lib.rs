//! Rendering of grants into pods, SCCs and roles, reading them back, and the pure decisions of every controller.

pub mod config;
pub mod decide;
pub mod explain;
pub mod generate;
pub mod judge;
pub mod launcher_pod;
pub mod lift;
pub mod made;
pub mod matrix;
pub mod node;
pub mod order;
pub mod paths;
pub mod pod_network;
pub mod render;
pub mod scc;
pub mod seed;
pub mod selinux;
pub mod subresource;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod witness;
