//! What must be true of the whole table.

mod common;

use common::{PROFILES, disk, machine, table};
use ferrovirt_model::{Bytes, PageSize, Profile, machine::Source};
use ferrovirt_privilege::{
    Domain, Feature, Grant, GrantSet, Label, Right, Scenario, Subject, Surface, Surroundings, cluster_grants,
    domain, domain_grants, feature_grants, features, grants, machine_grants, scenario, task,
};
use std::collections::{BTreeMap, BTreeSet};

/// Proof 3 needs a scenario for each grant; a scenario tells grants apart.
#[test]
fn a_witness_belongs_to_one_grant() {
    let mut seen: BTreeMap<&str, &Grant> = BTreeMap::new();
    for (feature, grant) in table() {
        let witness = grant.witness.as_str();
        let plain =
            witness.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-');
        assert!(plain, "{feature}: `{witness}` is no identifier");
        let first = seen.entry(witness).or_insert(grant);
        assert_eq!(*first, grant, "{feature}: witness `{witness}` is used twice");
    }
}

/// A later split of the node agent moves borders of processes only: each of its rights on the node is for one task.
#[test]
fn every_right_of_the_agent_on_its_node_is_for_a_task() {
    for (feature, grant) in table() {
        let agent = matches!(grant.subject, Subject::Node | Subject::NodeAgent);
        let node = grant.rights.iter().any(|right| right.surface() == Surface::Node);
        assert_eq!(task(grant).is_some(), agent && node, "{feature}: {}", grant.witness.as_str());
    }
}

/// Proof 3: each grant is run by a suite, or the table says why none can.
#[test]
fn every_witness_has_a_scenario() {
    let mut names = BTreeSet::new();
    for (feature, grant) in table() {
        let witness = grant.witness.as_str();
        assert!(
            scenario::scenario(grant).is_some(),
            "{feature}: nobody runs the witness `{witness}`: write its scenario and register it in scenario.rs"
        );
        names.insert(witness);
    }
    let mut seen = BTreeSet::new();
    for (name, scenario) in scenario::SCENARIOS {
        assert!(names.contains(name), "`{name}` is registered and no grant names it");
        assert!(seen.insert(name), "`{name}` is registered twice");
        if let Scenario::DocumentedOnly(_) = scenario {
            let minimal = Feature::ALL.into_iter().flat_map(|f| grants(f, Profile::Minimal));
            assert!(
                !minimal.into_iter().any(|grant| grant.witness.as_str() == *name),
                "`{name}` is in minimal"
            );
        }
    }
}

#[test]
fn reasons_and_hooks_are_sentences_for_a_reviewer() {
    for (feature, grant) in table() {
        for text in [grant.reason.as_str(), grant.hook.as_str()] {
            assert!(text.split_whitespace().count() >= 3, "{feature}: `{text}`");
            assert!(!text.contains("  "), "{feature}: `{text}`");
        }
        let known = ["kernel: ", "security hook", "admission: ", "authorizer: "];
        assert!(
            known.iter().any(|start| grant.hook.as_str().starts_with(start)),
            "{feature}: {}",
            grant.hook
        );
    }
}

#[test]
fn the_documented_values_are_in_the_table() {
    let grants = cluster_grants(Profile::Documented);
    let scc = |field: &str, value: &str| Right::Scc { field: field.into(), value: value.into() };
    let values = grants.on(Surface::Scc);
    let capabilities: BTreeSet<_> = values
        .iter()
        .filter(|right| matches!(right, Right::Scc { field, .. } if field == "allowedCapabilities"))
        .cloned()
        .collect();
    let documented = ["NET_ADMIN", "NET_RAW", "SYS_NICE"].map(|name| scc("allowedCapabilities", name));
    assert_eq!(capabilities, BTreeSet::from(documented));
    assert!(values.contains(&scc("allowHostDirVolumePlugin", "true")));
    assert!(
        !values.iter().any(|right| matches!(right, Right::Scc { field, .. } if field.contains("Privilege")))
    );

    let rule = |target: &str, class: &str, permission: &str| Right::Selinux {
        source: "virt_launcher.process".into(),
        target: target.into(),
        class: class.into(),
        permission: permission.into(),
    };
    let mut rules = BTreeSet::from([rule("sysfs_t", "file", "write")]);
    rules.extend(["relabelfrom", "relabelto", "attach_queue"].map(|p| rule("self", "tun_socket", p)));
    rules.extend(
        ["add_name", "create", "write", "remove_name", "rmdir", "setattr"]
            .map(|p| rule("hugetlbfs_t", "dir", p)),
    );
    rules.extend(["create", "unlink"].map(|p| rule("hugetlbfs_t", "file", p)));
    assert_eq!(grants.on(Surface::Selinux), rules);
}

/// A labelled machine has its type and level, and nothing else, beyond the same machine without a label.
#[test]
fn a_label_adds_the_label_alone() {
    let label = Label { kind: "some.process".into(), level: "s0:c1,c2".into() };
    let labelled = Surroundings { label: Some(label), ..Surroundings::default() };
    for profile in PROFILES {
        let plain = machine_grants(&machine(), &Surroundings::default(), profile);
        let more = machine_grants(&machine(), &labelled, profile).minus(&plain);
        let pod: Vec<String> = more.on(Surface::Pod).iter().map(Right::to_string).collect();
        assert_eq!(pod, ["pod seLinuxOptions.level=s0:c1,c2", "pod seLinuxOptions.type=some.process"]);
        assert_eq!(more.len(), 2 + more.on(Surface::MachineScc).len());
        assert!(plain.within(&machine_grants(&machine(), &labelled, profile)));
    }
}

