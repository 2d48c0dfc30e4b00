//! The request for a decision, and the decision.

use std::fmt;

use serde_json::Value;

use crate::admit::access::SubjectType;
use crate::names::REQUIRED_SCC;
use crate::namespace::NamespaceValues;
use crate::report::audit::AuditAnnotation;
use crate::report::quote::quoted;
use crate::report::refusal::{Refusal, joined, spaced};

/// What is being done to the pod.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// It is made.
    Create,
    /// It replaces this one.
    Update {
        /// The stored pod.
        old: &'a Value,
    },
}

/// One request about a pod, with the state that the decision needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Create or update.
    pub operation: Operation<'a>,
    /// Sub-resource of the request; empty for the pod itself.
    pub subresource: &'a str,
    /// Name in the request; may be empty.
    pub name: &'a str,
    /// Namespace of the request. It counts, not the one in the pod.
    pub namespace: &'a str,
    /// The namespace's values; `None` when there is no such namespace.
    pub values: Option<NamespaceValues<'a>>,
    /// Name of the requesting user.
    pub user: &'a str,
    /// Groups of the requesting user.
    pub groups: &'a [String],
}

/// Which of the two passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Chooses an SCC and changes the pod.
    Mutating,
    /// Checks that an SCC still admits the pod as it is.
    Validating,
}

/// The answer where the pod may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request does not concern SCCs; the pod is as it was.
    Ignored,
    /// An SCC admits the pod.
    Admitted(Admitted),
}

/// An SCC admits the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The SCC.
    pub scc: String,
    /// Whose right to use it counted.
    pub subject: SubjectType,
    /// Whether it changed the pod, other than by admission's own annotations.
    pub changed: bool,
    /// What the audit log should say.
    pub audit: Vec<AuditAnnotation>,
}

/// Why a pod may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The object is no pod that could be read.
    NotAPod(String),
    /// The required SCC must not be changed.
    RequiredChanged,
    /// The annotation names another SCC than the required one.
    RequiredMismatch {
        /// Required SCC.
        required: String,
        /// SCC named by the annotation; may be empty.
        named: String,
    },
    /// The required SCC does not exist.
    RequiredMissing(String),
    /// Standard SCCs do not exist, sorted.
    StandardMissing(Vec<&'static str>),
    /// There is no SCC at all.
    NoConstraints,
    /// The namespace does not exist.
    NamespaceMissing(String),
    /// The namespace lacks an annotation.
    NamespaceUnprepared {
        /// Namespace.
        namespace: String,
        /// Missing annotation.
        key: &'static str,
    },
    /// SCCs cannot be used in this namespace, so that nobody's pod can be admitted: one text for each.
    Unusable(Vec<String>),
    /// No SCC admits the pod: the reasons in the order in which the SCCs were tried. Empty when every usable SCC
    /// would have had to change a pod that must not be changed.
    NothingFits(Vec<Refusal>),
}

/// A refusal of the whole request; displays as the message of the 403 answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Name of the pod, as the message shows it.
    pub pod: String,
    /// Which pass refused.
    pub pass: Pass,
    /// Why.
    pub cause: Cause,
    /// What the audit log should say.
    pub audit: Vec<AuditAnnotation>,
}

impl Denied {
    /// Whether waiting for the caches may change the answer: standard SCCs or the namespace are missing. The
    /// API server asks again each second for at most ten.
    pub fn may_pass_later(&self) -> bool {
        matches!(
            self.cause,
            Cause::StandardMissing(_) | Cause::NamespaceMissing(_) | Cause::NamespaceUnprepared { .. }
        )
    }

    /// The reasons one by one, as texts; a cause that is not about single SCCs is one text.
    pub fn errors(&self) -> Vec<String> {
        match &self.cause {
            Cause::NothingFits(refusals) => refusals.iter().map(Refusal::to_string).collect(),
            _ => vec![self.reason()],
        }
    }

    /// The message without the name of the pod.
    pub fn reason(&self) -> String {
        match &self.cause {
            Cause::NotAPod(why) => {
                format!("object was marked as kind pod but was unable to be converted: {why}")
            }
            Cause::RequiredChanged => {
                format!("invalid change of required security context constraint annotation: {REQUIRED_SCC}")
            }
            Cause::RequiredMismatch { required, named } => {
                format!("required scc/{required} does not match the suggested scc/{named}")
            }
            Cause::RequiredMissing(name) => {
                let name = quoted(name);
                format!(
                    "failed to retrieve the required SCC {name}: \
                     securitycontextconstraints.security.openshift.io {name} not found"
                )
            }
            Cause::StandardMissing(names) => format!(
                "securitycontextconstraints.security.openshift.io cache is missing {}",
                names.join(", ")
            ),
            Cause::NoConstraints => "no SecurityContextConstraints found in cluster".to_owned(),
            Cause::NamespaceMissing(name) => {
                let name = quoted(name);
                format!("error fetching namespace {name}: namespace {name} not found")
            }
            Cause::NamespaceUnprepared { namespace, key } => {
                format!("error fetching namespace {}: unable to find annotation {key}", quoted(namespace))
            }
            Cause::Unusable(texts) => joined(texts),
            Cause::NothingFits(refusals) => {
                let list = match self.pass {
                    Pass::Mutating => joined(refusals),
                    Pass::Validating => spaced(refusals),
                };
                format!("unable to validate against any security context constraint: {list}")
            }
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pods {} is forbidden: {}", quoted(&self.pod), self.reason())
    }
}

impl std::error::Error for Denied {}
