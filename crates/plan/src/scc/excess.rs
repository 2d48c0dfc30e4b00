//! What SCCs grant, in the vocabulary of the privilege table, also for SCCs that others wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ferrovirt_model::Profile;
use ferrovirt_privilege::{Right, cluster_grants};
use ferrovirt_scc::{SecurityContextConstraints, beyond};
use serde::Serialize;

/// One thing that an SCC allows and another one does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// As a right of the table, whether or not the table has it.
    pub right: Right<String>,
    /// In words.
    pub what: String,
    /// The features that ask for it, each with its reason; none when no feature of a machine does.
    pub asked_by: Vec<Asked>,
}

/// A feature that asks for a right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Asked {
    /// Its name in the table.
    pub feature: String,
    /// Why it asks.
    pub reason: String,
}

/// Everything that `a` allows and `b` does not.
pub fn excess(a: &SecurityContextConstraints, b: &SecurityContextConstraints) -> Vec<Excess> {
    let mut table: BTreeMap<Right<String>, BTreeSet<Asked>> = BTreeMap::new();
    for profile in [Profile::Minimal, Profile::Documented] {
        for (held, origins) in cluster_grants(profile).iter() {
            let asked = origins.iter().map(|origin| Asked {
                feature: origin.feature.to_string(),
                reason: origin.grant.reason.to_string(),
            });
            // What is asked of the SCC of labelled machines is asked of an SCC all the same.
            let right = match held.right.clone() {
                Right::MachineScc { field, value } => Right::Scc { field, value },
                right => right,
            };
            table.entry(right).or_default().extend(asked);
        }
    }
    let found = beyond(a, b).into_iter().map(|beyond| {
        let right = Right::Scc { field: beyond.field.to_owned(), value: beyond.value };
        let asked_by = table.get(&right).into_iter().flatten().cloned().collect();
        Excess { right, what: beyond.what, asked_by }
    });
    found.collect()
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.right, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render;

    fn default(name: &str) -> SecurityContextConstraints {
        ferrovirt_scc::defaults::all().into_iter().find(|scc| scc.name() == name).unwrap()
    }

    /// Every value of our own SCC is in the table with its reason, so nothing in the difference is unexplained.
    #[test]
    fn what_the_controllers_scc_grants_beyond_restricted_is_explained_by_features() {
        let ours = render::scc::controller(&cluster_grants(Profile::Documented));
        let ours: SecurityContextConstraints = serde_json::from_value(ours).unwrap();
        let found = excess(&ours, &default("restricted-v2"));
        let field = |name: &str| -> Vec<&Excess> {
            let is = |e: &&Excess| matches!(&e.right, Right::Scc { field, .. } if field == name);
            found.iter().filter(is).collect()
        };
        assert_eq!(field("allowedCapabilities").len(), 3);
        assert_eq!(field("allowHostDirVolumePlugin").len(), 1);
        for excess in &found {
            // What is not demanded of a pod (to drop all capabilities) is no grant of the table.
            let restriction =
                matches!(&excess.right, Right::Scc { field, .. } if field == "requiredDropCapabilities");
            assert_eq!(excess.asked_by.is_empty(), restriction, "{excess}");
        }
    }

    #[test]
    fn an_scc_that_others_wrote_is_described_too() {
        let found = excess(&default("hostaccess"), &default("restricted-v2"));
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(texts.contains(&"scc allowHostPID=true: the host's processes".to_owned()), "{texts:#?}");
        let pid = found.iter().find(|e| e.to_string().contains("allowHostPID")).unwrap();
        assert!(pid.asked_by.is_empty());
        let path = found.iter().find(|e| e.to_string().contains("volumes=hostPath")).unwrap();
        assert!(path.asked_by.iter().any(|asked| asked.feature.contains("disk")), "{:?}", path.asked_by);
    }
}
