//! Who is asking.

use ferrovirt_kubernetes::rbac::User;
use ferrovirt_kubernetes::subject::{self, AUTHENTICATED, MASTERS, NODES, UNAUTHENTICATED};

use crate::request::UserInfo;

/// Group of the service accounts of Ferrovirt's own namespace.
const OWN_ACCOUNTS: &str = "system:serviceaccounts:kubevirt";

/// Key in `extra` that names the node whose token was used.
pub const EXTRA_NODE: &str = "authentication.kubernetes.io/node-name";

impl UserInfo {
    /// The requester without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// A user with these groups and `system:authenticated`.
    #[must_use]
    pub fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut user = Self { name: name.into(), ..Self::default() };
        for group in groups.into_iter().chain([AUTHENTICATED.to_owned()]) {
            if !user.groups.contains(&group) {
                user.groups.push(group);
            }
        }
        user
    }

    /// The requester that the server itself is when it installs manifests.
    #[must_use]
    pub fn server() -> Self {
        Self::authenticated("system:apiserver", [MASTERS.to_owned()])
    }

    /// A service account.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let user = subject::service_account(namespace, name);
        let mut user = Self::authenticated(user, subject::service_account_groups(namespace));
        user.uid = uid.into();
        user
    }

    /// As roles and bindings know the user.
    #[must_use]
    pub fn subject(&self) -> User<'_> {
        User { name: &self.name, groups: &self.groups }
    }

    /// True for members of `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.subject().in_group(group)
    }

    /// True for the accounts that the system works with: administrators by certificate, nodes, and the service accounts of
    /// Ferrovirt's own namespace, where only administrators make any. Limits that stop users do not stop them.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.in_group(MASTERS) || self.in_group(NODES) || self.in_group(OWN_ACCOUNTS)
    }

    /// As `userInfo` of the authentication API.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut out = serde_json::json!({ "username": self.name, "groups": self.groups });
        if let serde_json::Value::Object(fields) = &mut out {
            if !self.uid.is_empty() {
                fields.insert("uid".into(), self.uid.as_str().into());
            }
            if !self.extra.is_empty() {
                fields.insert("extra".into(), serde_json::json!(self.extra));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_have_their_two_groups() {
        let user = UserInfo::service_account("kubevirt", "kubevirt-controller", "u-1");
        assert_eq!(user.name, "system:serviceaccount:kubevirt:kubevirt-controller");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:kubevirt", "system:authenticated"]
        );
    }
}
