//! Containers: the cgroup layout of the node, the bundle of a pod, the runtime.

pub mod bundle;
pub mod cgroup;
pub mod crun;
pub mod oom;
pub mod programs;
pub mod rootfs;
pub mod sources;
