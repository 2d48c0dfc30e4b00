//! Who may use an SCC: its own users and groups, and roles.

use ferrovirt_kubernetes::object;
use ferrovirt_kubernetes::rbac::{Rights, Subject};
use ferrovirt_kubernetes::subject::split_service_account;
use ferrovirt_scc::{SecurityContextConstraints, USE};
use serde_json::Value;
use std::collections::BTreeSet;

/// What of these objects is a role or a binding, as far as it is about SCCs.
pub(super) fn rights(objects: &[Value]) -> Rights {
    Rights::read(objects.iter().map(|object| (object::kind(object), object)), &USE)
}

/// Everybody who may use the SCC in the namespace, in words.
pub(super) fn holders(rights: &Rights, scc: &SecurityContextConstraints, namespace: &str) -> Vec<String> {
    let mut all: BTreeSet<String> = BTreeSet::new();
    all.extend(scc.users.iter().map(|name| format!("user {name}")));
    all.extend(scc.groups.iter().map(|name| format!("group {name}")));
    for (subject, everywhere) in rights.holders(scc.name(), namespace) {
        let place = if everywhere { String::new() } else { format!(", in namespace {namespace}") };
        all.insert(match subject {
            Subject::Group(name) => format!("group {name}{place}"),
            Subject::User(name) => match split_service_account(name) {
                Some((home, name)) => format!("service account {home}/{name}{place}"),
                None => format!("user {name}{place}"),
            },
        });
    }
    all.into_iter().collect()
}
