//! Search for changes of ranges and roles, with the semantics of sesearch.

use super::{Query, within};
use crate::{database::Database, error::LookupError, policy::Range};

fn classes(database: &Database, query: &Query) -> Result<Vec<u32>, LookupError> {
    query.classes.iter().map(|name| database.find_class(name)).collect()
}

/// Finds range transitions, each as text. The query's result is a range; its permissions and booleans do not count.
///
/// # Errors
/// A name that the policy does not have.
pub fn search_ranges(database: &Database, query: &Query) -> Result<Vec<String>, LookupError> {
    let side = |criterion: &Option<super::Criterion>| {
        criterion.as_ref().map(|criterion| database.matching(criterion)).transpose()
    };
    let (source, target, classes) = (side(&query.source)?, side(&query.target)?, classes(database, query)?);
    let wanted = query.result.as_ref().map(|text| database.find_range(text)).transpose()?;
    let same = |range: &Range, other: &Range| range.low == other.low && range.high() == other.high();
    let all = database.policy().range_transitions.iter();
    let found = all.filter(|rule| {
        within(&source, rule.source)
            && within(&target, rule.target)
            && (classes.is_empty() || classes.contains(&rule.class))
            && wanted.as_ref().is_none_or(|range| same(range, &rule.range))
    });
    Ok(found.map(|rule| database.range_transition_text(rule)).collect())
}

/// Finds rules that let a role become another, each as text. Source and target are roles, and they have neither class
/// nor result.
///
/// # Errors
/// A name that the policy does not have.
pub fn search_role_allows(database: &Database, query: &Query) -> Result<Vec<String>, LookupError> {
    let role = |criterion: &Option<super::Criterion>| {
        criterion.as_ref().map(|criterion| database.find_role(&criterion.name)).transpose()
    };
    let (old, new) = (role(&query.source)?, role(&query.target)?);
    if !query.classes.is_empty() || query.result.is_some() {
        return Ok(Vec::new());
    }
    let all = database.policy().role_allows.iter();
    let found =
        all.filter(|rule| old.is_none_or(|old| old == rule.old) && new.is_none_or(|new| new == rule.new));
    Ok(found.map(|rule| database.role_allow_text(rule)).collect())
}

/// Finds changes of the role when a program is executed or an object made, each as text. Source and result are roles,
/// the target is a type.
///
/// # Errors
/// A name that the policy does not have.
pub fn search_role_transitions(database: &Database, query: &Query) -> Result<Vec<String>, LookupError> {
    let role = |name: Option<&String>| name.map(|name| database.find_role(name)).transpose();
    let source = role(query.source.as_ref().map(|criterion| &criterion.name))?;
    let target = query.target.as_ref().map(|criterion| database.matching(criterion)).transpose()?;
    let (classes, result) = (classes(database, query)?, role(query.result.as_ref())?);
    let all = database.policy().role_transitions.iter();
    let found = all.filter(|rule| {
        source.is_none_or(|role| role == rule.role)
            && within(&target, rule.kind)
            && (classes.is_empty() || classes.contains(&rule.class))
            && result.is_none_or(|role| role == rule.result)
    });
    Ok(found.map(|rule| database.role_transition_text(rule)).collect())
}
