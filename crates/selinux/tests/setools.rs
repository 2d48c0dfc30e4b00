//! Every kind of question against setools itself: its answers and ours are the same sets of lines.
//!
//! The questions are generated from a fixed seed over the policies' own names.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
#[path = "common/generate.rs"]
mod generate;
#[path = "common/setools.rs"]
mod process;

use common::{TINY, data, database};
use ferrovirt_selinux::{
    Database, decide,
    policy::TypeKind,
    query::{search, search_ranges, search_role_allows, search_role_transitions},
};
use generate::{Numbers, Question, label_question, rule_question};
use process::Setools;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The policy as a file that setools can open, and the process that has it open.
fn start(name: &str) -> (tempfile::TempDir, Result<Setools, String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy");
    std::fs::write(&path, data(name)).unwrap();
    let setools = Setools::start(&[&path]);
    (directory, setools)
}

fn ours(database: &Database, question: &Question) -> BTreeSet<String> {
    let query = &question.query;
    let lines = match question.ask {
        "ranges" => search_ranges(database, query),
        "roles" if question.role_transition => search_role_transitions(database, query),
        "roles" => search_role_allows(database, query),
        _ => search(database, query)
            .map(|found| found.into_iter().map(|one| database.found_text(one)).collect()),
    };
    lines
        .unwrap_or_else(|error| panic!("{query:?}: {error}"))
        .iter()
        .map(|line| categories_one_by_one(line))
        .collect()
}

