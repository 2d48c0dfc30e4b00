//! What the guest saw, beside what was expected.

use super::{
    domains::{LAUNCHER, Plan, Rule},
    expect::{Expected, judge, process},
    experiments::Experiment,
    scenario::parts,
};
use ferrovirt_lab_protocol::{
    Said,
    proof::{self, Observed, Question, Turn},
};
use ferrovirt_selinux::{
    Database, LookupError,
    avc::{Denial, parse},
    clone::{Extra, Held, remainder},
};
use std::collections::BTreeMap;

/// An operation in a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The domain's type.
    pub kind: String,
    /// Its context.
    pub context: String,
    /// What was tried.
    pub experiment: &'static Experiment,
    /// What the table says.
    pub expected: Expected,
    /// What the kernel did.
    pub observed: Observed,
    /// The kernel's records of denials, each from `avc:` on.
    pub records: Vec<String>,
    /// Whether they agree.
    pub agrees: bool,
}

/// A decision that the kernel was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// Allowed, and recorded when denied: what the kernel says. Nothing when it refused to answer.
    pub kernel: proof::Answer,
    /// The same by our own evaluator.
    pub own: proof::Answer,
}

/// Whether a rule of the table is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witnessed {
    /// Without it this operation is refused, for this very permission: the kernel's record.
    Needed(&'static Experiment, String),
    /// The base policy gives it to `container_t` already.
    Base,
    /// Nothing fails without it.
    Unneeded,
}

/// Everything that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The kernel's release.
    pub kernel: String,
    /// Operations in domains, in the plan's order.
    pub cells: Vec<Cell>,
    /// Decisions that the kernel was asked for.
    pub answers: Vec<Answer>,
    /// Each rule that a domain lacked on purpose.
    pub rules: Vec<(Rule, Witnessed)>,
    /// How the policy that the kernel has differs from the one that it was given; empty for not at all.
    pub difference: String,
}

impl Proof {
    /// Cells that do not agree, answers that differ, rules without a witness.
    pub fn disagreements(&self) -> (usize, usize, usize) {
        (
            self.cells.iter().filter(|cell| !cell.agrees).count(),
            self.answers.iter().filter(|answer| answer.kernel != answer.own).count(),
            self.rules.iter().filter(|(_, witnessed)| *witnessed == Witnessed::Unneeded).count(),
        )
    }

    /// Whether the kernel did as the table says, everywhere.
    pub fn holds(&self) -> bool {
        self.disagreements() == (0, 0, 0) && self.difference.is_empty() && !self.cells.is_empty()
    }
}