/// A user namespace is one word of the pod, and takes nothing else.
#[test]
fn a_user_namespace_adds_itself_alone() {
    let own = Surroundings { user_namespace: true, ..Surroundings::default() };
    let plain = machine_grants(&machine(), &Surroundings::default(), Profile::Minimal);
    let more = machine_grants(&machine(), &own, Profile::Minimal).minus(&plain);
    let rights: Vec<String> = more.iter().map(|(held, _)| held.right.to_string()).collect();
    assert_eq!(rights, ["pod hostUsers=false"]);
}

/// The SCC and the roles do not change with the profile.
#[test]
fn what_is_installed_is_the_same_in_both_profiles() {
    let [minimal, documented] = PROFILES.map(cluster_grants);
    for surface in [Surface::Scc, Surface::MachineScc, Surface::Rbac, Surface::Seccomp] {
        assert_eq!(minimal.on(surface), documented.on(surface));
    }
}

#[test]
fn launchers_of_the_minimal_profile_hold_no_capability() {
    for feature in Feature::ALL {
        for subject in [Subject::Qemu, Subject::Launcher] {
            let rights = feature_grants(feature, Profile::Minimal).of(subject);
            let taken = |right: &Right<String>| match right {
                // A label takes rights away, as users of the pod's own do, and a group is that of its own volumes, never root's.
                Right::PodField { field, .. } => {
                    !field.starts_with("seLinuxOptions.")
                        && !["fsGroup", "hostUsers"].contains(&field.as_str())
                }
                right => matches!(right, Right::Capability(_)),
            };
            assert!(!rights.iter().any(taken), "{feature}");
        }
    }
}

#[test]
fn a_read_only_disk_is_granted_no_write() {
    let claim = |claim_read_only, ephemeral| Source::Claim {
        claim: "data".into(),
        read_only: claim_read_only,
        ephemeral,
    };
    let sources = [
        Source::ContainerDisk { image: "a".into(), path: None },
        Source::HostDisk { path: "/srv/a.img".into(), create: None },
        Source::HostDisk { path: "/srv/a.img".into(), create: Some(Bytes::mib(1)) },
        Source::EmptyDisk { capacity: Bytes::mib(1) },
        claim(false, false),
        claim(true, false),
        claim(false, true),
    ];
    for block in [false, true] {
        let mut surroundings = Surroundings::default();
        if block {
            surroundings.block_claims.insert("data".into());
        }
        for source in &sources {
            for profile in PROFILES {
                let mut machine = machine();
                machine.disks = vec![disk("root", source.clone())];
                machine.disks[0].read_only = true;
                let opened = machine_grants(&machine, &surroundings, profile).on(Surface::Order);
                let write = opened.iter().any(|right| right.to_string().contains("write"));
                assert!(!write && !opened.is_empty(), "{source:?}: {opened:?}");
            }
        }
    }
}

#[test]
fn emulation_takes_the_device_away() {
    let emulated = Surroundings { emulation: true, ..Surroundings::default() };
    assert!(features(&machine(), &Surroundings::default()).contains(&Feature::Kvm));
    assert!(!features(&machine(), &emulated).contains(&Feature::Kvm));
    let with = machine_grants(&machine(), &Surroundings::default(), Profile::Minimal);
    let without = machine_grants(&machine(), &emulated, Profile::Minimal);
    let beyond_selinux = |one: &GrantSet, other: &GrantSet| -> Vec<String> {
        let all: Vec<_> = one.minus(other).iter().map(|(held, _)| held.right.clone()).collect();
        let others = all.iter().filter(|right| right.surface() != Surface::Selinux);
        others.map(ToString::to_string).collect()
    };
    assert_eq!(beyond_selinux(&with, &without), ["device /dev/kvm (read, write) by devices.kubevirt.io/kvm"]);
    assert!(beyond_selinux(&without, &with).is_empty());
    assert_eq!(without.clone().plus(with.minus(&without)).minus(&without), with.minus(&without));
}

/// The types are what the table says: a feature that is granted something of SELinux is a part of a type's name, and one
/// that is part of a name is granted something.
#[test]
fn types_have_the_features_that_selinux_asks_about() {
    let granted =
        |feature: &Feature| !feature_grants(*feature, Profile::Minimal).on(Surface::Selinux).is_empty();
    let asked: BTreeSet<Feature> = Feature::ALL.into_iter().filter(granted).collect();
    let named: BTreeSet<Feature> = Domain::all().iter().flat_map(|one| one.features().clone()).collect();
    assert!(asked.is_subset(&named), "{asked:?} {named:?}");
}

/// What a machine is granted is what its type is granted.
#[test]
fn a_machine_has_its_types_rights() {
    for emulation in [false, true] {
        for huge_pages in [None, PageSize::new(2 << 20)] {
            let mut machine = machine();
            machine.memory.huge_pages = huge_pages;
            let surroundings = Surroundings { emulation, ..Surroundings::default() };
            let rights = machine_grants(&machine, &surroundings, Profile::Minimal).on(Surface::Selinux);
            let domain = domain(&machine, &surroundings);
            assert!(Domain::all().contains(&domain));
            assert_eq!(rights, domain_grants(&domain).on(Surface::Selinux));
            assert!(cluster_grants(Profile::Minimal).on(Surface::Selinux).is_superset(&rights));
        }
    }
}
