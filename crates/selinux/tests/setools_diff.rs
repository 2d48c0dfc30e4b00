//! Differences of two policies against setools: both find differences in the same parts.
//!
//! The policies are a small one and copies with one change each, written by us and read by setools, and the pair of full
//! policies. Rules are compared by whether they differ: setools expands attributes before it compares, we do not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
#[path = "common/setools.rs"]
mod process;

use common::data;
use ferrovirt_selinux::{
    Database, Policy,
    diff::{Difference, Sign, between_policies},
    policy::{Bitmap, RuleKind},
};
use process::Setools;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Parts by setools' names, and the start of our cause.
const PARTS: [(&str, &str); 33] = [
    ("types", "type"),
    ("type_attributes", "members of"),
    ("typebounds", "types"),
    ("classes", "classes and permissions"),
    ("commons", "classes and permissions"),
    ("defaults", "classes and permissions"),
    ("allows", "rules"),
    ("auditallows", "rules"),
    ("dontaudits", "rules"),
    ("allowxperms", "rules"),
    ("auditallowxperms", "rules"),
    ("dontauditxperms", "rules"),
    ("type_transitions", "rules"),
    ("type_members", "rules"),
    ("type_changes", "rules"),
    ("roles", "roles"),
    ("role_allows", "roles"),
    ("role_transitions", "roles"),
    ("users", "users"),
    ("booleans", "booleans"),
    ("levels", "levels"),
    ("sensitivities", "levels"),
    ("categories", "levels"),
    ("range_transitions", "range transitions"),
    ("constrains", "constraints"),
    ("mlsconstrains", "constraints"),
    ("validatetrans", "constraints"),
    ("mlsvalidatetrans", "constraints"),
    ("initialsids", "contexts of objects without labels"),
    ("fs_uses", "contexts of objects without labels"),
    ("genfscons", "contexts of objects without labels"),
    ("portcons", "contexts of objects without labels"),
    ("nodecons", "contexts of objects without labels"),
];

fn ours(difference: &Difference) -> BTreeSet<&str> {
    let part = |cause: &str| match cause {
        // setools takes transitions with a name for rules.
        "transitions by name" => "rules",
        _ => PARTS
            .iter()
            .map(|(_, part)| *part)
            .filter(|part| cause.starts_with(part))
            .max_by_key(|part| part.len())
            .unwrap_or("others"),
    };
    difference.groups.iter().map(|group| part(&group.cause)).collect()
}

fn theirs(answer: &Value) -> BTreeSet<&'static str> {
    let differs = |name: &str| {
        let sides = answer[name].as_array().unwrap();
        sides.iter().any(|side| !side.as_array().unwrap().is_empty())
    };
    PARTS.iter().filter(|(name, _)| differs(name)).map(|(_, part)| *part).collect()
}

fn ask(first: &[u8], second: &[u8], parts: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    std::fs::write(&one, first).unwrap();
    std::fs::write(&two, second).unwrap();
    let mut setools = Setools::start(&[&one, &two]).unwrap();
    setools.ask(&json!({ "ask": "difference", "names": parts }))
}

type Change = fn(&mut Policy);

const CHANGES: [(&str, Change); 16] = [
    ("nothing", |_| {}),
    ("a rule has another permission", |policy| {
        let rule = policy.rules.iter_mut().find(|rule| rule.kind == RuleKind::Allow).unwrap();
        rule.data ^= 1;
    }),
    ("a rule is gone", |policy| {
        let number = policy.rules.iter().position(|rule| rule.kind == RuleKind::TypeTransition).unwrap();
        policy.rules.remove(number);
        policy.unconditional -= 1;
        for one in &mut policy.conditionals {
            one.yes = one.yes.start - 1..one.yes.end - 1;
            one.no = one.no.start - 1..one.no.end - 1;
        }
    }),
    ("an extended rule has another number", |policy| policy.xperms[0].bits[0] ^= 2),
    ("a conditional rule has another permission", |policy| {
        let start = policy.conditionals.iter().find(|one| !one.yes.is_empty()).unwrap().yes.start;
        policy.rules[start].data ^= 1;
    }),
    ("a boolean is on", |policy| policy.booleans.entries[0].state ^= true),
    ("unknown permissions", |policy| policy.config ^= 4),
    ("a role may no longer become another", |policy| {
        policy.role_allows.pop();
    }),
    ("a role transition is gone", |policy| {
        policy.role_transitions.pop();
    }),
    ("a range transition is gone", |policy| {
        policy.range_transitions.pop();
    }),
    ("a transition by name is gone", |policy| {
        policy.named_transitions.pop();
    }),
    ("a port", |policy| policy.ocontexts.ports[0].low += 1),
    ("a constraint is gone", |policy| {
        let mut classes = policy.classes.entries.iter_mut();
        classes.find(|one| !one.constraints.is_empty()).unwrap().constraints.pop();
    }),
    ("a default of a class", |policy| {
        let mut classes = policy.classes.entries.iter_mut();
        let class = classes.find(|one| one.default_range != 0).unwrap();
        class.default_range = if class.default_range == 1 { 2 } else { 1 };
    }),
    ("a boolean has another name", |policy| policy.booleans.entries[0].name = "another".into()),
    ("a type is permissive", |policy| {
        let value = policy.types.entries.iter().find(|one| &*one.name == "container_t").unwrap().value;
        policy.permissive =
            Bitmap::of(policy.permissive.iter().filter(|other| *other != value).chain([value]));
    }),
];

