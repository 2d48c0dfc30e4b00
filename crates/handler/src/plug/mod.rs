//! The part of the handler that speaks with the kubelet: it offers places for machines ("slots") as devices.
//!
//! A launcher's pod asks for one `devices.ferrovirt.io/machine`. The kubelet then calls `Allocate`, and the answer makes
//! kubelet and runtime mount a directory of the slot's own into the container: the pod names no path of the node. Which
//! pod holds a slot says the kubelet's pod-resources API. Anyone who may register a plug-in is root on the node, since the
//! answer may name any path and device: so this part has no capability, no token and no network, and nothing that a
//! launcher sends reaches it.
//!
//! 1. [`messages`]: the two APIs of the kubelet, device plug-ins v1beta1 and pod-resources v1.
//! 2. [`grpc`]: how they travel over Unix sockets.
//! 3. [`plugin`]: what is answered to the kubelet.
//! 4. [`registration`]: that the kubelet knows the plug-in, also after either of them was started again.
//! 5. [`table`]: which pod holds which slot; [`look`] asks the kubelet, and [`store`] is the disk.
//! 6. [`program`]: how it all runs, and what it gives up before.

pub mod look;
pub mod plugin;
pub mod program;
pub mod reader;
pub mod registration;
pub mod store;
pub mod table;

pub use ferrovirt_kubelet_api::{grpc, messages};

/// A place for a machine on a node.
pub const MACHINE: &str = "devices.ferrovirt.io/machine";
/// The device node of KVM alone, as upstream's launchers ask for it.
pub const KVM: &str = "devices.kubevirt.io/kvm";
/// The device node of which TAPs are made, as upstream's launchers and those of the documented profile ask for it.
pub const TUN: &str = "devices.kubevirt.io/tun";
/// The device node of vhost-net, as upstream's launchers ask for it.
pub const VHOST_NET: &str = "devices.kubevirt.io/vhost-net";
/// Where a container sees the directory of its slot.
pub const MOUNT_POINT: &str = "/run/ferrovirt";