/// Why the guest's results say nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// The witness did not come to its end.
    #[error(transparent)]
    Guest(#[from] ferrovirt_lab_protocol::Error),
    /// It left out a worker.
    #[error("the guest says nothing of the process in {0}: build the witness again")]
    Missing(String),
    /// A domain switched enforcing off, or it never was on.
    #[error("after {0} had its turn, the kernel did not enforce any more: the domain is not confined")]
    NotEnforcing(String),
    /// A worker did not do everything.
    #[error("the process in {0} did not do everything: {1}")]
    Worker(String, String),
    /// A name of the table that a policy lacks.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// The guest's results, by worker and question.
#[derive(Default)]
struct Seen {
    kernel: String,
    turns: BTreeMap<u32, Turn>,
    answers: BTreeMap<usize, proof::Answer>,
}

impl Seen {
    fn new(reports: Vec<proof::Seen>) -> Self {
        let mut seen = Self::default();
        for report in reports {
            match report {
                proof::Seen::Kernel(release) => seen.kernel = release,
                proof::Seen::Loaded(_) => {}
                proof::Seen::Answer(question, answer) => {
                    seen.answers.insert(question, answer);
                }
                proof::Seen::Worker(turn) => {
                    seen.turns.insert(turn.number, turn);
                }
            }
        }
        seen
    }
}

/// The kernel's denials by the name of the thread, in their order.
fn denials(log: &str) -> BTreeMap<String, Vec<(Denial, String)>> {
    let mut all: BTreeMap<String, Vec<(Denial, String)>> = BTreeMap::new();
    for line in log.lines() {
        let Ok(Some(record)) = parse(line) else { continue };
        let (Some(denial), Some(comm)) = (&record.denial, record.field("comm")) else { continue };
        if denial.granted || denial.permissive {
            continue;
        }
        let text = line.find("avc:").and_then(|start| line.get(start..)).unwrap_or(line).trim_end();
        all.entry(comm.to_owned()).or_default().push((denial.clone(), text.to_owned()));
    }
    all
}

/// Whether kernel and table agree: success without a denial, or the very error and record that are expected.
fn agree(expected: &Expected, observed: &Observed, context: &str, records: &[(Denial, String)]) -> bool {
    match (expected, observed) {
        (Expected::Allowed(_), Observed::Done) => records.is_empty(),
        (Expected::Refused(refusal), Observed::Refused(code)) => {
            let as_expected = |denial: &Denial| {
                let mut permissions = denial.permissions.clone();
                permissions.sort();
                permissions == refusal.recorded
                    && denial.class == refusal.class
                    && denial.target == refusal.target
                    && denial.source == context
            };
            *code == refusal.error
                && match records {
                    [] => refusal.recorded.is_empty(),
                    [(denial, _)] => as_expected(denial),
                    _ => false,
                }
        }
        _ => false,
    }
}

/// Puts together what is expected and what was seen: the base policy with the plan's blank types, the policy that was loaded, the guest's results and
/// the kernel's log. `difference` says how the policy that the kernel had differs from the one that it was given.
///
/// # Errors
/// The guest did not do everything, or was not enforcing.
pub fn compare(
    (base, loaded): (&Database, &Database),
    plan: &Plan,
    questions: &[Question],
    (said, log): (Said<proof::Seen>, &str),
    difference: String,
) -> Result<Proof, OutcomeError> {
    said.end?;
    let mut seen = Seen::new(said.reports);
    let mut denials = denials(log);
    let mut cells = Vec::new();
    for part in parts(&plan.trials) {
        let context = process(&part.trial.kind, &part.level);
        let gave = match seen.turns.remove(&part.number) {
            Some(Turn { enforcing: false, .. }) => return Err(OutcomeError::NotEnforcing(context)),
            Some(Turn { broke: Some(how), .. }) => return Err(OutcomeError::Worker(context, how)),
            Some(turn) => turn.gave,
            None => return Err(OutcomeError::Missing(context)),
        };
        let mut gave = gave.into_iter();
        for (place, experiment) in part.experiments.iter().copied().enumerate() {
            let expected = judge(base, part.trial, experiment, (&part.level, &part.neighbour.1))?;
            let observed = gave.next().unwrap_or_else(|| Observed::Broken("it was not tried".to_owned()));
            let records = denials.remove(&format!("w{}.{place}", part.number)).unwrap_or_default();
            let agrees = agree(&expected, &observed, &context, &records);
            let records = records.into_iter().map(|(_, text)| text).collect();
            let (kind, context) = (part.trial.kind.clone(), context.clone());
            cells.push(Cell { kind, context, experiment, expected, observed, records, agrees });
        }
    }
    let mut answers = Vec::new();
    for (place, question) in questions.iter().enumerate() {
        let source = loaded.find_context(&question.source)?;
        let target = loaded.find_context(&question.target)?;
        let class = loaded.find_class(&question.class)?;
        let own = loaded.decide(&source, &target, class);
        answers.push(Answer {
            question: question.clone(),
            kernel: seen.answers.remove(&place).flatten(),
            own: Some((own.allowed, own.audit_deny)),
        });
    }
    let container = base.find_type("container_t")?;
    let mut rules = Vec::new();
    for trial in &plan.trials {
        let Some(rule) = &trial.without else { continue };
        let (target, class) = (rule.target.clone(), rule.class.clone());
        let extra = Extra { target, class, permissions: vec![rule.permission.clone()], comments: Vec::new() };
        let held = remainder(base, container, &[extra])?.iter().any(|rule| rule.held != Held::No);
        let witnessed = if held { Witnessed::Base } else { witness(&cells, &trial.kind, rule) };
        rules.push((rule.clone(), witnessed));
    }
    Ok(Proof { kernel: seen.kernel, cells, answers, rules, difference })
}

/// What fails in a domain for want of one rule, and works in the domain that lacks none.
fn witness(cells: &[Cell], kind: &str, rule: &Rule) -> Witnessed {
    let works = |experiment: &Experiment| {
        let whole = cells.iter().find(|cell| cell.kind == LAUNCHER && cell.experiment == experiment);
        whole.is_some_and(|cell| cell.agrees && cell.observed == Observed::Done)
    };
    let mut refused = cells.iter().filter(|cell| cell.kind == kind && cell.agrees && works(cell.experiment));
    let found = refused.find_map(|cell| match (&cell.expected, cell.records.as_slice()) {
        (Expected::Refused(refusal), [record])
            if refusal.class == rule.class && refusal.permissions == [rule.permission.as_str()] =>
        {
            Some(Witnessed::Needed(cell.experiment, record.clone()))
        }
        _ => None,
    });
    found.unwrap_or(Witnessed::Unneeded)
}
