//! The decisions of the controllers and, in [`life`] and [`place`], of the node: pure functions from what is observed to what is to be
//! done.
//!
//! Nothing here reads a clock, draws a random number or talks to anybody: time and chance are arguments, and the
//! shell (`ferrovirt-control`) performs the returned [`Action`]s in order and stops at the first that fails. Every
//! decision looks at the whole state; it never knows which event woke it.
//!
//! ```text
//!   VirtualMachine --(vm)--> VirtualMachineInstance --(vmi)--> virt-launcher pod
//!
//!   phase:  "" -> Pending -> Scheduling -> Scheduled -> Running -> Succeeded | Failed
//!           |------------- controller -------------|--- node agent ---|
//!           the controller again, for Failed, when the pod is gone
//! ```
//!
//! Two writers share a VirtualMachineInstance (the controller and the node agent), so every patch begins with a test
//! of the resource version that the decision was made from: a controller that was overtaken decides again.

pub mod accept;
mod conditions;
pub mod fit;
mod launcher;
pub mod life;
mod patch;
pub mod place;
mod pods;
mod record;
mod refusal;
mod start;
mod start_in_vain;
pub mod subresource;
pub mod uninstall;
mod vm;
mod vm_status;
mod vmi;
mod vmi_status;

#[cfg(test)]
mod tests;

use std::time::Duration;

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

pub use conditions::{NO_IMAGE_VOLUMES, Parts, cluster_status, images};
pub use launcher::launcher_pod;
pub use record::{Look, unrecorded};
pub use refusal::{Dropped, NO_USER_NAMESPACE, dropped, misses_images};
pub use start::{back_off_seconds, is_final};
pub(crate) use start::{phase, strategy};
pub use start_in_vain::NodeLack;
pub use vm::{VmSnapshot, vm, vm_gone, vm_refused};
pub use vmi::{VmiSnapshot, claim_names, held_pair, pod_pair, vmi, vmi_refused};

/// Holds a VirtualMachineInstance until its pods are gone; `kubevirt.io` key of upstream.
pub const FOREGROUND_FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
/// Holds a VirtualMachine, and the instance that it owns, until the VM controller has taken note of the end.
pub const VM_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
/// Generation of the VirtualMachine that an instance was made from; annotation of the instance.
pub const GENERATION_ANNOTATION: &str = "kubevirt.io/vm-generation";
/// Digest of the template that an instance was made from; annotation of the instance.
pub const TEMPLATE_ANNOTATION: &str = "kubevirt.io/vm-template-digest";
/// Label by which the node agent finds its instances.
pub const NODE_LABEL: &str = "kubevirt.io/nodeName";
/// Label of launcher pods: UID of their instance.
pub const CREATED_BY_LABEL: &str = "kubevirt.io/created-by";
/// Annotation of launcher pods: name of their instance.
pub const DOMAIN_ANNOTATION: &str = "kubevirt.io/domain";

/// What to do now, when to look again without an event, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To be performed in order; the first failure ends the round.
    pub actions: Vec<Action>,
    /// Time after which the state has to be looked at again even if nothing happens.
    pub requeue_after: Option<Duration>,
    /// One sentence about what is done or waited for.
    pub explanation: String,
}

/// One step. Names and namespaces are those of the object that was decided about, unless given.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the instance of a VirtualMachine. An instance of this name that exists already is no error.
    CreateVmi(Box<VirtualMachineInstance>),
    /// Delete the instance with this UID.
    DeleteVmi {
        /// UID that is meant; a newer instance of the same name is left alone.
        uid: String,
    },
    /// Create the launcher pod. A pod of this name that exists already is no error: the name says which instance.
    CreatePod(Box<Pod>),
    /// Delete a launcher pod.
    DeletePod {
        /// Name of the pod.
        name: String,
        /// UID that is meant.
        uid: String,
        /// Seconds between the request and the kill; the pod's own period when absent.
        grace_seconds: Option<i64>,
    },
    /// Ask the API server itself, not a cache, whether the pod is gone; end the round if it is not.
    ConfirmPodGone {
        /// Name of the pod.
        name: String,
    },
    /// JSON patch of the VirtualMachine, status excluded.
    PatchVm(Vec<Value>),
    /// JSON patch of the status subresource of the VirtualMachine.
    PatchVmStatus(Vec<Value>),
    /// JSON patch of the instance, status included (it has no status subresource).
    PatchVmi(Vec<Value>),
    /// Tell the people who watch the object that was decided about.
    Event(Event),
}

/// An event about the object that was decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Warning rather than Normal.
    pub warning: bool,
    /// A word in CamelCase that programs match.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Event {
    fn normal(reason: &'static str, message: impl Into<String>) -> Action {
        Action::Event(Self { warning: false, reason, message: message.into() })
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Action {
        Action::Event(Self { warning: true, reason, message: message.into() })
    }
}

/// Why the API server refused a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP code.
    pub code: u16,
    /// The server's message; for 403 it names verb, resource and user.
    pub message: String,
}

/// A PersistentVolumeClaim that a machine names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Name in the machine's namespace.
    pub name: String,
    /// Whether it is there and usable.
    pub state: ClaimState,
    /// It is in block mode: a device rather than a file system.
    pub block: bool,
}

/// Whether a claim is there and usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// No such claim.
    Missing,
    /// Not bound to a volume yet.
    Pending,
    /// Bound, and somebody else still writes its disk: a machine that runs meanwhile would write to it as well.
    Filling,
    /// Bound.
    Bound,
}
