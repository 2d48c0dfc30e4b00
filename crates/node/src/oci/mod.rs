//! Containers: the cgroup layout of the node, the bundle of a pod, the runtime.

pub mod bundle;
pub mod cgroup;
pub mod crun;
pub mod granted;
pub mod identity;
pub mod oom;
pub mod resolver;
pub mod sources;
