//! The capabilities of the processes on a node that are root's, out of the privilege table.

use ferrovirt_model::Profile;
use ferrovirt_privilege::{Feature, Right, Subject, grants};
use std::collections::BTreeSet;

/// What `virt-handler` keeps of root's capabilities, without the `CAP_` prefix.
pub fn agent() -> Vec<String> {
    named(&[Subject::Node, Subject::NodeAgent])
}

/// What a launcher pod of either profile may have. The container runtime, a child of the agent, cannot give more than the
/// agent's bounding set holds.
pub fn containers() -> Vec<String> {
    named(&[Subject::Launcher, Subject::Qemu])
}

/// What the supervisor of `ferrovirt up` keeps for itself.
pub fn supervisor() -> Vec<String> {
    named(&[Subject::Supervisor])
}

fn named(subjects: &[Subject]) -> Vec<String> {
    let profiles = [Profile::Minimal, Profile::Documented];
    let all = Feature::ALL.into_iter().flat_map(|feature| profiles.map(|profile| (feature, profile)));
    let grants = all.flat_map(|(feature, profile)| grants(feature, profile));
    let rights = grants.filter(|grant| subjects.contains(&grant.subject)).flat_map(|grant| grant.rights);
    let names: BTreeSet<String> = rights
        .filter_map(|right| match right {
            Right::Host { capability, .. } => Some((*capability).to_owned()),
            Right::Capability(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_has_few_capabilities() {
        let own = [
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "KILL",
            "MKNOD",
            "NET_ADMIN",
            "NET_BIND_SERVICE",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_ADMIN",
            "SYS_RESOURCE",
        ];
        assert_eq!(agent(), own);
        assert_eq!(containers(), ["NET_ADMIN", "NET_RAW", "SYS_NICE"]);
        let own = [
            "CHOWN",
            "DAC_OVERRIDE",
            "KILL",
            "NET_BIND_SERVICE",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_RESOURCE",
        ];
        assert_eq!(supervisor(), own);
    }
}
