//! Proof of an SELinux policy by a real kernel: which operations are tried in which domains, what the privilege table says
//! about each, and whether the kernel said the same.
//!
//! Nothing here is an expectation written by hand. An [`Experiment`] says which accesses the kernel asks for; whether a domain
//! has them follows from the privilege table and from what the base policy gives to `container_t` ([`Trial`], [`judge`]);
//! the compiled policy plays no part in it. The guest that runs the operations knows nothing of this either.

mod domains;
mod expect;
mod experiments;
mod outcome;
mod page;
mod report;
mod scenario;

pub use domains::{Plan, PlanError, Rule, Trial, plan};
pub use expect::{Expected, Refusal, judge};
pub use experiments::{Access, EXPERIMENTS, Experiment, Target, Topic};
pub use outcome::{Answer, Cell, OutcomeError, Proof, Witnessed, compare};
pub use page::html;
pub use report::{json, text};
pub use scenario::scenario;
