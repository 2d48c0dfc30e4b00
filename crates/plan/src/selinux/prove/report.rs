//! A proof as text and as JSON.

use super::{
    domains::Rule,
    expect::Expected,
    outcome::{Cell, Proof, Witnessed},
};
use ferrovirt_lab_protocol::proof::Observed;
use ferrovirt_selinux::text::braces;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _};

/// What is expected, in words.
pub(super) fn expected(cell: &Cell) -> String {
    match &cell.expected {
        Expected::Allowed(rules) if rules.is_empty() => "allowed by the base".to_owned(),
        Expected::Allowed(rules) => format!("allowed by {}", grouped(rules).join(", ")),
        Expected::Refused(refusal) => format!(
            "refused: {} {}{}{}",
            refusal.class,
            braces(&refusal.permissions),
            if refusal.constraint { ", categories" } else { "" },
            if refusal.recorded.is_empty() { ", no record" } else { "" },
        ),
    }
}

/// What was observed, in words.
pub(super) fn observed(cell: &Cell) -> String {
    match &cell.observed {
        Observed::Done => "allowed".to_owned(),
        Observed::Refused(1) => "refused, EPERM".to_owned(),
        Observed::Refused(13) => "refused, EACCES".to_owned(),
        Observed::Refused(number) => format!("failed with error {number}"),
        Observed::Broken(text) => text.clone(),
    }
}

/// Rules of one target and class together.
fn grouped(rules: &[Rule]) -> Vec<String> {
    let mut groups: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for rule in rules {
        groups.entry((&rule.target, &rule.class)).or_default().push(&rule.permission);
    }
    groups
        .into_iter()
        .map(|((target, class), permissions)| format!("{target} {class} {}", braces(&permissions)))
        .collect()
}

/// Domains in which everything went alike, with their cells: those of the first stand for all. Domains that lack a rule on
/// purpose are left out.
pub(super) fn alike(proof: &Proof) -> Vec<(Vec<&str>, Vec<&Cell>)> {
    let mut domains: Vec<(&str, Vec<&Cell>)> = Vec::new();
    for cell in proof.cells.iter().filter(|cell| !cell.kind.starts_with("without_")) {
        match domains.last_mut() {
            Some((kind, cells)) if *kind == cell.kind => cells.push(cell),
            _ => domains.push((&cell.kind, vec![cell])),
        }
    }
    let mut groups: Vec<(Vec<&str>, Vec<&Cell>)> = Vec::new();
    let same = |one: &[&Cell], other: &[&Cell]| {
        let shown = |cell: &Cell| (expected(cell), observed(cell), cell.agrees);
        one.len() == other.len()
            && one
                .iter()
                .zip(other)
                .all(|(one, other)| one.experiment == other.experiment && shown(one) == shown(other))
    };
    for (kind, cells) in domains {
        match groups.iter_mut().find(|(_, other)| same(other, &cells)) {
            Some((kinds, _)) => kinds.push(kind),
            None => groups.push((vec![kind], cells)),
        }
    }
    groups
}

/// Whether something is as it has to be, in one word.
fn verdict(agrees: bool) -> &'static str {
    if agrees { "" } else { "  DIFFERS" }
}

/// The sentence at the end.
pub(super) fn summary(proof: &Proof) -> String {
    let (cells, answers, rules) = proof.disagreements();
    let policy = if proof.difference.is_empty() { "is" } else { "IS NOT" };
    format!(
        "{} operations in domains, {cells} differ; {} decisions asked of the kernel, {answers} differ from our own; \
         {} rules left out one by one, {rules} without need; the policy in the kernel {policy} the one that was given",
        proof.cells.len(),
        proof.answers.len(),
        proof.rules.len(),
    )
}

