//! The scenario for the guest: who runs where, and what the kernel is asked beside the operations.

use super::{
    domains::Trial,
    expect::{HugeLevels, PRIVILEGED, Place, object, process},
    experiments::Experiment,
};
use ferrovirt_lab_protocol::{
    Setup,
    proof::{Question, Scenario, Worker},
};
use ferrovirt_selinux::{Database, LookupError};
use std::collections::BTreeSet;

/// Huge pages that the guest sets apart beside one for each domain, whose file on a hugetlbfs keeps it.
const SPARE_HUGE_PAGES: usize = 8;

/// A domain's worker.
pub(super) struct Part<'a> {
    pub(super) trial: &'a Trial,
    pub(super) number: u32,
    pub(super) level: String,
    /// Number and level of the worker that plays the other machine.
    pub(super) neighbour: (u32, String),
    pub(super) experiments: Vec<&'static Experiment>,
}

/// Every worker has a pair of categories of its own.
fn level(number: u32) -> String {
    format!("s0:c{},c{}", 2 * number, 2 * number + 1)
}

pub(super) fn parts(trials: &[Trial]) -> Vec<Part<'_>> {
    (0..)
        .zip(trials)
        .map(|(place, trial)| {
            let number = 2 * place + 1;
            Part {
                trial,
                number,
                level: level(number),
                neighbour: (number - 1, level(number - 1)),
                experiments: trial.experiments().collect(),
            }
        })
        .collect()
}

/// The scenario.
///
/// # Errors
/// A name that the base policy does not have.
pub fn scenario(base: &Database, trials: &[Trial]) -> Result<Scenario, LookupError> {
    let huge = HugeLevels::of(base)?;
    let mut questions = BTreeSet::new();
    let mut workers = Vec::new();
    for part in parts(trials) {
        let Part { trial, number, level, neighbour: (other, other_level), experiments } = part;
        let place = Place { own: level.clone(), other: other_level.clone() };
        for access in experiments.iter().flat_map(|experiment| experiment.accesses) {
            questions.insert(Question {
                source: process(&trial.kind, &level),
                target: place.target(trial, access, &huge),
                class: access.class.to_owned(),
            });
        }
        let worker = |number, level: &str, neighbour, operations| Worker {
            number,
            context: process(&trial.kind, level),
            files: object("container_file_t", level),
            neighbour,
            operations,
        };
        let needs = experiments.iter().any(|experiment| experiment.needs_neighbour());
        workers.extend(needs.then(|| worker(other, &other_level, None, Vec::new())));
        let operations = experiments.iter().map(|experiment| experiment.operation).collect();
        workers.push(worker(number, &level, needs.then_some(other), operations));
    }
    let pages = trials.len() + SPARE_HUGE_PAGES;
    let setup = Setup {
        modules: vec!["/modules/tun.ko".to_owned()],
        huge_pages: pages.try_into().unwrap_or(u32::MAX),
        labels: [("/init", "container_file_t"), ("/dev/net/tun", "tun_tap_device_t")]
            .map(|(path, kind)| (path.to_owned(), object(kind, "s0")))
            .to_vec(),
    };
    let questions = questions.into_iter().collect();
    Ok(Scenario { setup, agent: process(PRIVILEGED, "s0"), questions, workers })
}
