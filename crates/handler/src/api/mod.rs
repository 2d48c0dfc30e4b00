//! `virt-handler api`, the part of the handler that speaks with the API server: it decides, by
//! [`ferrovirt_plan::decide::place`], what is done for the pods that hold places, and reports their machines.
//!
//! ```text
//!   API server ── pods and machines of this node ──► node ──┐ an inbox for each place
//!   net ── who holds which place, what launchers say ─► node ┤
//!                                                            ▼
//!   net ◄── make this network, pass this order on ─────── worker (one task for each place) ──► reporter ──► API server
//! ```
//!
//! It has no capability, no path of the node and nothing of the kubelet's, and enters no namespace. What it says to `net`
//! moves nothing but what `net` allows to be moved.

mod asks;
mod http;
mod inbox;
mod net;
mod node;
pub mod program;
mod stream;
mod worker;
