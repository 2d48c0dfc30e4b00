//! Rendering of grants into pods, SCCs and roles, reading them back, and the pure decisions of every controller.

pub mod admission;
pub mod base;
pub mod config;
pub mod decide;
pub mod denial;
pub mod explain;
pub mod fit;
pub mod generate;
pub mod installed;
pub mod judge;
pub mod launcher_pod;
pub mod lift;
pub mod made;
pub mod matrix;
pub mod mcs;
pub mod node;
pub mod order;
pub mod paths;
pub mod pod_network;
pub mod prove;
pub mod render;
pub mod rights;
pub mod scc;
pub mod seed;
pub mod selinux;
pub mod subresource;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod witness;
