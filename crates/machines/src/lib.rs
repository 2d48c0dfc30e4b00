//! What KubeVirt's API server does for the objects of `kubevirt.io` before they are stored, wherever it runs: in the process
//! of the embedded API server, or behind the webhooks of another Kubernetes.
//!
//! ```text
//!   complete ──► Subject ──► check             defaults; then what is refused, with its field
//!                   └──────► question ──► settle   whose rights count; what was decided is written on the machine
//! ```
//!
//! [`subresource`] is what is done with machines that are there: start, stop, pause, consoles.
//!
//! Pure: the caller brings the configuration, the time, randomness, the owner of an instance and the cluster's answer
//! about rights.

mod check;
mod complete;
mod refusal;
mod rights;
pub mod subresource;

pub use check::{check, uninstalling};
pub use complete::{Surroundings, complete};
pub use refusal::Refusal;
pub use rights::{Asked, configuration, defaults, owner, question, same_decision, settle};

use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use ferrovirt_kubernetes::{object, subject};
use ferrovirt_plan::config::NAMESPACE;
use serde_json::Value;

/// The group of the kinds.
pub const GROUP: &str = "kubevirt.io";
/// Virtual machines.
pub const MACHINES: &str = "virtualmachines";
/// Their instances.
pub const INSTANCES: &str = "virtualmachineinstances";
/// The configuration.
pub const CONFIGURATIONS: &str = "kubevirts";

/// KubeVirt's own accounts in its namespace, upstream's names among them.
pub const ACCOUNTS: [&str; 6] = [
    "kubevirt-api",
    "kubevirt-apiserver",
    "kubevirt-controller",
    "kubevirt-handler",
    "kubevirt-operator",
    "kubevirt-synchronization-controller",
];

/// Whether a user is one of KubeVirt's own accounts, which may do to instances what users may not.
pub fn is_own(user: &str) -> bool {
    subject::split_service_account(user)
        .is_some_and(|(namespace, name)| namespace == NAMESPACE && ACCOUNTS.contains(&name))
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is deleted: nobody is ever kept from that.
    Delete,
}

/// A request that writes an object of [`GROUP`].
pub struct Request<'a> {
    /// What happens.
    pub operation: Operation,
    /// Plural name of the kind.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name of the object.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a str,
    /// Groups of who asks.
    pub groups: &'a [String],
    /// The stored object.
    pub old: Option<&'a Value>,
    /// The new object.
    pub object: &'a mut Value,
}

/// What a request is about, read.
#[derive(Debug)]
pub enum Subject {
    /// A machine is made or changed.
    Machine(Box<VirtualMachine>),
    /// An instance is made.
    Instance(Box<VirtualMachineInstance>),
    /// An instance is changed.
    Changed,
    /// The configuration is written.
    Configuration,
    /// Nothing is asked about it.
    Nothing,
}

/// The same before anything was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Machine,
    /// A machine that goes: one that is being deleted is let go, and nothing is asked about what is there already.
    Leaving,
    Instance,
    Changed,
    Configuration,
    Nothing,
}

impl Request<'_> {
    fn form(&self) -> Form {
        match (self.resource, self.operation) {
            (_, Operation::Delete) => Form::Nothing,
            (MACHINES, _) if !self.subresource.is_empty() => Form::Nothing,
            (MACHINES, operation) => {
                // A change of its spec is one like any other.
                let same = self.old.is_some_and(|old| old.get("spec") == self.object.get("spec"));
                let leaving = operation == Operation::Update && object::is_deleting(self.object) && same;
                if leaving { Form::Leaving } else { Form::Machine }
            }
            (INSTANCES, Operation::Create) => Form::Instance,
            (INSTANCES, Operation::Update) => Form::Changed,
            (CONFIGURATIONS, _) if self.subresource.is_empty() => Form::Configuration,
            _ => Form::Nothing,
        }
    }

    /// What it is about, as it came: for anyone who checks what somebody else has completed.
    ///
    /// # Errors
    /// An object that is not of its kind's form.
    pub fn subject(&self) -> Result<Subject, Refusal> {
        Ok(match self.form() {
            Form::Machine => Subject::Machine(Box::new(self.read(check::MACHINE)?)),
            Form::Instance => Subject::Instance(Box::new(self.read(check::INSTANCE)?)),
            Form::Changed => Subject::Changed,
            Form::Configuration => Subject::Configuration,
            Form::Leaving | Form::Nothing => Subject::Nothing,
        })
    }

    fn read<T: serde::de::DeserializeOwned>(&self, webhook: &'static str) -> Result<T, Refusal> {
        T::deserialize(&*self.object).map_err(|why| Refusal::bad_request(webhook, why.to_string()))
    }

    fn is_own(&self) -> bool {
        is_own(self.user)
    }
}

#[cfg(test)]
mod tests;