/// Two categories in a row are `c1,c2` to the kernel and us, `c1.c2` to setools.
fn categories_one_by_one(line: &str) -> String {
    let number = |text: &str| text.strip_prefix('c')?.parse::<u32>().ok();
    let part = |part: &str| -> String {
        let run = part.split_once('.').and_then(|(low, high)| Some((number(low)?, number(high)?)));
        match run {
            Some((low, high)) => (low..=high).map(|one| format!("c{one}")).collect::<Vec<_>>().join(","),
            None => part.to_owned(),
        }
    };
    if !line.starts_with("range_transition") {
        return line.to_owned();
    }
    let word = |word: &str| {
        let (head, end) = word.strip_suffix(';').map_or((word, ""), |head| (head, ";"));
        let parts: Vec<String> =
            head.split(':').map(|list| list.split(',').map(part).collect::<Vec<_>>().join(",")).collect();
        parts.join(":") + end
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn theirs(answer: &Value) -> BTreeSet<String> {
    answer.as_array().unwrap().iter().map(|line| categories_one_by_one(line.as_str().unwrap())).collect()
}

/// Asks both sides; how many questions there were, and how many had an answer that is not empty.
fn compare(name: &str, rules: usize, labels: usize) -> (usize, usize) {
    let database = database(name);
    let (_directory, setools) = start(name);
    let mut setools = match setools {
        Ok(setools) => setools,
        Err(problem) => {
            // setools 4.4 reads policies up to version 33.
            assert!(database.policy().version > 33, "{name}: {problem}");
            println!("{name}: not compared, setools cannot read it: {problem}");
            return (0, 0);
        }
    };
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let questions = (0..rules).map(|_| rule_question(&database, &mut numbers)).collect::<Vec<_>>();
    let questions = questions.into_iter().chain((0..labels).map(|_| label_question(&database, &mut numbers)));
    let (mut count, mut full) = (0, 0);
    for question in questions {
        let theirs = theirs(&setools.ask(&question.json));
        let ours = ours(&database, &question);
        assert!(
            ours == theirs,
            "{name}: {}\nonly ours: {:#?}\nonly theirs: {:#?}",
            question.json,
            ours.difference(&theirs).take(5).collect::<Vec<_>>(),
            theirs.difference(&ours).take(5).collect::<Vec<_>>()
        );
        count += 1;
        full += usize::from(!ours.is_empty());
    }
    let all = setools.ask(&json!({ "ask": "names" }));
    for (key, have) in names(&database) {
        let mut want = all[&key].clone();
        let mut have = have;
        if key == "constraints" {
            want = trees(&want);
            have = trees(&have);
        }
        let (want, have) = (want.as_object().unwrap(), have.as_object().unwrap());
        assert!(want.keys().eq(have.keys()), "{name}: {key}");
        for (entry, want) in want {
            assert_eq!(&have[entry], want, "{name}: {key} {entry}");
            count += 1;
        }
    }
    (count, full)
}

/// What the listings of types, attributes, classes, booleans and roles say.
fn names(database: &Database) -> Map<String, Value> {
    let policy = database.policy();
    let sorted = |mut names: Vec<&str>| -> Value {
        names.sort_unstable();
        json!(names)
    };
    let name = |value: u32| database.type_name(value);
    let map = |all: Vec<(&str, Value)>| -> Value {
        Value::Object(all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let types = database.types().map(|kind| {
        let entries = policy.types.entries.iter();
        let aliases = entries.filter(|one| one.kind() == TypeKind::Alias && one.value == kind);
        let facts = json!({
            "aliases": sorted(aliases.map(|one| &*one.name).collect()),
            "attributes": sorted(database.attributes_of(kind).map(name).collect()),
            "permissive": policy.permissive.contains(kind),
        });
        (name(kind), facts)
    });
    let bounds = database.types().filter_map(|kind| {
        let bounds = database.type_entry(kind)?.bounds;
        (bounds != 0).then(|| (name(kind), json!(name(bounds))))
    });
    let attributes = database.attributes().map(|value| {
        let members = database.members(value).iter().map(|bit| name(bit + 1));
        (name(value), sorted(members.collect()))
    });
    let classes = policy.classes.entries.iter().map(|class| {
        let common = (!class.common.is_empty()).then_some(&*class.common);
        (&*class.name, json!([common, database.permission_names(class.value, u32::MAX)]))
    });
    let constraints = policy.classes.entries.iter().filter_map(|class| {
        let lines = class.constraints.iter().map(|one| decide::text(database, class.value, one, false));
        let changes = class.validatetrans.iter().map(|one| decide::text(database, class.value, one, true));
        let lines: Vec<String> = lines.chain(changes).collect();
        (!lines.is_empty()).then(|| (&*class.name, json!(lines)))
    });
    let booleans = policy.booleans.entries.iter().map(|one| (&*one.name, json!(one.state)));
    let roles = policy.roles.entries.iter().map(|role| {
        let types = role.types.iter().map(|bit| name(bit + 1));
        (&*role.name, sorted(types.collect()))
    });
    let all = [
        ("types", map(types.collect())),
        ("bounds", map(bounds.collect())),
        ("attributes", map(attributes.collect())),
        ("classes", map(classes.collect())),
        ("constraints", map(constraints.collect())),
        ("booleans", map(booleans.collect())),
        ("roles", map(roles.collect())),
    ];
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Constraints by class, each as its head and the tree of its expression: parentheses that change nothing do not count.
fn trees(by_class: &Value) -> Value {
    let tree = |line: &Value| -> String {
        let line = line.as_str().unwrap();
        let (head, expression) = line.split_once('(').unwrap();
        let expression = expression.trim_end_matches([';', ' ']).strip_suffix(')').unwrap();
        let expression = expression.replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = expression.split_whitespace().collect();
        let mut rest = words.as_slice();
        let tree = any(&mut rest);
        assert!(rest.is_empty(), "{line}: {rest:?}");
        format!("{} {tree}", head.trim())
    };
    let classes = by_class.as_object().unwrap().iter().map(|(class, lines)| {
        let mut lines: Vec<String> = lines.as_array().unwrap().iter().map(tree).collect();
        lines.sort_unstable();
        (class.clone(), json!(lines))
    });
    Value::Object(classes.collect())
}

fn joined(word: &str, rest: &mut &[&str], part: fn(&mut &[&str]) -> String) -> String {
    let mut parts = vec![part(rest)];
    while let [next, after @ ..] = rest
        && *next == word
    {
        *rest = after;
        parts.push(part(rest));
    }
    if let [only] = parts.as_slice() {
        return only.clone();
    }
    // `a or (b or c)` is `a or b or c`.
    let start = format!("[{word} ");
    let flat = parts.iter().map(|part| match part.strip_prefix(&start) {
        Some(inner) => inner.strip_suffix(']').unwrap().to_owned(),
        None => part.clone(),
    });
    let flat: Vec<String> = flat.collect();
    format!("{start}{}]", flat.join(", "))
}

fn any(rest: &mut &[&str]) -> String {
    joined("or", rest, every)
}

fn every(rest: &mut &[&str]) -> String {
    joined("and", rest, one)
}

fn one(rest: &mut &[&str]) -> String {
    match *rest {
        ["not", after @ ..] => {
            *rest = after;
            format!("not {}", one(rest))
        }
        ["(", after @ ..] => {
            *rest = after;
            let inner = any(rest);
            assert_eq!(rest.first(), Some(&")"));
            *rest = &rest[1..];
            inner
        }
        [left, operator, "{", ..] => {
            let end = rest.iter().position(|word| *word == "}").unwrap();
            let mut names = rest[3..end].to_vec();
            names.sort_unstable();
            *rest = &rest[end + 1..];
            format!("{left} {operator} {}", names.join(" "))
        }
        [left, operator, right, after @ ..] => {
            *rest = after;
            format!("{left} {operator} {right}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn small_policies() {
    let mut compared = 0;
    for name in TINY {
        let (count, full) = compare(name, 150, 50);
        println!("{name}: {count} answers are equal, {full} of the searches found something");
        assert!(count == 0 || full > 100, "{name}: {full}");
        compared += usize::from(count > 0);
    }
    assert!(compared >= 4, "versions 30 to 33 can be read by every setools");
}

#[test]
fn full_policy() {
    let (count, full) = compare("refpolicy-base.33.gz", 420, 130);
    println!("{count} answers are equal, {full} of the searches found something");
    assert!(count > 5000 && full > 400, "{count} {full}");
}