#[test]
fn changes_are_found_in_the_same_parts() {
    let first = data("tiny.33");
    let parts: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    for (what, change) in CHANGES {
        let mut policy = Policy::parse(&first).unwrap();
        change(&mut policy);
        let second = policy.serialize();
        let difference =
            between_policies(&Database::open(&first).unwrap(), &Database::open(&second).unwrap());
        let answer = ask(&first, &second, &parts);
        let mut wanted = theirs(&answer);
        if what == "unknown permissions" {
            // setools has no names for what was added or removed here.
            assert_eq!(ours(&difference), BTreeSet::from(["others"]), "{difference}");
            continue;
        }
        if what == "a type is permissive" {
            assert_eq!(wanted, BTreeSet::from(["type"]), "{answer}");
            wanted = BTreeSet::from(["others"]);
            assert!(difference.to_string().contains("permissive container_t"), "{difference}");
        }
        assert_eq!(ours(&difference), wanted, "{what}: {difference}\n{answer}");
        assert_eq!(difference.is_empty(), what == "nothing", "{what}");
        for (part, cause, keyword) in [
            ("range_transitions", "range transitions", "range_transition "),
            ("role_allows", "roles", "allow "),
            ("role_transitions", "roles", "role_transition "),
        ] {
            let lines = |sign: Sign| -> BTreeSet<&str> {
                let groups = difference.groups.iter().filter(|group| group.cause == cause);
                let lines = groups.flat_map(|group| &group.lines);
                let wanted = lines.filter(|line| line.sign == sign && line.text.starts_with(keyword));
                wanted.map(|line| line.text.as_str()).collect()
            };
            for (place, sign) in [Sign::Removed, Sign::Added].into_iter().enumerate() {
                let theirs = answer[part][place].as_array().unwrap();
                let theirs: BTreeSet<&str> = theirs.iter().map(|line| line.as_str().unwrap()).collect();
                assert_eq!(lines(sign), theirs, "{what}: {part}");
            }
        }
        println!("{what}: {wanted:?} on both sides");
    }
}

/// What is known about the pair of full policies, as setools says it.
#[test]
fn the_launchers_type_is_found_by_both() {
    let (first, second) = (data("refpolicy-base.33.gz"), data("refpolicy-virt_launcher.33.gz"));
    let parts = [
        "types",
        "type_attributes",
        "classes",
        "commons",
        "booleans",
        "roles",
        "role_allows",
        "users",
        "range_transitions",
        "role_transitions",
        "levels",
        "initialsids",
        "portcons",
    ];
    let answer = ask(&first, &second, &parts);
    let (left, right) = (Database::open(&first).unwrap(), Database::open(&second).unwrap());
    let difference = between_policies(&left, &right);
    assert_eq!(difference.groups.len(), 1, "{difference}");
    assert_eq!(difference.groups[0].cause, "type virt_launcher.process, only in the second");
    assert!(difference.groups[0].lines.iter().all(|line| line.sign == Sign::Added), "{difference}");
    let launcher = right.find_type("virt_launcher.process").unwrap();
    let gaining = |key: &str| -> BTreeSet<String> {
        let modified = answer[key][2].as_array().unwrap();
        modified
            .iter()
            .map(|one| {
                assert_eq!(one[1], json!([]), "{key}");
                assert_eq!(one[2], json!(["virt_launcher.process"]), "{key}");
                one[0].as_str().unwrap().to_owned()
            })
            .collect()
    };
    assert_eq!(answer["types"], json!([[], ["virt_launcher.process"], []]));
    let attributes = right.attributes_of(launcher).map(|value| right.type_name(value).to_owned());
    assert_eq!(gaining("type_attributes"), attributes.collect());
    let roles = right.policy().roles.entries.iter().filter(|role| role.types.contains(launcher - 1));
    assert_eq!(gaining("roles"), roles.map(|role| role.name.to_string()).collect());
    for key in parts.iter().filter(|key| !["types", "type_attributes", "roles"].contains(key)) {
        assert_eq!(answer[key], json!([[], [], []]), "{key}");
    }
}
