//! Decisions, labels and validity against the answers of a running kernel.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::{database, text};
use ferrovirt_selinux::Database;

/// Lines of the three kinds, each compared.
fn compare(policy: &str, oracle: &str) -> [usize; 3] {
    let database = database(policy);
    let mut counts = [0; 3];
    for line in text(oracle).lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let ask = |database: &Database| {
            let source = database.find_context(fields[1]).map_err(|error| error.to_string())?;
            let target = database.find_context(fields[2]).map_err(|error| error.to_string())?;
            for context in [&source, &target] {
                if let Some(problem) = database.invalid(context) {
                    return Err(problem);
                }
            }
            Ok((source, target, database.find_class(fields[3]).unwrap()))
        };
        match (fields[0], ask(&database)) {
            ("access", Ok((source, target, class))) => {
                let decision = database.decide(&source, &target, class);
                let vector = |place: usize| u32::from_str_radix(fields[place], 16).unwrap();
                assert_eq!(decision.allowed, vector(4), "{line}");
                assert_eq!(decision.audit_allow, vector(5), "{line}");
                assert_eq!(decision.audit_deny, vector(6), "{line}");
                assert_eq!(decision.permissive, fields[7] == "1", "{line}");
                let mut names: Vec<&str> =
                    fields.get(8).into_iter().flat_map(|names| names.split(',')).collect();
                names.retain(|name| !name.is_empty());
                names.sort_unstable();
                assert_eq!(database.permission_names(class, decision.allowed), names, "{line}");
                counts[0] += 1;
            }
            ("create", Ok((source, target, class))) => {
                let label = database.new_label(&source, &target, class, None).unwrap();
                assert_eq!(database.context_text(&label), fields[4], "{line}");
                counts[1] += 1;
            }
            ("invalid", Err(_)) => counts[2] += 1,
            (_, Err(problem)) => panic!("{line}: {problem}"),
            (_, Ok(_)) => panic!("{line}: the contexts are valid"),
        }
    }
    counts
}

#[test]
fn small_policy() {
    let counts = compare("tiny.33", "tiny.33.tsv.gz");
    assert_eq!(counts, [3393, 2805, 18]);
}

#[test]
fn full_policy() {
    let counts = compare("refpolicy-virt_launcher.33.gz", "refpolicy-virt_launcher.33.tsv.gz");
    assert!(counts[0] > 1000 && counts[1] > 1000, "{counts:?}");
}
