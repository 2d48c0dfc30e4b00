//! Who asks: the names of users and groups that Kubernetes itself gives out.

/// Group of every authenticated user.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of those who said nothing about themselves.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group that may do everything: authorizers do not even look at roles.
pub const MASTERS: &str = "system:masters";
/// Group of nodes.
pub const NODES: &str = "system:nodes";
/// Group of every service account.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// The user name of a service account.
#[must_use]
pub fn service_account(namespace: &str, name: &str) -> String {
    ["system:serviceaccount:", namespace, ":", name].concat()
}

/// The two groups of a service account beside [`AUTHENTICATED`]: of all, and of those of its namespace.
#[must_use]
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    [SERVICE_ACCOUNTS.to_owned(), [SERVICE_ACCOUNTS, ":", namespace].concat()]
}

/// Namespace and name of the service account behind a user name; nothing for other users.
#[must_use]
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_have_a_name_and_two_groups() {
        let user = service_account("kubevirt", "kubevirt-controller");
        assert_eq!(user, "system:serviceaccount:kubevirt:kubevirt-controller");
        assert_eq!(split_service_account(&user), Some(("kubevirt", "kubevirt-controller")));
        let groups = service_account_groups("kubevirt");
        assert_eq!(groups, ["system:serviceaccounts", "system:serviceaccounts:kubevirt"]);
        for other in [
            "system:node:a",
            "system:serviceaccount::a",
            "system:serviceaccount:a:",
            "system:serviceaccount:a:b:c",
        ] {
            assert_eq!(split_service_account(other), None, "{other}");
        }
    }
}
