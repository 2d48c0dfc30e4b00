//! The subresources of machines, group `subresources.kubevirt.io`: what there is, what a request of it is allowed to do in
//! the state that machine and instance are in, and what clients are answered.
//!
//! Pure: the caller reads the objects, performs the patches, and forwards to the node's handler what only that one can do.

mod call;
mod discovery;
mod front_proxy;
mod path;
mod unanswered;

pub use call::{Call, Refused, expanded};
pub use discovery::{aggregated_rows, rows, version};
pub use ferrovirt_plan::decide::subresource::{GROUP, VERSIONS};
pub use front_proxy::{Names, Owner, Requester};
pub use path::{Asked, Path};
pub use unanswered::is_read_as_text;

/// What is asked to expand a machine that is not stored: no part of an object, but a word in a namespace.
pub const EXPAND: &str = "expand-vm-spec";

/// What discovery lists: resource with subresource, and the verb of its method.
pub const VERBS: &[(&str, &str)] = &[
    ("virtualmachineinstances/console", "get"),
    ("virtualmachineinstances/pause", "update"),
    ("virtualmachineinstances/unpause", "update"),
    ("virtualmachineinstances/vnc", "get"),
    ("virtualmachines/restart", "update"),
    ("virtualmachines/start", "update"),
    ("virtualmachines/stop", "update"),
];
