//! Differences of policies and types.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::{data, database};
use ferrovirt_selinux::{
    Database, Policy,
    diff::{Side, Sign, between_policies, between_types},
    policy::Rule,
};
use proptest::prelude::*;

#[test]
fn the_launcher_is_container_t_and_four_rules() {
    let expected: serde_json::Value = serde_json::from_slice(&data("pair.expected.json")).unwrap();
    let database = database("refpolicy-virt_launcher.33.gz");
    let from = database.find_type("container_t").unwrap();
    let to = database.find_type("virt_launcher.process").unwrap();
    let difference = between_types(&database, from, to);
    assert!(difference.rest.is_empty(), "{}", difference.rest);
    let found: Vec<_> = difference
        .accesses
        .iter()
        .map(|one| {
            assert_eq!((one.sign, one.side, &one.condition), (Sign::Added, Side::Source, &None), "{one:?}");
            (one.other.clone(), one.class.clone(), one.what.clone())
        })
        .collect();
    let mut rules: Vec<(String, String, Vec<String>)> =
        serde_json::from_value(expected["virt_launcher.process_minus_container_t"].clone()).unwrap();
    rules.sort_unstable();
    assert_eq!(found, rules);
    let back = between_types(&database, to, from);
    assert!(back.accesses.iter().all(|one| one.sign == Sign::Removed));
    assert_eq!(back.accesses.len(), 4);
    assert_eq!(difference.grouped("container_t", "virt_launcher.process").to_string().lines().count(), 5);
    assert!(between_types(&database, from, from).is_empty());
}

#[test]
fn two_policies_differ_by_the_launcher_only() {
    let (first, second) = (database("refpolicy-base.33.gz"), database("refpolicy-virt_launcher.33.gz"));
    let difference = between_policies(&first, &second);
    let text = difference.to_string();
    assert_eq!(difference.groups.len(), 1, "{text}");
    assert_eq!(difference.groups[0].cause, "type virt_launcher.process, only in the second");
    assert_eq!(difference.groups[0].lines.len(), 5, "{text}");
    assert!(text.contains("+ as container_t in all respects but:"), "{text}");
    let back = between_policies(&second, &first);
    assert_eq!(back.groups.len(), 1, "{back}");
    assert!(back.groups[0].lines.iter().all(|line| line.sign == Sign::Removed), "{back}");
    assert!(between_policies(&second, &second).is_empty());
}

#[test]
fn order_and_version_do_not_count() {
    let first = database("tiny.33");
    for name in ["tiny.31", "tiny.32"] {
        let difference = between_policies(&first, &database(name));
        assert!(difference.is_empty(), "{name}: {difference}");
    }
    let mut policy = Policy::parse(&data("tiny.33")).unwrap();
    let unconditional = policy.unconditional;
    policy.rules[..unconditional].reverse();
    policy.types.entries.reverse();
    policy.classes.entries.reverse();
    policy.range_transitions.reverse();
    let difference = between_policies(&first, &Database::new(policy).unwrap());
    assert!(difference.is_empty(), "{difference}");
}

/// What names a type that only one side has is reported under that type, be it like another one or not.
#[test]
fn transitions_of_a_new_type_are_reported_under_it() {
    for (policy, name, lines) in [
        (
            "tiny.33",
            "vm_t",
            &[
                "range_transition self container_file_t:file s0:c3; (range transitions)",
                "more than container_t: allow vm_t2 sysfs_t:file { open write }; (if vm_sysfs)",
                "more than container_t: dontaudit vm_t2 sysfs_t:file { open write }; (unless vm_sysfs)",
                "more than container_t: allowxperm vm_t2 tun_dev_t:chr_file ioctl { 0x54ca 0x54d9 };",
            ][..],
        ),
        ("plain.33", "data_t", &["role_transition staff_r data_t2:process system_r;", "type data_t2"][..]),
    ] {
        let first = database(policy);
        let mut policy = Policy::parse(&data(policy)).unwrap();
        policy.types.entries.iter_mut().find(|one| &*one.name == name).unwrap().name =
            format!("{name}2").into();
        let difference = between_policies(&first, &Database::new(policy).unwrap());
        let causes: Vec<&str> = difference.groups.iter().map(|group| &*group.cause).collect();
        assert!(
            !causes.contains(&"transitions by name") && !causes.contains(&"range transitions"),
            "{causes:?}"
        );
        let group =
            difference.groups.iter().find(|group| group.cause.starts_with(&format!("type {name}2"))).unwrap();
        for line in lines {
            assert!(group.lines.iter().any(|one| one.text.contains(line)), "{line}\n{difference}");
        }
    }
}

/// A rule from an attribute to itself is about all pairs of its types, which `self` would not say.
#[test]
fn an_attribute_is_not_self() {
    let first = database("plain.33");
    let mut policy = Policy::parse(&data("plain.33")).unwrap();
    let domain = first.find_type("domain").unwrap();
    let both =
        |rule: &ferrovirt_selinux::policy::Rule| [rule.source, rule.target].map(u32::from) == [domain; 2];
    let number = policy.rules.iter().position(both).unwrap();
    policy.rules[number].class = first.find_class("file").unwrap() as u16;
    let difference = between_policies(&first, &Database::new(policy).unwrap());
    let lines: Vec<_> =
        difference.groups.iter().flat_map(|group| &group.lines).map(|line| &*line.text).collect();
    assert_eq!(
        lines,
        ["allow domain domain:file read;", "allow domain domain:process fork;"],
        "{difference}"
    );
}

