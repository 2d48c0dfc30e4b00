//! Who is asking.

use crate::request::UserInfo;

/// Group of every authenticated user.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of those who said nothing about themselves.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group that may do everything: the authorizer does not even look at roles.
pub const MASTERS: &str = "system:masters";
/// Group of node agents.
pub const NODES: &str = "system:nodes";

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
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let mut user = Self::authenticated(service_account_name(namespace, name), groups);
        user.uid = uid.into();
        user
    }

    /// True for members of `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
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

/// The user name of a service account.
#[must_use]
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Namespace and name of the service account behind a user name.
#[must_use]
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
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
        assert_eq!(split_service_account(&user.name), Some(("kubevirt", "kubevirt-controller")));
        assert_eq!(split_service_account("system:node:a"), None);
    }
}
