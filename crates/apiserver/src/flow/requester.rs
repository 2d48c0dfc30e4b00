//! Who a request counts for.

use std::sync::Arc;

use crate::request::UserInfo;
use ferrovirt_kubernetes::subject::split_service_account;

/// Who a request counts for: the authenticated user, whoever they act as, and for service accounts the namespace. Anyone who
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
    pub(super) fn key(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }
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
