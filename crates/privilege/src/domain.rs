//! SELinux types of the minimal profile: one for each combination of features that changes what a type needs.
//!
//! A type's name says what it may do beyond running a guest: `virt_machine.kvm_tap` has /dev/kvm and open TAP queues.
//! The names are a part of pods and of installed policies, so they do not change with the order of a machine's devices.

use crate::feature::Feature;
use std::{collections::BTreeSet, fmt};

/// The block of CIL that holds the types.
pub const BLOCK: &str = "virt_machine";

/// What names a part of a type: a word, and the features that it covers. A machine has the word when it has one of them.
struct Part {
    word: &'static str,
    features: &'static [Feature],
}

/// How the guest's instructions run. Every machine has exactly one of these.
const PROCESSOR: [Part; 2] = [
    Part { word: "kvm", features: &[Feature::Kvm] },
    Part { word: "emulated", features: &[Feature::Emulation] },
];

/// What may be there, in the order of the name. Each element is a choice of nothing or one of its parts, the later one
/// when both apply.
const CHOICES: [&[Part]; 3] = [
    // An interface is an open queue and the socket of its addresses. Queues that a guest turns on are asked about again.
    &[
        Part { word: "tap", features: &[Feature::Tap, Feature::Dhcp] },
        Part { word: "multiqueue", features: &[Feature::Tap, Feature::Dhcp, Feature::MultiQueue] },
    ],
    &[Part { word: "hugepages", features: &[Feature::HugePages] }],
    &[
        Part { word: "blockread", features: &[Feature::ClaimBlockRead] },
        Part { word: "block", features: &[Feature::ClaimBlockRead, Feature::ClaimBlockWrite] },
    ],
];

impl Part {
    fn applies(&self, features: &BTreeSet<Feature>) -> bool {
        self.features.iter().any(|feature| features.contains(feature))
    }
}

/// A type of the minimal profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain {
    name: String,
    features: BTreeSet<Feature>,
}

impl Domain {
    /// The type of a machine with these features. Features that change nothing for SELinux may be among them; a machine
    /// without KVM is emulated.
    pub fn of(features: &BTreeSet<Feature>) -> Self {
        let [kvm, emulated] = &PROCESSOR;
        let mut parts = vec![if kvm.applies(features) { kvm } else { emulated }];
        for choice in CHOICES {
            // A part is chosen by what it has beyond the parts before it.
            let mut covered: &[Feature] = &[];
            let mut chosen = None;
            for part in choice {
                let own = part
                    .features
                    .iter()
                    .any(|feature| features.contains(feature) && !covered.contains(feature));
                if own {
                    chosen = Some(part);
                }
                covered = part.features;
            }
            parts.extend(chosen);
        }
        Self::new(&parts)
    }

    /// Every type that is declared, sorted by name.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Vec<&'static Part>> = PROCESSOR.iter().map(|part| vec![part]).collect();
        for choice in CHOICES {
            let more: Vec<Vec<&Part>> = all
                .iter()
                .flat_map(|parts| choice.iter().map(|part| parts.iter().copied().chain([part]).collect()))
                .collect();
            all.extend(more);
        }
        let mut all: Vec<Self> = all.iter().map(|parts| Self::new(parts)).collect();
        all.sort();
        all
    }

    fn new(parts: &[&Part]) -> Self {
        let words: Vec<&str> = parts.iter().map(|part| part.word).collect();
        let features = parts.iter().flat_map(|part| part.features).copied();
        Self {
            name: format!("{BLOCK}.{}", words.join("_")),
            features: features.chain([Feature::BaseMachine]).collect(),
        }
    }

    /// The name with its block, as it stands in contexts and in `seLinuxOptions.type`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The features whose SELinux grants the type has. Others grant nothing of SELinux in the minimal profile.
    pub fn features(&self) -> &BTreeSet<Feature> {
        &self.features
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(features: &[Feature]) -> String {
        Domain::of(&features.iter().copied().collect()).name().to_owned()
    }

    #[test]
    fn names_say_what_a_type_may_do() {
        use Feature::{
            BaseMachine, ClaimBlockRead, ClaimBlockWrite, Dhcp, Emulation, HugePages, Kvm, MultiQueue, Tap,
        };
        assert_eq!(name(&[BaseMachine, Kvm]), "virt_machine.kvm");
        assert_eq!(name(&[BaseMachine, Emulation]), "virt_machine.emulated");
        assert_eq!(name(&[HugePages, Dhcp, Tap, Kvm]), "virt_machine.kvm_tap_hugepages");
        assert_eq!(name(&[MultiQueue, Dhcp, Tap, Emulation]), "virt_machine.emulated_multiqueue");
        assert_eq!(name(&[Kvm, ClaimBlockRead]), "virt_machine.kvm_blockread");
        assert_eq!(name(&[Kvm, ClaimBlockWrite]), "virt_machine.kvm_block");
        assert_eq!(name(&[Kvm, ClaimBlockRead, ClaimBlockWrite]), "virt_machine.kvm_block");
    }

    #[test]
    fn every_type_is_declared_once_and_is_its_own_features_type() {
        let all = Domain::all();
        let names: BTreeSet<_> = all.iter().map(Domain::name).collect();
        assert_eq!((all.len(), names.len()), (36, 36));
        for domain in &all {
            assert_eq!(&Domain::of(domain.features()), domain);
        }
    }
}