/// A proof for reading in a terminal.
pub fn text(proof: &Proof, base: &str) -> String {
    let mut out = format!("Linux {}, SELinux enforcing, base policy {base}\n", proof.kernel);
    for (kinds, cells) in alike(proof) {
        let _ = writeln!(out, "\n{}", kinds.join("\n"));
        let _ = writeln!(out, "  {:<15} {:<48} {:<18} expected", "feature", "operation", "observed");
        for cell in cells {
            let _ = writeln!(
                out,
                "  {:<15} {:<48} {:<18} {}{}",
                cell.experiment.topic.name(),
                cell.experiment.title,
                observed(cell),
                expected(cell),
                verdict(cell.agrees)
            );
            for record in &cell.records {
                let _ = writeln!(out, "      {record}");
            }
        }
    }
    if !proof.rules.is_empty() {
        out.push_str("\neach documented permission left out in turn\n");
    }
    for (rule, witnessed) in &proof.rules {
        let _ = match witnessed {
            Witnessed::Needed(experiment, record) => {
                writeln!(out, "  {rule}: needed to {}\n      {record}", experiment.title)
            }
            Witnessed::Base => writeln!(out, "  {rule}: container_t has it already in this base"),
            Witnessed::Unneeded => writeln!(out, "  {rule}: nothing fails without it  DIFFERS"),
        };
    }
    let wrong = proof.cells.iter().filter(|cell| !cell.agrees && cell.kind.starts_with("without_"));
    for cell in wrong {
        let _ = writeln!(
            out,
            "  {}: {}: {}, expected {}  DIFFERS\n      {}",
            cell.kind,
            cell.experiment.title,
            observed(cell),
            expected(cell),
            cell.records.join("\n      ")
        );
    }
    for answer in proof.answers.iter().filter(|answer| answer.kernel != answer.own) {
        let question = &answer.question;
        let _ = writeln!(
            out,
            "  {} {} {}: the kernel says {:x?}, our evaluator {:x?}  DIFFERS",
            question.source, question.target, question.class, answer.kernel, answer.own
        );
    }
    let _ = writeln!(out, "\n{}{}", proof.difference, summary(proof));
    out
}

/// A proof for programs: every cell.
pub fn json(proof: &Proof, base: &str) -> Value {
    let cells = proof.cells.iter().map(|cell| {
        let (allowed, missing) = match &cell.expected {
            Expected::Allowed(rules) => (true, json!({ "by": grouped(rules) })),
            Expected::Refused(refusal) => (
                false,
                json!({
                    "class": refusal.class, "permissions": refusal.permissions, "target": refusal.target,
                    "recorded": refusal.recorded, "constraint": refusal.constraint, "error": refusal.error,
                }),
            ),
        };
        let (done, error) = match &cell.observed {
            Observed::Done => (true, Value::Null),
            Observed::Refused(number) => (false, json!(number)),
            Observed::Broken(text) => (false, json!(text)),
        };
        json!({
            "domain": cell.kind, "context": cell.context, "feature": cell.experiment.topic.name(),
            "operation": cell.experiment.operation, "title": cell.experiment.title,
            "expected": { "allowed": allowed, "detail": missing },
            "observed": { "allowed": done, "error": error, "records": cell.records },
            "agrees": cell.agrees,
        })
    });
    let answers = proof.answers.iter().filter(|answer| answer.kernel != answer.own).map(|answer| {
        let question = &answer.question;
        json!({
            "source": question.source, "target": question.target, "class": question.class,
            "kernel": answer.kernel, "own": answer.own,
        })
    });
    let rules = proof.rules.iter().map(|(rule, witnessed)| {
        let (needed, operation, record) = match witnessed {
            Witnessed::Needed(experiment, record) => ("yes", Some(experiment.operation), Some(record)),
            Witnessed::Base => ("heldByBase", None, None),
            Witnessed::Unneeded => ("no", None, None),
        };
        json!({ "rule": rule.to_string(), "needed": needed, "operation": operation, "record": record })
    });
    json!({
        "holds": proof.holds(), "kernel": proof.kernel, "base": base,
        "cells": cells.collect::<Vec<_>>(),
        "decisions": { "asked": proof.answers.len(), "different": answers.collect::<Vec<_>>() },
        "leftOut": rules.collect::<Vec<_>>(),
        "policyDifference": proof.difference,
    })
}
