//! What a denial in a kernel's log means for a machine, and what to do.
//!
//! The log alone tells much: names of types, levels, the system call. With the policy that was loaded the rest is known
//! too. Facts are computed once; [`Kind`] follows from the first rule that holds.

mod facts;
mod kind;
mod table;
mod types;

pub use kind::{Kind, Topic};
pub use table::Table;
pub use types::is_minimal;

use facts::Facts;
use ferrovirt_selinux::{
    Database,
    avc::{Denial, Event},
};
use types::is_foreign;

/// What is granted: source type, target type (`self` for the domain itself), class and permission in, the feature and its
/// reason out.
pub type Allowed<'a> = &'a dyn Fn(&str, &str, &str, &str) -> Option<String>;

/// A denial with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What it means.
    pub kind: Kind,
    /// The facts that this rests on.
    pub because: &'static str,
    /// What to do.
    pub advice: &'static str,
    /// What it may mean as well, as long as the policy that was loaded is not known.
    pub unless_known: Vec<Kind>,
    /// What it is about.
    pub topic: Topic,
    /// Whether a constraint denied it, not the lack of a rule.
    pub constraint: bool,
    /// The rule that is missing; none where no rule should be added or none is missing.
    pub rule: Option<String>,
    /// What the privilege table says about it.
    pub granted: Option<String>,
    /// What the policy says, where one was given.
    pub details: Vec<String>,
}

/// Explains a denial, with the node's policy if there is one.
pub fn explain(
    event: &Event,
    denial: &Denial,
    database: Option<&Database>,
    allowed: Allowed<'_>,
) -> Explanation {
    let facts = Facts::new(event, denial, database, allowed);
    let (kind, because) = facts
        .rule()
        .map_or((Kind::Other, "nothing of it is known of machines"), |rule| (rule.kind, rule.because));
    let advice = match kind {
        Kind::Other if is_foreign(facts.source) => {
            "this domain is no machine's: its own policy decides (of udica: add the rule to its profile)"
        }
        kind => kind.advice(),
    };
    let unless_known = match kind {
        _ if facts.judged.is_some() => Vec::new(),
        // A constraint takes away what a rule allows; whether there is such a rule, only the policy tells.
        Kind::Isolation => vec![Kind::Other],
        // The whole range of the target may be more than the source's; whether that refuses it, only the policy tells.
        Kind::Other if facts.above => vec![Kind::Isolation],
        Kind::BaseGap | Kind::Other if facts.copy => vec![Kind::LostFromBase],
        _ => Vec::new(),
    };
    let (source, target, class) = (facts.source, facts.target, &denial.class);
    let granted = |permission: &&String| allowed(source, target, class, permission).is_some();
    let missing: Vec<&str> = match kind {
        Kind::FeatureRule => denial.permissions.iter().filter(granted).map(String::as_str).collect(),
        Kind::LostFromBase => denial.permissions.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    let rule =
        (!missing.is_empty()).then(|| format!("(allow {source} {target} ({class} ({})))", missing.join(" ")));
    Explanation {
        kind,
        because,
        advice,
        unless_known,
        topic: facts.topic,
        constraint: facts.constraint,
        rule,
        granted: facts.granted,
        details: facts.judged.map_or(Vec::new(), |judged| judged.details),
    }
}
