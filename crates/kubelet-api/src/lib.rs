//! The gRPC APIs that a kubelet has for programs of its node: device plug-ins `v1beta1` and pod-resources `v1`.
//!
//! [`messages`] are those that are used; [`grpc`] is how they travel over Unix sockets, for both sides.

pub mod grpc;
pub mod messages;
