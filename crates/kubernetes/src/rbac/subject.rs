//! The subjects of bindings.

use std::fmt;

use k8s_openapi::api::rbac::v1 as k8s;
use serde_json::Value;

use crate::json;
use crate::subject::{service_account, split_service_account};

/// Whom a binding names. A service account is the user of its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// By user name.
    User(String),
    /// By group name.
    Group(String),
}

impl Subject {
    /// From the fields of a subject; nothing for a kind that is none. `home` is the namespace of a service account that
    /// does not say its own; such an account is nobody where `home` is empty.
    #[must_use]
    pub fn of(kind: &str, namespace: &str, name: &str, home: &str) -> Option<Self> {
        match kind {
            "User" => Some(Self::User(name.to_owned())),
            "Group" => Some(Self::Group(name.to_owned())),
            "ServiceAccount" => {
                let namespace = if namespace.is_empty() { home } else { namespace };
                (!namespace.is_empty()).then(|| Self::User(service_account(namespace, name)))
            }
            _ => None,
        }
    }

    /// From the type of Kubernetes' client; as [`Subject::of`].
    #[must_use]
    pub fn typed(subject: &k8s::Subject, home: &str) -> Option<Self> {
        Self::of(&subject.kind, subject.namespace.as_deref().unwrap_or_default(), &subject.name, home)
    }
}

/// The subjects of a binding, as [`Subject::of`]; one without a name is nobody.
pub fn subjects<'a>(binding: &'a Value, home: &'a str) -> impl Iterator<Item = Subject> + use<'a> {
    json::list(binding, "subjects").filter_map(move |subject| {
        let name = json::string(subject, "name")?;
        Subject::of(json::text(subject, "kind"), json::text(subject, "namespace"), name, home)
    })
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(name) => write!(f, "Group \"{name}\""),
            Self::User(name) => match split_service_account(name) {
                Some((namespace, account)) => write!(f, "ServiceAccount \"{account}/{namespace}\""),
                None => write!(f, "User \"{name}\""),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_account_without_a_namespace_is_that_of_its_home_or_nobody() {
        let binding = json!({"subjects": [
            {"kind": "ServiceAccount", "name": "a"}, {"kind": "ServiceAccount", "name": "b", "namespace": "other"},
            {"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"}, {"kind": "Robot", "name": "r"}, {"kind": "User"}]});
        let shown =
            |home: &str| subjects(&binding, home).map(|subject| subject.to_string()).collect::<Vec<_>>();
        let rest = ["ServiceAccount \"b/other\"", "User \"u\"", "Group \"g\""];
        assert_eq!(shown(""), rest);
        assert_eq!(shown("home")[1..], rest);
        assert_eq!(shown("home")[0], "ServiceAccount \"a/home\"");
    }
}