/// Each change of a single part is seen.
#[test]
fn each_change_is_found() {
    type Change = fn(&mut Policy);
    let changes: [(&str, Change); 12] = [
        ("rules", |policy| policy.rules[0].data ^= 1),
        ("rules", |policy| {
            policy.rules.remove(1);
            policy.unconditional -= 1;
            for one in &mut policy.conditionals {
                one.yes = one.yes.start - 1..one.yes.end - 1;
                one.no = one.no.start - 1..one.no.end - 1;
            }
        }),
        ("rules if", |policy| {
            let number = policy.conditionals.iter().find(|one| !one.yes.is_empty()).unwrap().yes.start;
            policy.rules[number].class ^= 1;
        }),
        ("booleans", |policy| policy.booleans.entries[0].state ^= true),
        ("properties", |policy| policy.config ^= 4),
        ("roles", |policy| {
            policy.role_allows.clear();
        }),
        ("range transitions", |policy| {
            policy.range_transitions.pop();
        }),
        ("transitions by name", |policy| {
            policy.named_transitions.pop();
        }),
        ("contexts of objects without labels", |policy| policy.ocontexts.ports[0].low += 1),
        ("constraints", |policy| {
            policy
                .classes
                .entries
                .iter_mut()
                .find(|one| !one.constraints.is_empty())
                .unwrap()
                .constraints
                .pop();
        }),
        ("classes and permissions", |policy| policy.classes.entries[2].default_range ^= 1),
        ("members of", |policy| {
            let map = policy.attribute_maps.iter().position(|map| map.len() > 2).unwrap();
            policy.attribute_maps[map] = ferrovirt_selinux::policy::Bitmap::default();
        }),
    ];
    let first = database("tiny.33");
    for (cause, change) in changes {
        let mut policy = Policy::parse(&data("tiny.33")).unwrap();
        change(&mut policy);
        let second = Database::new(policy).unwrap();
        for difference in [between_policies(&first, &second), between_policies(&second, &first)] {
            assert!(
                difference.groups.iter().any(|group| group.cause.starts_with(cause)),
                "{cause}: {difference}"
            );
        }
    }
}

/// The rules outside of conditionals and those of each branch.
fn lists(policy: &Policy) -> Vec<Vec<Rule>> {
    let ranges = policy.conditionals.iter().flat_map(|one| [one.yes.clone(), one.no.clone()]);
    std::iter::once(0..policy.unconditional).chain(ranges).map(|range| policy.rules[range].to_vec()).collect()
}

/// The policy with other lists.
fn with(policy: &Policy, lists: Vec<Vec<Rule>>) -> Database {
    let mut policy = policy.clone();
    policy.unconditional = lists[0].len();
    policy.rules.clear();
    let mut ranges = Vec::new();
    for list in lists {
        let start = policy.rules.len();
        policy.rules.extend(list);
        ranges.push(start..policy.rules.len());
    }
    for (one, branches) in policy.conditionals.iter_mut().zip(ranges[1..].chunks_exact(2)) {
        (one.yes, one.no) = (branches[0].clone(), branches[1].clone());
    }
    Database::new(policy).unwrap()
}

proptest! {
    /// What is found does not depend on where rules stand: also not where rules are missing, doubled or changed.
    #[test]
    fn the_order_of_rules_does_not_count(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3_u8, 0..8_u32), 0..12),
        turns in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
    ) {
        let first = database("tiny.33");
        let policy = first.policy().clone();
        let mut changed = lists(&policy);
        for (list, rule, change, bit) in changes {
            let at = list.index(changed.len());
            let list = &mut changed[at];
            if list.is_empty() {
                continue;
            }
            let at = rule.index(list.len());
            match change {
                0 => drop(list.remove(at)),
                1 if list[at].kind.is_access() => list[at].data ^= 1 << bit,
                _ => list.push(list[at]),
            }
        }
        let mut turned = changed.clone();
        for (turn, list) in turns.iter().zip((0..changed.len()).cycle()) {
            let list = &mut turned[list];
            if !list.is_empty() {
                let at = turn.index(list.len());
                list.rotate_left(at);
                list[..at].reverse();
            }
        }
        let (second, third) = (with(&policy, changed), with(&policy, turned));
        prop_assert_eq!(between_policies(&first, &second), between_policies(&first, &third));
        prop_assert_eq!(between_policies(&second, &first), between_policies(&third, &first));
        prop_assert!(between_policies(&second, &third).is_empty());
    }
}

/// The same in a policy that is large enough for the sides to be given up as sorted differently.
#[test]
fn the_order_of_many_rules_does_not_count() {
    let (first, second) = (database("refpolicy-base.33.gz"), database("refpolicy-virt_launcher.33.gz"));
    let policy = second.policy().clone();
    let mut turned = lists(&policy);
    turned.iter_mut().for_each(|list| list.reverse());
    let third = with(&policy, turned);
    assert_eq!(between_policies(&first, &second), between_policies(&first, &third));
    assert!(between_policies(&third, &second).is_empty());
}
