//! The SELinux rows of the privilege table, as denials ask for them.

use super::is_minimal;
use crate::selinux::base::Base;
use ferrovirt_model::Profile;
use ferrovirt_privilege::{Right, cluster_grants};
use std::collections::{BTreeMap, BTreeSet};

/// For each target and class the permissions, with feature and reason.
type Reasons = BTreeMap<(String, String), BTreeMap<String, BTreeSet<String>>>;

/// What the domains of both profiles may do, and why.
#[derive(Debug, Clone)]
pub struct Table {
    documented: Reasons,
    minimal: Reasons,
}

impl Default for Table {
    fn default() -> Self {
        Self { documented: reasons(Profile::Documented), minimal: reasons(Profile::Minimal) }
    }
}

impl Table {
    /// The features that grant a permission, with their reasons. `target` is `self` for the domain itself.
    pub fn reason(&self, source: &str, target: &str, class: &str, permission: &str) -> Option<String> {
        let (rules, target) = match is_minimal(source) {
            true => (&self.minimal, placeholder(target)),
            false => (&self.documented, target),
        };
        let origins = rules.get(&(target.to_owned(), class.to_owned()))?.get(permission)?;
        Some(origins.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
    }
}

/// What the domains of a profile may do.
fn reasons(profile: Profile) -> Reasons {
    let mut rules = Reasons::new();
    for (held, origins) in cluster_grants(profile).iter() {
        let Right::Selinux { source, target, class, permission } = &held.right else { continue };
        if is_minimal(source) != (profile == Profile::Minimal) {
            continue;
        }
        let origins = origins.iter().map(|origin| {
            format!("{}: {}. Checked by {}.", origin.feature, origin.grant.reason, origin.grant.hook)
        });
        let permissions = rules.entry((target.clone(), class.clone())).or_default();
        permissions.entry(permission.clone()).or_default().extend(origins);
    }
    rules
}

/// How the minimal profile's rules call the domain of the node agent or of a known base's container runtime.
fn placeholder(target: &str) -> &str {
    let bases = [Base::refpolicy(), Base::container_selinux()];
    match target {
        _ if bases.iter().any(|base| base.agent == target) => "{agent}",
        _ if bases.iter().any(|base| base.runtime == target) => "{runtime}",
        other => other,
    }
}
