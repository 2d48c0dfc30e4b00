//! Rendering of grants into pods, SCCs and roles, reading them back, and the pure decisions of every controller.
//!
//! [`render`] and [`lift`] are the two ways between the table and what is applied; [`decide`] has every decision of a
//! controller and of a node; [`explain`] and [`matrix`] put the table into words, [`generate`] into files, and [`judge`]
//! looks for what does not fit together; [`selinux`] and [`scc`] are what these two mechanisms need beside that. All of
//! them share [`config`] and [`paths`].

pub mod config;
pub mod decide;
pub mod explain;
pub mod generate;
pub mod judge;
pub mod lift;
pub mod matrix;
pub mod paths;
pub mod render;
pub mod scc;
pub mod selinux;
pub mod user_namespace;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod witness;
