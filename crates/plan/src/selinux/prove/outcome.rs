//! What the guest saw, beside what was expected.

use super::{
    domains::{LAUNCHER, Plan, Rule},
    expect::{Expected, judge, process},
    operations::Operation,
    scenario::{Question, parts},
};
use ferrovirt_selinux::{
    Database, LookupError,
    avc::{Denial, parse},
    clone::{Extra, Held, remainder},
};
use std::collections::BTreeMap;

/// What a system call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It succeeded.
    Done,
    /// It failed with this number.
    Refused(i32),
    /// Something else went wrong.
    Broken(String),
}

/// An operation in a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The domain's type.
    pub kind: String,
    /// Its context.
    pub context: String,
    /// The operation.
    pub operation: &'static Operation,
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
    pub kernel: Option<(u32, u32)>,
    /// The same by our own evaluator.
    pub own: Option<(u32, u32)>,
}

/// Whether a rule of the table is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witnessed {
    /// Without it this operation is refused, for this very permission: the kernel's record.
    Needed(&'static Operation, String),
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
    /// The witness gave up.
    #[error("the guest could not go on: {0}")]
    Guest(String),
    /// It ended in the middle.
    #[error("the guest ended before everything was tried")]
    Unfinished,
    /// A domain switched enforcing off, or it never was on.
    #[error("after {0} had its turn, the kernel did not enforce any more: the domain is not confined")]
    NotEnforcing(String),
    /// A worker did not do everything.
    #[error("the process in {0} did not do everything: {1}")]
    Worker(String, String),
    /// A line that means nothing.
    #[error("the guest's line {0:?} is not understood: build the witness again")]
    Line(String),
    /// A name of the table that a policy lacks.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// The guest's results, by worker and operation.
#[derive(Default)]
struct Seen {
    kernel: String,
    cells: BTreeMap<(usize, usize), Observed>,
    workers: BTreeMap<usize, (String, bool)>,
    answers: BTreeMap<usize, Option<(u32, u32)>>,
    ended: bool,
}

fn read(results: &str) -> Result<Seen, OutcomeError> {
    let mut seen = Seen::default();
    for line in results.lines() {
        let words: Vec<&str> = line.trim_end_matches('\r').split('\t').collect();
        let wrong = || OutcomeError::Line(line.to_owned());
        let number = |word: &str| word.parse().map_err(|_| wrong());
        match words.as_slice() {
            ["kernel", release] => seen.kernel = (*release).to_owned(),
            ["loaded", _] => {}
            ["answer", question, answer] => {
                let hex = |word: Option<&str>| word.and_then(|word| u32::from_str_radix(word, 16).ok());
                let mut words = answer.split(' ');
                let (allowed, denied) = (hex(words.next()), hex(words.nth(2)));
                seen.answers.insert(number(question)?, allowed.zip(denied));
            }
            ["seen", worker, operation, how, code] => {
                let observed = match (*how, code.parse()) {
                    ("done", _) => Observed::Done,
                    ("refused", Ok(code)) => Observed::Refused(code),
                    (how, _) => Observed::Broken(format!("{how}: {code}")),
                };
                seen.cells.insert((number(worker)?, number(operation)?), observed);
            }
            ["worker", worker, how, enforcing] => {
                seen.workers.insert(number(worker)?, ((*how).to_owned(), *enforcing == "1"));
            }
            ["error", text] => return Err(OutcomeError::Guest((*text).to_owned())),
            ["end"] => seen.ended = true,
            _ => return Err(wrong()),
        }
    }
    if seen.ended { Ok(seen) } else { Err(OutcomeError::Unfinished) }
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
    (results, log): (&str, &str),
    difference: String,
) -> Result<Proof, OutcomeError> {
    let mut seen = read(results)?;
    let mut denials = denials(log);
    let mut cells = Vec::new();
    for part in parts(&plan.trials) {
        let context = process(&part.trial.kind, &part.level);
        match seen.workers.get(&part.number) {
            Some((how, true)) if how == "complete" => {}
            Some((_, false)) => return Err(OutcomeError::NotEnforcing(context)),
            Some((how, _)) => return Err(OutcomeError::Worker(context, how.clone())),
            None => return Err(OutcomeError::Unfinished),
        }
        for (place, operation) in part.operations.iter().copied().enumerate() {
            let expected = judge(base, part.trial, operation, (&part.level, &part.neighbour.1))?;
            let observed = seen
                .cells
                .remove(&(part.number, place))
                .unwrap_or_else(|| Observed::Broken("it was not tried".to_owned()));
            let records = denials.remove(&format!("w{}.{place}", part.number)).unwrap_or_default();
            let agrees = agree(&expected, &observed, &context, &records);
            let records = records.into_iter().map(|(_, text)| text).collect();
            let (kind, context) = (part.trial.kind.clone(), context.clone());
            cells.push(Cell { kind, context, operation, expected, observed, records, agrees });
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
        let held = remainder(base, container, &[extra])?.iter().any(|one| one.held != Held::No);
        let witnessed = if held { Witnessed::Base } else { witness(&cells, &trial.kind, rule) };
        rules.push((rule.clone(), witnessed));
    }
    Ok(Proof { kernel: seen.kernel, cells, answers, rules, difference })
}

/// What fails in a domain for want of one rule, and works in the domain that lacks none.
fn witness(cells: &[Cell], kind: &str, rule: &Rule) -> Witnessed {
    let works = |operation: &Operation| {
        let whole = cells.iter().find(|cell| cell.kind == LAUNCHER && cell.operation == operation);
        whole.is_some_and(|cell| cell.agrees && cell.observed == Observed::Done)
    };
    let mut refused = cells.iter().filter(|cell| cell.kind == kind && cell.agrees && works(cell.operation));
    let found = refused.find_map(|cell| match (&cell.expected, cell.records.as_slice()) {
        (Expected::Refused(refusal), [record])
            if refusal.class == rule.class && refusal.permissions == [rule.permission.as_str()] =>
        {
            Some(Witnessed::Needed(cell.operation, record.clone()))
        }
        _ => None,
    });
    found.unwrap_or(Witnessed::Unneeded)
}
