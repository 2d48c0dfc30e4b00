//! The types of SELinux, tried over every combination of features.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use ferrovirt_model::Profile;
use ferrovirt_privilege::{
    DOMAIN_BLOCK, Domain, Feature, Right, Surface, cluster_grants, domain_grants, feature_grants,
};

/// What SELinux is asked about, and two features that it is not asked about.
const FEATURES: [Feature; 8] = [
    Feature::Tap,
    Feature::Dhcp,
    Feature::MultiQueue,
    Feature::HugePages,
    Feature::ClaimBlockRead,
    Feature::ClaimBlockWrite,
    Feature::HostDiskWrite,
    Feature::SelinuxLabel,
];

/// Every set of features that a machine could have.
fn combinations() -> impl Iterator<Item = BTreeSet<Feature>> {
    [Feature::Kvm, Feature::Emulation].into_iter().flat_map(|processor| {
        (0_u32..1 << FEATURES.len()).map(move |bits| {
            let picked = FEATURES.iter().enumerate().filter(|(place, _)| bits & (1 << place) != 0);
            let picked = picked.map(|(_, feature)| *feature);
            picked.chain([processor, Feature::BaseMachine]).collect()
        })
    })
}

/// What SELinux grants a feature in the minimal profile.
fn asked(feature: Feature) -> bool {
    !feature_grants(feature, Profile::Minimal).on(Surface::Selinux).is_empty()
}

/// Texts of the rules of a type, with the type's own name taken out.
fn rules(domain: &Domain) -> BTreeSet<String> {
    let rights = domain_grants(domain).on(Surface::Selinux);
    rights.iter().map(|right| right.to_string().replace(domain.name(), "TYPE")).collect()
}

/// A machine's type is declared, has what each of its features needs, and no declared type that has it too has less.
#[test]
fn a_machine_has_the_smallest_type_that_covers_it() {
    let all = Domain::all();
    let asked: BTreeSet<_> = Feature::ALL.into_iter().filter(|feature| asked(*feature)).collect();
    for features in combinations() {
        let domain = Domain::of(&features);
        let needed = &features & &asked;
        assert!(all.contains(&domain), "{domain} is not declared: {features:?}");
        assert!(needed.is_subset(domain.features()), "{domain}: {needed:?}");
        for other in all.iter().filter(|other| needed.is_subset(other.features())) {
            let smaller = other.features().is_subset(domain.features()) && *other != domain;
            assert!(!smaller, "{features:?} get {domain}, and {other} is enough");
        }
    }
}

/// A device more means the same type or a larger one.
#[test]
fn types_grow_with_features() {
    let rules: BTreeMap<Domain, BTreeSet<String>> =
        Domain::all().into_iter().map(|domain| (domain.clone(), rules(&domain))).collect();
    for features in combinations() {
        let domain = Domain::of(&features);
        for more in FEATURES {
            let mut grown = features.clone();
            grown.insert(more);
            let larger = Domain::of(&grown);
            assert!(domain.features().is_subset(larger.features()), "{domain} and {more}: {larger}");
            assert!(rules[&domain].is_subset(&rules[&larger]), "{domain} and {more}: {larger}");
        }
    }
}

/// Two types differ in their rules: a type that is no other than its neighbour would be a name without a meaning.
#[test]
fn each_type_has_rules_of_its_own() {
    let all = Domain::all();
    let different: BTreeSet<_> = all.iter().map(rules).collect();
    assert_eq!(different.len(), all.len());
    let installed = cluster_grants(Profile::Minimal).on(Surface::Selinux);
    let own: BTreeSet<_> = all.iter().flat_map(|domain| domain_grants(domain).on(Surface::Selinux)).collect();
    assert_eq!(installed, own, "the module has rules of no type");
}

/// A name is one that CIL, contexts and `seLinuxOptions.type` take, in our block, and says which processor runs the guest.
#[test]
fn names_are_names() {
    for domain in Domain::all() {
        let local = domain.name().strip_prefix(DOMAIN_BLOCK).and_then(|rest| rest.strip_prefix('.'));
        let local = local.unwrap_or_else(|| panic!("{domain} is not in the block"));
        assert!(local.chars().all(|char| char.is_ascii_lowercase() || char == '_'), "{domain}");
        let kvm = domain.features().contains(&Feature::Kvm);
        let emulated = domain.features().contains(&Feature::Emulation);
        assert_eq!((local.starts_with("kvm"), local.starts_with("emulated")), (kvm, emulated), "{domain}");
        assert_eq!(domain.to_string(), domain.name());
    }
}

/// Every rule of a type is about the type: it acts, or something is done to its processes. A row with the name of another domain
/// would give rights to a stranger.
#[test]
fn rules_are_about_the_type() {
    for domain in Domain::all() {
        let (name, rights) = (domain.name(), domain_grants(&domain));
        assert!(!rights.is_empty());
        for (held, _) in rights.iter() {
            match &held.right {
                Right::Selinux { source, target, class, .. } if source != name => {
                    assert_eq!(target, name, "{}", held.right);
                    assert!(class.starts_with("process"), "{}", held.right);
                    assert!(["{runtime}", "{agent}"].contains(&source.as_str()), "{}", held.right);
                }
                Right::Selinux { target, .. } => assert_ne!(target, name, "`self` says it: {}", held.right),
                Right::SelinuxAttribute { domain, .. } | Right::SelinuxRole { domain, .. } => {
                    assert_eq!(domain, name, "{}", held.right);
                }
                other => panic!("{other} is no matter of SELinux"),
            }
        }
    }
}

/// What no machine of the minimal profile may do, whatever it has: the ways out of a container that policies are written against.
#[test]
fn no_type_has_a_way_out() {
    for domain in Domain::all() {
        let emulated = domain.features().contains(&Feature::Emulation);
        let block = domain.features().contains(&Feature::ClaimBlockRead);
        for right in domain_grants(&domain).on(Surface::Selinux) {
            let Right::Selinux { source, target, class, permission } = &right else { continue };
            let own = source == domain.name();
            // Capabilities, namespaces, the policy itself, keys and BPF.
            for wide in
                ["capability", "cap_", "security", "system", "bpf", "key", "netlink", "packet", "rawip"]
            {
                assert!(!class.starts_with(wide), "{domain}: {right}");
            }
            // No domain but its own to send signals to or to look into, and none to change to.
            let powers =
                ["transition", "dyntransition", "ptrace", "setcurrent", "setexec", "share", "setcap"];
            assert!(!(own && powers.contains(&permission.as_str())), "{domain}: {right}");
            assert!(!(own && class == "process" && target != "self"), "{domain}: {right}");
            // New labels, mounts, modules, and memory that is written and executed where KVM runs the guest.
            let no =
                ["relabelfrom", "relabelto", "mounton", "execmod", "execstack", "execheap", "module_load"];
            assert!(!no.contains(&permission.as_str()), "{domain}: {right}");
            assert!(permission != "execmem" || emulated, "{domain}: {right}");
            assert!(class != "blk_file" || block, "{domain}: {right}");
            // A device that is passed is not opened again, and no new socket reaches another process.
            assert!(target != "tun_tap_device_t" || permission != "open", "{domain}: {right}");
            assert!(permission != "connectto", "{domain}: {right}");
            assert!(permission != "entrypoint" || target == "container_file_t", "{domain}: {right}");
        }
        assert!(
            domain_grants(&domain)
                .on(Surface::Selinux)
                .iter()
                .any(|right| matches!(right, Right::SelinuxAttribute { attribute, .. } if attribute == "mcs_constrained_type")),
            "{domain} is not kept apart from other machines"
        );
    }
}
