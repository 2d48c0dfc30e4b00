//! Sets of granted rights, with where each comes from.

use crate::{
    domain::Domain,
    feature::{Feature, Surroundings, Use, features, uses},
    features::grants,
    grant::{Grant, Subject},
    right::{Right, Surface},
};
use ferrovirt_model::{Machine, Profile};
use std::collections::{BTreeMap, BTreeSet};

/// Where the name of a machine's type goes.
const DOMAIN: &str = "{domain}";

/// A right and who has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Who.
    pub subject: Subject,
    /// What.
    pub right: Right<String>,
}

/// Why a right is held: a feature and the entry of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The feature that asked.
    pub feature: Feature,
    /// The entry.
    pub grant: &'static Grant,
}

/// Rights, each with every origin that it has. There is no right without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantSet(BTreeMap<Held, BTreeSet<Origin>>);

impl GrantSet {
    /// The rights and their origins in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Held, &BTreeSet<Origin>)> {
        self.0.iter()
    }

    /// The number of rights.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No right at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rights without their holders that are rendered in one document.
    pub fn on(&self, surface: Surface) -> BTreeSet<Right<String>> {
        self.0.keys().filter(|held| held.right.surface() == surface).map(|held| held.right.clone()).collect()
    }

    /// The rights of one subject.
    pub fn of(&self, subject: Subject) -> BTreeSet<Right<String>> {
        self.0.keys().filter(|held| held.subject == subject).map(|held| held.right.clone()).collect()
    }

    /// What is here and not in `other`, no matter who holds it.
    pub fn minus(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(held, _)| !other.0.contains_key(held))
                .map(|(h, o)| (h.clone(), o.clone()))
                .collect(),
        )
    }

    /// Everything in either.
    pub fn plus(mut self, other: Self) -> Self {
        for (held, origins) in other.0 {
            self.0.entry(held).or_default().extend(origins);
        }
        self
    }

    /// Every right here is also in `other`.
    pub fn within(&self, other: &Self) -> bool {
        self.0.keys().all(|held| other.0.contains_key(held))
    }

    /// The same rights with texts in place of placeholders such as `{runtime}`.
    pub fn with(&self, texts: &[(&'static str, String)]) -> Self {
        let mut set = Self::default();
        for (held, origins) in &self.0 {
            let right = held.right.map(&|text| fill(text, texts));
            set.0.entry(Held { subject: held.subject, right }).or_default().extend(origins);
        }
        set
    }

    fn add(&mut self, used: &Use, profile: Profile) {
        for grant in grants(used.feature, profile) {
            for right in grant.rights {
                let right = right.map(&|text| fill(text, &used.texts));
                let held = Held { subject: grant.subject, right };
                self.0.entry(held).or_default().insert(Origin { feature: used.feature, grant });
            }
        }
    }
}

/// Replaces placeholders in one pass, so that a name that looks like one is left alone.
fn fill(text: &str, texts: &[(&'static str, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.find('{').and_then(|at| rest.split_at_checked(at)) {
        out.push_str(before);
        match texts.iter().find_map(|(name, value)| from.strip_prefix(name).map(|after| (value, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('{');
                rest = from.strip_prefix('{').unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// Everything that one machine is granted.
pub fn machine_grants(machine: &Machine, surroundings: &Surroundings, profile: Profile) -> GrantSet {
    let domain = domain(machine, surroundings);
    let mut set = GrantSet::default();
    for mut used in uses(machine, surroundings) {
        used.texts.push((DOMAIN, domain.name().to_owned()));
        set.add(&used, profile);
    }
    set
}

/// The SELinux type of a machine in the minimal profile.
pub fn domain(machine: &Machine, surroundings: &Surroundings) -> Domain {
    Domain::of(&features(machine, surroundings))
}

/// What a type of the minimal profile is granted. Names that differ from base policy to base policy are placeholders:
/// `{runtime}`, the domain of the container runtime, and `{agent}`, the domain of the node agent.
pub fn domain_grants(domain: &Domain) -> GrantSet {
    let mut set = GrantSet::default();
    for feature in domain.features() {
        let texts = vec![(DOMAIN, domain.name().to_owned())];
        set.add(&Use { feature: *feature, texts }, Profile::Minimal);
    }
    set.0.retain(|held, _| held.right.surface() == Surface::Selinux);
    set
}

/// What one feature grants, with the placeholders left in.
pub fn feature_grants(feature: Feature, profile: Profile) -> GrantSet {
    let mut set = GrantSet::default();
    set.add(&Use { feature, texts: Vec::new() }, profile);
    set
}

/// What the system itself is granted: controllers, node agent and people, and every machine's part of the SELinux
/// module, of the SCC and of the filter of system calls, which exist once for all machines.
pub fn cluster_grants(profile: Profile) -> GrantSet {
    let mut set = GrantSet::default();
    for feature in Feature::ALL {
        let mut granted = feature_grants(feature, profile);
        granted.0.retain(|held, _| match held.right.surface() {
            // In the minimal profile the module holds the types of all machines.
            Surface::Selinux => profile == Profile::Documented,
            Surface::Scc | Surface::MachineScc | Surface::Rbac | Surface::Seccomp | Surface::Filter => true,
            _ => matches!(feature, Feature::ControlPlane | Feature::UserRoles),
        });
        set = set.plus(granted);
    }
    if profile == Profile::Minimal {
        set = Domain::all().iter().map(domain_grants).fold(set, GrantSet::plus);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_once() {
        let texts = [("{a}", "{b}".to_owned()), ("{b}", "no".to_owned())];
        assert_eq!(fill("x/{a}/{c}{", &texts), "x/{b}/{c}{");
    }
}
