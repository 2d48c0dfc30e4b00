//! From grants to what is applied: pods, SCCs, roles, SELinux modules, seccomp profiles, manifests.

pub mod calls;
pub mod cil;
pub mod controller;
pub mod install;
mod overhead;
pub mod pod;
mod pod_meta;
mod pod_resources;
mod pod_volumes;
pub mod rbac;
pub mod scc;
pub mod scc_crd;
pub mod scc_webhook;
pub mod seccomp;

pub use install::install;
pub use overhead::overhead;
pub use pod::{pod, pod_in, pod_name, pod_with_claims};

#[cfg(test)]
mod tests;
