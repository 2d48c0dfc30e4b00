//! What a kubelet, a CRI and a CNI set-up do elsewhere, as parts for the agent of one node: images, volumes, the pod network,
//! containers, disk space, labels of SELinux and what the node says of itself.
//!
//! It serves pods, whatever runs in them: what only some pods need (where their program is, which mounts they may have,
//! which devices the node offers) comes as a parameter from the part that knows these pods.

pub mod devices;
pub mod disk;
mod file;
pub mod image;
pub mod network;
pub mod oci;
pub mod selinux;
pub mod stamp;
pub mod status;
pub mod volumes;
