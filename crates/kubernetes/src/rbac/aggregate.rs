//! Cluster roles whose rules are collected from others.

use serde_json::Value;

use super::Rule;
use crate::selector::Labels;
use crate::{json, object};

/// The rules of a cluster role with an `aggregationRule`: the union of all cluster roles that a selector matches, in
/// order of name. An aggregated role may itself be aggregated (view into edit into admin).
#[must_use]
pub fn aggregate(role: &Value, all: &[&Value]) -> Vec<Rule> {
    let mut out = Vec::new();
    let mut seen = vec![object::name(role)];
    collect(role, all, &mut seen, &mut out);
    out
}

fn collect<'a>(role: &Value, all: &[&'a Value], seen: &mut Vec<&'a str>, out: &mut Vec<Rule>) {
    for selector in json::list(role, "/aggregationRule/clusterRoleSelectors") {
        let selector = Labels::from_object(selector);
        for other in all.iter().filter(|other| selector.matches(other)) {
            let name = object::name(other);
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            if other.get("aggregationRule").is_some() {
                collect(other, all, seen, out);
            } else {
                for rule in Rule::list(other) {
                    if !out.contains(&rule) {
                        out.push(rule);
                    }
                }
            }
        }
    }
}
