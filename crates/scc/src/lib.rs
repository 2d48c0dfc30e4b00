//! SecurityContextConstraints admission: constraints, requester and pod in; the defaulted pod or every refusal out.
//!
//! The crate is pure: it reads no file, no clock and no cluster, and it never panics on what it is given. The
//! caller keeps a compiled set of constraints ([`Constraints::compile`]), asks for a decision with the state that
//! it has ([`Constraints::admit`]), and waits or retries where [`Denied::may_pass_later`] says that it helps.
//!
//! ```
//! use ferrovirt_scc::{Constraints, NamespaceValues, Operation, Outcome, Request, defaults, Subject};
//! let constraints = Constraints::compile(defaults::all());
//! let everyone = |_: &Subject<'_>, scc: &str, _: &str| scc == "restricted-v2";
//! let request = Request {
//!     operation: Operation::Create,
//!     subresource: "",
//!     name: "p",
//!     namespace: "demo",
//!     values: Some(NamespaceValues {
//!         uid_range: Some("1000620000/10000"),
//!         mcs: Some("s0:c25,c10"),
//!         supplemental_groups: None,
//!     }),
//!     user: "alice",
//!     groups: &[],
//! };
//! let mut pod = serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
//! let Ok(Outcome::Admitted(admitted)) = constraints.admit(&request, &everyone, &mut pod) else { unreachable!() };
//! assert_eq!(admitted.scc, "restricted-v2");
//! assert_eq!(pod["spec"]["containers"][0]["securityContext"]["runAsUser"], 1000620000);
//! ```

mod admit;
mod constraint;
mod names;
mod namespace;
mod pod;
mod report;
mod review;

pub use admit::access::{Authorizer, Grants, Subject, SubjectType, USE};
pub use admit::consider::{Refused, Verdict, least};
pub use admit::decision::{Admitted, Cause, Denied, Operation, Outcome, Pass, Request};
pub use admit::skip::{exempt_namespace, nothing_relevant_changed};
pub use constraint::compiled::{Constraints, STANDARD_NAMES};
pub use constraint::defaults;
pub use constraint::object::{FieldError, default_object, prepare, validate_object};
pub use constraint::order::{Why, points, why_before};
pub use constraint::types::{
    FlexVolume, GroupStrategy, IdRange, RunAsUserStrategy, SELinuxOptions, SELinuxStrategy,
    SecurityContextConstraints,
};
pub use names::*;
pub use namespace::{BLOCK_COUNT, BLOCK_SIZE, Block, Ledger, NamespaceValues, allocate, first_free};
pub use pod::exec::may_enter;
pub use report::audit::AuditAnnotation;
pub use report::refusal::{Body, Form, Refusal};
pub use review::compare::{Beyond, beyond};
pub use review::minimal::minimal;
pub use review::webhook;
pub use review::{ReviewError, ReviewKind, ReviewRequest, review};
