//! Two policies and what is known about their difference.

use std::collections::{BTreeMap, BTreeSet};

use ferrovirt_kubernetes::json;
use ferrovirt_selinux::{
    Database, LookupError,
    diff::{Access, Side, Sign, between_types},
    policy::RuleKind,
    query::{Criterion, Query, search},
};
use serde_json::Value;

use super::{Beside, avc::documented, report::Report};

const KIND: &str = "differences of policies";

/// Rules by target and class.
type Rules = BTreeMap<(String, String), BTreeSet<String>>;

pub(super) fn check(value: &Value, policies: Beside<'_>, report: &mut Report) {
    let side = |key: &str| {
        let name = json::text(value, key);
        policies.named(name).map(|known| &known.database)
    };
    let (Some(left), Some(right)) = (side("left"), side("right")) else {
        return report.note("one of the two policies is not here, so their difference is not compared");
    };
    let added: Vec<u32> = only_in(right, left);
    for (key, want) in value.as_object().into_iter().flatten() {
        let listed = |have: BTreeSet<String>| (list(want), have);
        let (want, have) = match key.as_str() {
            "left" | "right" | "generated_attribute" => continue,
            "types_added" => listed(names(right, &added)),
            "types_removed" => listed(names(left, &only_in(left, right))),
            "attributes_gaining_the_type" => listed(
                added
                    .iter()
                    .flat_map(|kind| right.attributes_of(*kind))
                    .map(|value| right.type_name(value).to_owned())
                    .collect(),
            ),
            "roles_gaining_the_type" => {
                let roles = right.policy().roles.entries.iter();
                let gaining = roles.filter(|role| added.iter().any(|kind| role.types.contains(*kind - 1)));
                listed(gaining.map(|role| role.name.to_string()).collect())
            }
            other => {
                let checked = by_name(other, want, left, right, &added);
                match checked {
                    Some(result) => {
                        report.compare(KIND, result.map_err(|problem| format!("{key}: {problem}")))
                    }
                    None => report.note(format!("{key} is not compared: nothing is known about it")),
                }
                continue;
            }
        };
        report.equal(KIND, key, &want, &have);
    }
}

/// Keys that are made of type names.
fn by_name(
    key: &str,
    want: &Value,
    left: &Database,
    right: &Database,
    added: &[u32],
) -> Option<Result<(), String>> {
    let equal = |want: bool, have: bool| {
        if want == have { Ok(()) } else { Err(format!("want {want}, have {have}")) }
    };
    if let Some((more, less)) = key.split_once("_minus_") {
        let have = match minus(right, more, less) {
            Ok(have) => have,
            Err(error) => return Some(Err(error.to_string())),
        };
        let want = match rules(want) {
            Ok(want) => want,
            Err(problem) => return Some(Err(problem)),
        };
        return Some(if want == have { Ok(()) } else { Err(format!("want {want:?}, have {have:?}")) });
    }
    if let Some(kind) = key.strip_suffix("_changed") {
        let changed = changed(kind, left, right, added).map_err(|error| error.to_string());
        return Some(changed.and_then(|changed| equal(flag(want)?, changed)));
    }
    if key == "verdict_exactly_the_four_rules" {
        let exact = exactly_documented(right, added).map_err(|error| error.to_string());
        return Some(exact.and_then(|exact| equal(flag(want)?, exact)));
    }
    None
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("expected true or false: {value}"))
}

fn list(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Rules as target, class and permissions.
fn rules(value: &Value) -> Result<Rules, String> {
    let mut rules = Rules::new();
    for rule in value.as_array().into_iter().flatten() {
        let parts = rule.as_array().map(Vec::as_slice);
        let Some([Value::String(target), Value::String(class), permissions]) = parts else {
            return Err(format!("expected [target, class, permissions]: {rule}"));
        };
        rules.entry((target.clone(), class.clone())).or_default().extend(list(permissions));
    }
    Ok(rules)
}

fn names(database: &Database, kinds: &[u32]) -> BTreeSet<String> {
    kinds.iter().map(|kind| database.type_name(*kind).to_owned()).collect()
}

/// Types of the first policy whose names the second does not have.
fn only_in(one: &Database, other: &Database) -> Vec<u32> {
    one.types().filter(|kind| other.find_type(one.type_name(*kind)).is_err()).collect()
}

/// What one type may do and the other may not.
fn minus(database: &Database, more: &str, less: &str) -> Result<Rules, LookupError> {
    let difference = between_types(database, database.find_type(less)?, database.find_type(more)?);
    let mut rules = Rules::new();
    let may = |access: &Access| {
        access.sign == Sign::Added && access.side == Side::Source && access.kind == RuleKind::Allow
    };
    for access in difference.accesses.into_iter().filter(may) {
        rules.entry((access.other, access.class)).or_default().extend(access.what);
    }
    Ok(rules)
}

/// Whether the rules that cover a type, its attributes or its roles differ, apart from what names an added type.
fn changed(kind: &str, left: &Database, right: &Database, added: &[u32]) -> Result<bool, LookupError> {
    let added = names(right, added);
    let of = |database: &Database| {
        let value = database.find_type(kind)?;
        let mut texts: BTreeSet<String> =
            database.attributes_of(value).map(|value| database.type_name(value).to_owned()).collect();
        let roles = database.policy().roles.entries.iter().filter(|role| role.types.contains(value - 1));
        texts.extend(roles.map(|role| format!("role {}", role.name)));
        let side = || Some(Criterion { name: kind.to_owned(), direct: false });
        for query in
            [Query { source: side(), ..Query::default() }, Query { target: side(), ..Query::default() }]
        {
            let found = search(database, &query)?.into_iter().map(|found| database.found_text(found));
            texts.extend(found.filter(|text| !text.split([' ', ':', ';']).any(|word| added.contains(word))));
        }
        Ok(texts)
    };
    Ok(of(left)? != of(right)?)
}

/// Whether the type that was added is container_t and the documented rules, not more and not less.
fn exactly_documented(right: &Database, added: &[u32]) -> Result<bool, LookupError> {
    let [launcher] = added else { return Ok(false) };
    let launcher = right.type_name(*launcher);
    let documented: Rules = documented();
    let difference = between_types(right, right.find_type("container_t")?, right.find_type(launcher)?);
    Ok(minus(right, launcher, "container_t")? == documented
        && difference.rest.is_empty()
        && difference.accesses.iter().all(|access| {
            (access.sign, access.side, access.kind) == (Sign::Added, Side::Source, RuleKind::Allow)
                && access.condition.is_none()
        }))
}
