//! The scenario for the guest: who runs where, and what the kernel is asked beside the operations.

use super::{
    domains::Trial,
    expect::{HugeLevels, PRIVILEGED, Place, object, process},
    operations::Operation,
};
use ferrovirt_selinux::{Database, LookupError};
use std::{collections::BTreeSet, fmt::Write as _};

/// Huge pages that the guest sets apart beside one for each domain, whose file on a hugetlbfs keeps it.
const SPARE_HUGE_PAGES: usize = 8;

/// A question about one access, answered by the kernel without an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// Context of the process.
    pub source: String,
    /// Context of the target.
    pub target: String,
    /// Class.
    pub class: String,
}

/// A domain's worker.
pub(super) struct Part<'a> {
    pub(super) trial: &'a Trial,
    pub(super) number: usize,
    pub(super) level: String,
    /// Number and level of the worker that plays the other machine.
    pub(super) neighbour: (usize, String),
    pub(super) operations: Vec<&'static Operation>,
}

/// Every worker has a pair of categories of its own.
fn level(number: usize) -> String {
    format!("s0:c{},c{}", 2 * number, 2 * number + 1)
}

pub(super) fn parts(trials: &[Trial]) -> Vec<Part<'_>> {
    trials
        .iter()
        .enumerate()
        .map(|(place, trial)| {
            let number = 2 * place + 1;
            Part {
                trial,
                number,
                level: level(number),
                neighbour: (number - 1, level(number - 1)),
                operations: trial.operations().collect(),
            }
        })
        .collect()
}

/// The scenario's text and its questions.
///
/// # Errors
/// A name that the base policy does not have.
pub fn scenario(base: &Database, trials: &[Trial]) -> Result<(String, Vec<Question>), LookupError> {
    let huge = HugeLevels::of(base)?;
    let mut questions = BTreeSet::new();
    let mut workers = String::new();
    for part in parts(trials) {
        let Part { trial, number, level, neighbour: (other, other_level), operations } = part;
        let place = Place { own: level.clone(), other: other_level.clone() };
        for access in operations.iter().flat_map(|operation| operation.accesses) {
            questions.insert(Question {
                source: process(&trial.kind, &level),
                target: place.target(trial, access, &huge),
                class: access.class.to_owned(),
            });
        }
        let files = |level: &str| object("container_file_t", level);
        let neighbour = if operations.iter().any(|operation| operation.needs_neighbour()) {
            let context = process(&trial.kind, &other_level);
            let _ = writeln!(workers, "worker\t{other}\t{context}\t{}\t-", files(&other_level));
            other.to_string()
        } else {
            "-".to_owned()
        };
        let context = process(&trial.kind, &level);
        let _ = write!(workers, "worker\t{number}\t{context}\t{}\t{neighbour}", files(&level));
        for operation in operations {
            let _ = write!(workers, "\t{}", operation.name);
        }
        workers.push('\n');
    }
    let agent = process(PRIVILEGED, "s0");
    let mut text = format!("agent\t{agent}\nhuge-pages\t{}\n", trials.len() + SPARE_HUGE_PAGES);
    for Question { source, target, class } in &questions {
        let _ = writeln!(text, "ask\t{source}\t{target}\t{class}");
    }
    Ok((text + &workers, questions.into_iter().collect()))
}
