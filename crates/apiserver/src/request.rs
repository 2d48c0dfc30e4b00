//! The vocabulary that the stages of a request share: who asks, and for what.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use ferrovirt_kubernetes::rbac::{Attributes, Decision};
use ferrovirt_kubernetes::subject::split_service_account;
use serde_json::Value;

use crate::registry::Kind;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, for example `system:serviceaccount:kubevirt:kubevirt-controller`.
    pub name: String,
    /// UID, empty when the credential has none.
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` included.
    pub groups: Vec<String>,
    /// What else the credential says.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Who a request counts for: the authenticated user, no matter who they act as, and for service accounts the namespace. Anyone who
/// may make or impersonate accounts of a namespace would be as many users as they like otherwise.
#[derive(Clone, Debug)]
pub struct Requester(Option<Arc<str>>);

impl Requester {
    /// Of the user that the credential says, before impersonation.
    #[must_use]
    pub fn of(authenticated: &UserInfo) -> Self {
        if authenticated.is_system() {
            return Self(None);
        }
        let name = match split_service_account(&authenticated.name) {
            Some((namespace, _)) => format!("system:serviceaccount:{namespace}"),
            None => authenticated.name.clone(),
        };
        Self(Some(name.into()))
    }

    /// True for the system's own accounts, which are not counted.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.is_none()
    }

    /// What parts are counted by; nothing for the system's own accounts.
    pub(crate) fn key(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }
}

/// The verb of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST of a new object.
    Create,
    /// PUT or PATCH.
    Update,
    /// DELETE; `object` is null.
    Delete,
}

/// One request at the admission stage. Admission may change `object`.
pub struct AdmissionRequest<'a> {
    /// Which kind of object.
    pub kind: &'static Kind,
    /// The version in the request's path (objects are always handed over in the stored version).
    pub version: &'a str,
    /// Create, update or delete.
    pub operation: Operation,
    /// `status` or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Name; generated names are already there.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The stored object, for update and delete.
    pub old: Option<&'a Value>,
    /// The new object; null for delete.
    pub object: &'a mut Value,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// For the `Warning:` headers of the answer.
    pub warnings: &'a mut Vec<String>,
}

/// An authorized request for a subresource: who, and for what.
pub struct Target {
    /// Kind of the parent object. For subresources.kubevirt.io the kind in kubevirt.io.
    pub kind: Option<&'static Kind>,
    /// The request as it was authorized.
    pub attributes: Attributes,
    /// Path segments after the subresource, for example the port and protocol of a port-forward.
    pub rest: Vec<String>,
    /// Who asks.
    pub user: UserInfo,
    /// Who it counts for.
    pub requester: Requester,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_a_namespace_are_one_requester_and_those_of_the_system_none() {
        let of = |namespace, name| Requester::of(&UserInfo::service_account(namespace, name, ""));
        assert_eq!(of("n", "a").key(), of("n", "b").key());
        assert_ne!(of("n", "a").key(), of("m", "a").key());
        assert_ne!(of("n", "a").key(), Requester::of(&UserInfo::authenticated("n", [])).key());
        assert!(of("kubevirt", "kubevirt-controller").is_system() && !of("n", "kubevirt").is_system());
    }
}
