//! `ferrovirt selinux prove` and its witness: who tries what in which context, and what the kernel did.

use crate::{Operation, Setup};
use serde::{Deserialize, Serialize};

/// The file with the [`Scenario`] in the guest.
pub const SCENARIO: &str = "/scenario.json";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Before everything else.
    pub setup: Setup,
    /// The context of the node agent, which makes TAP devices for the workers.
    pub agent: String,
    /// What the kernel is asked.
    pub questions: Vec<Question>,
    /// In the order in which they start and run; a neighbour comes before those that it is one for.
    pub workers: Vec<Worker>,
}

/// A question about one access, answered by the kernel without an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Context of the process.
    pub source: String,
    /// Context of the target.
    pub target: String,
    /// Class.
    pub class: String,
}

/// A process in a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Number of its directory below `/w`.
    pub number: u32,
    /// Its context.
    pub context: String,
    /// The context of the files of its pod.
    pub files: String,
    /// The worker that plays another machine for it.
    pub neighbour: Option<u32>,
    /// One after another.
    pub operations: Vec<Operation>,
}

/// Something that the witness reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// The kernel's release.
    Kernel(String),
    /// How many bytes of the policy that the kernel has loaded are on the guest's disk.
    Loaded(u64),
    /// The answer to the question of this number, from 0.
    Answer(usize, Answer),
    /// A worker had its turn.
    Worker(Turn),
}

/// What is allowed, and recorded when denied, as bits of the class's permissions; nothing when the kernel refused to answer.
pub type Answer = Option<(u32, u32)>;

/// A worker's turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Its number.
    pub number: u32,
    /// What its operations gave, as far as it came.
    pub gave: Vec<Observed>,
    /// How it ended before it had done them all.
    pub broke: Option<String>,
    /// Whether the kernel enforced when it was done.
    pub enforcing: bool,
}

/// What a system call gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observed {
    /// It succeeded.
    Done,
    /// It failed with this number.
    Refused(i32),
    /// Something else went wrong.
    Broken(String),
}
