//! The privilege table: which feature grants what to whom, in which phase, demanded by which hook, and why.
//!
//! ```text
//! machine -> features -> grants -> rights -> (rendered by ferrovirt-plan, read back, compared)
//! ```
//!
//! * [`Feature`]: what a machine, or the system, can do. [`features()`] takes a machine apart without a rest pattern.
//! * [`Grant`]: an entry of the table, one file for each feature in [`features`](mod@features). Hook, reason and
//!   witness cannot be blank.
//! * [`Right`]: the atom that is rendered, read back and compared.
//! * [`Domain`]: a type of SELinux in the minimal profile; [`domain`] tells a machine's, [`Domain::all`] every one.
//! * [`GrantSet`]: rights of a machine or of the cluster, each with the features that asked for it. There is no other
//!   way to make one, so no right is without an origin.

mod domain;
mod feature;
pub mod features;
mod grant;
mod right;
pub mod scenario;
mod set;
mod task;
mod text;

pub use domain::{BLOCK as DOMAIN_BLOCK, Domain};
pub use feature::{Feature, Label, Surroundings, features};
pub use features::grants;
pub use grant::{Grant, Phase, Subject};
pub use right::{Access, DeviceSource, NetworkStep, Right, Surface, VolumeSource};
pub use scenario::Scenario;
pub use set::{
    GrantSet, Held, Origin, cluster_grants, domain, domain_grants, feature_grants, machine_grants,
};
pub use task::{Task, task};
pub use text::{Hook, Reason, Witness};
