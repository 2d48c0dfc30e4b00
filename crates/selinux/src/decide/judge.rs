//! Why something is allowed or denied. The kernel's record is the same for all causes.

use super::{Parties, constraint};
use crate::{
    database::Database,
    policy::{Context, RuleKind},
};

/// Why a permission is allowed or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed, by these rules (numbers).
    Allowed(Vec<u32>),
    /// A context is not valid: what is wrong with it.
    Invalid(String),
    /// Rules allow it, and these constraints of the class (places) take it away.
    Constraint(Vec<usize>),
    /// Only rules that are not in force would allow it.
    Boolean(Vec<u32>),
    /// The type that bounds the source's may not.
    Bounds(u32),
    /// No rule lets the source's role become the target's.
    Role,
    /// No rule allows it.
    NoRule,
}

/// The judgement about one permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Why.
    pub verdict: Verdict,
    /// Whether a denial is logged.
    pub logged: bool,
}

impl Database {
    /// Judges about a permission, given as the vector with its bit.
    pub fn judge(&self, source: &Context, target: &Context, class: u32, permission: u32) -> Judgement {
        let decision = self.decide(source, target, class);
        let logged = decision.audit_deny & permission != 0;
        let judgement = |verdict| Judgement { verdict, logged };
        for context in [source, target] {
            if let Some(problem) = self.invalid(context) {
                return judgement(Verdict::Invalid(format!("{}: {problem}", self.context_text(context))));
            }
        }
        let (mut active, mut idle) = (Vec::new(), Vec::new());
        self.each_rule(source.kind, target.kind, class, |number| {
            if self
                .rule(number)
                .is_some_and(|rule| rule.kind == RuleKind::Allow && rule.data & permission != 0)
            {
                if self.in_force(number) { active.push(number) } else { idle.push(number) }
            }
        });
        active.sort_unstable();
        idle.sort_unstable();
        if decision.allowed & permission != 0 {
            return judgement(Verdict::Allowed(active));
        }
        if active.is_empty() {
            return judgement(if idle.is_empty() { Verdict::NoRule } else { Verdict::Boolean(idle) });
        }
        let parties = Parties { source, target, third: None };
        let constraints: Vec<usize> = self
            .class(class)
            .into_iter()
            .flat_map(|class| class.constraints.iter().enumerate())
            .filter(|(_, one)| one.permissions & permission != 0 && !constraint::holds(self, one, &parties))
            .map(|(place, _)| place)
            .collect();
        if !constraints.is_empty() {
            return judgement(Verdict::Constraint(constraints));
        }
        if self.lost_by_role(source, target, class, permission) & permission != 0 {
            return judgement(Verdict::Role);
        }
        judgement(Verdict::Bounds(self.bounds(source.kind)))
    }
}
