//! Sizes of policies as other tools count them.

use std::collections::BTreeMap;

use ferrovirt_selinux::{Database, policy::TypeKind};
use serde_json::Value;

use super::{Policies, report::Report};

fn numbers(database: &Database) -> BTreeMap<&'static str, usize> {
    let policy = database.policy();
    let named = policy.named_transitions.iter().flat_map(|transition| &transition.results);
    let aliases = policy.types.entries.iter().filter(|entry| entry.kind() == TypeKind::Alias);
    BTreeMap::from([
        ("types", database.types().count()),
        ("attributes", database.attributes().count()),
        ("aliases", aliases.count()),
        ("avtab_entries", policy.unconditional),
        ("cond_nodes", policy.conditionals.len()),
        ("cond_rules", policy.rules.len() - policy.unconditional),
        ("booleans", policy.booleans.entries.len()),
        ("classes", policy.classes.entries.len()),
        ("roles", policy.roles.entries.len()),
        ("users", policy.users.entries.len()),
        ("permissive", policy.permissive.len()),
        ("range_transitions", policy.range_transitions.len()),
        ("filename_transitions", named.map(|(sources, _)| sources.len()).sum()),
    ])
}

fn by_kind(database: &Database) -> BTreeMap<String, u64> {
    let policy = database.policy();
    let mut counts = BTreeMap::new();
    for rule in policy.rules.iter().take(policy.unconditional) {
        *counts.entry(format!("{:#x}", rule.kind.number())).or_default() += 1;
    }
    counts
}

/// Whether a file holds sizes: objects with the size of a policy each.
pub(super) fn are_counts(value: &Value) -> bool {
    let all = value.as_object();
    all.is_some_and(|all| !all.is_empty() && all.values().all(|case| case.get("size").is_some()))
}

pub(super) fn check(value: &Value, policies: &Policies, report: &mut Report) {
    for (label, want) in value.as_object().into_iter().flatten() {
        let size = want.get("size").and_then(Value::as_u64);
        let known = policies.0.iter().find(|known| u64::try_from(known.size).ok() == size);
        let Some(known) = known else {
            report.note(format!("{label}: no policy of this size is here, so its counts are not compared"));
            continue;
        };
        let have = numbers(&known.database);
        for (key, want) in want.as_object().into_iter().flatten() {
            let what = format!("{label}: {key}");
            match (key.as_str(), have.get(key.as_str())) {
                ("size", _) => {}
                (_, Some(have)) => report.equal("counts", &what, want, &Value::from(*have)),
                ("avtab_by_kind", None) => {
                    report.equal("counts", &what, want, &serde_json::json!(by_kind(&known.database)));
                }
                (_, None) => report.note(format!("{what} is not compared: nothing is known about it")),
            }
        }
    }
}
