//! The device manager: a kubelet's side of device plug-ins (`v1beta1`) and of pod-resources (`v1`).
//!
//! A plug-in registers a resource on `kubelet.sock` in the directory of plug-ins; the manager connects to the plug-in's own
//! socket and hears there which devices it has. They are the node's capacity, and what of them is healthy can be allocated.
//! A container that asks for some gets devices, and what the plug-in's `Allocate` says comes with them: mounts, device
//! nodes, variables and annotations. What was allocated is kept on disk, survives this process, and is freed when its pod
//! has gone.
//!
//! A plug-in can name any path and device of the node. So, as with a kubelet, who registers is root: the directory is
//! root's own (0700), the socket 0600, and connections of another user are not heard. Nothing that comes in is without a
//! bound, and what makes no sense, takes a place that the container or another plug-in has, or is an order to the runtime is
//! refused. So a plug-in that has gone wrong harms only its own resource and the pods that ask for it; one that is malicious
//! is root as before.
//!
//! 1. [`Table`](table): which devices there are and who has them; pure.
//! 2. [`answer`]: what is taken from a plug-in; pure.
//! 3. [`Devices`](manager): both with calls, deadlines and the file.
//! 4. `serve`: the two sockets.

pub mod answer;
mod error;
pub mod manager;
mod serve;
pub mod table;

pub use error::Error;
pub use manager::{Devices, Wanted};
pub use serve::{SOCKET, Sockets, listen};

use std::path::{Path, PathBuf};

/// Where plug-ins register, below the directory of a node.
pub fn plugins(node: &Path) -> PathBuf {
    node.join("device-plugins")
}

/// Where the pod-resources API is, below the directory of a node.
pub fn resources(node: &Path) -> PathBuf {
    node.join("pod-resources")
}
