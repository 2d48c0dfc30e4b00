//! Role-based access control: what rules grant, to whom bindings give them, and the two ways to look that up.
//!
//! [`Index`] answers any request and changes with each stored role and binding, as an API server needs. [`Rights`] answers
//! one question, on which objects who may perform one action, from tables that were reduced to it, as an admission webhook
//! needs. Rules, subjects and references to roles are read in one way for both.

mod aggregate;
mod index;
mod rights;
mod rule;
mod subject;

pub use aggregate::aggregate;
pub use index::Index;
pub use rights::{Action, Binding, Objects, Rights, RoleName, role_name};
pub use rule::{Rule, not_covered};
pub use subject::{Subject, subjects};

/// API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// What authorization is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or an own verb such as `use`;
    /// for paths that are no resources the method in small letters.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource name; empty when the request is for a path that is no resource.
    pub resource: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Object name or empty.
    pub name: String,
    /// The path.
    pub path: String,
}

/// What authorization answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and by which binding.
    Allow(String),
    /// No. The reason may be empty; the caller words the 403.
    Deny(String),
}

/// Whose rights are looked up.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// User name; of a service account as [`crate::subject::service_account`] makes it.
    pub name: &'a str,
    /// Groups, exactly those that count.
    pub groups: &'a [String],
}

impl User<'_> {
    /// True for members of `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
