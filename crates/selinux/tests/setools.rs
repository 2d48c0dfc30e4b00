//! Search against sesearch: number and hash of the sorted output lines of generated queries, and the texts of all
//! conditions, as setools 4.4.1 printed them for the same policies.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::{database, text};
use ferrovirt_selinux::{
    policy::RuleKind,
    query::{Criterion, Query, search},
};
use std::collections::BTreeSet;

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn list(field: &str) -> Vec<String> {
    field.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn criterion(name: &str, mode: &str) -> Option<Criterion> {
    (!name.is_empty()).then(|| Criterion { name: name.to_owned(), direct: mode == "direct" })
}

fn compare(policy: &str, answers: &str) -> usize {
    let database = database(policy);
    let mut count = 0;
    let mut expected = BTreeSet::new();
    for line in text(answers).lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] == "cond" {
            expected.insert(fields[1].to_owned());
            continue;
        }
        // setools takes an attribute without types for no criterion at all and prints every rule.
        let empty =
            |name: &str| !name.is_empty() && database.members(database.find_type(name).unwrap()).is_empty();
        if [fields[2], fields[4], fields[9]].into_iter().any(empty) {
            continue;
        }
        let kinds = list(fields[1]);
        let query = Query {
            kinds: RuleKind::ALL
                .into_iter()
                .filter(|kind| kinds.iter().any(|name| name == kind.name()))
                .collect(),
            source: criterion(fields[2], fields[3]),
            target: criterion(fields[4], fields[5]),
            classes: list(fields[6]),
            permissions: list(fields[7]),
            booleans: list(fields[8]),
            result: (!fields[9].is_empty()).then(|| fields[9].to_owned()),
        };
        let found = search(&database, &query).unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut lines: Vec<String> = found.into_iter().map(|found| database.found_text(found)).collect();
        lines.sort_unstable();
        assert_eq!(lines.len().to_string(), fields[10], "{line}\n{}", lines.join("\n"));
        assert_eq!(format!("{:016x}", hash(&lines.join("\n"))), fields[11], "{line}\n{}", lines.join("\n"));
        count += 1;
    }
    let conditions = database.policy().conditionals.iter().map(|one| database.condition_text(one));
    assert_eq!(conditions.collect::<BTreeSet<_>>(), expected);
    count
}

#[test]
fn small_policy() {
    assert_eq!(compare("tiny.33", "tiny.33.queries.tsv.gz"), 300);
}

#[test]
fn full_policy() {
    assert_eq!(compare("refpolicy-virt_launcher.33.gz", "refpolicy-virt_launcher.33.queries.tsv.gz"), 596);
}
