//! Decisions as the kernel makes them: access, validity of contexts, labels of new objects.
//!
//! The rules are those of the kernel's `security/selinux/ss/services.c`; its own answers are the tests' oracle.

mod constraint;
mod context;
mod judge;
mod label;

pub(crate) use constraint::same_text;
pub use constraint::{Parties, holds, text};
pub use judge::{Judgement, Verdict};
pub use label::Uncomputable;

use crate::{
    database::Database,
    policy::{Context, RuleKind},
};

/// What is decided about all permissions of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What is allowed.
    pub allowed: u32,
    /// What is logged although it is allowed.
    pub audit_allow: u32,
    /// What is logged when it is denied.
    pub audit_deny: u32,
    /// Whether the source's type is permissive: denials are logged and not enforced.
    pub permissive: bool,
}

/// As deep as the kernel follows bounds.
const DEEPEST: u32 = 8;

impl Database {
    /// Decides about a source, a target and a class by value.
    pub fn decide(&self, source: &Context, target: &Context, class: u32) -> Decision {
        self.decide_within(source, target, class, 0)
    }

    fn decide_within(&self, source: &Context, target: &Context, class: u32, depth: u32) -> Decision {
        let permissive = self.policy().permissive.contains(source.kind);
        let mut decision = Decision { allowed: 0, audit_allow: 0, audit_deny: u32::MAX, permissive };
        let Some(class_entry) = self.class(class) else { return decision };
        self.each_rule(source.kind, target.kind, class, |number| {
            let Some(rule) = self.rule(number).filter(|_| self.in_force(number)) else { return };
            match rule.kind {
                RuleKind::Allow => decision.allowed |= rule.data,
                RuleKind::AuditAllow => decision.audit_allow |= rule.data,
                RuleKind::DontAudit => decision.audit_deny &= rule.data,
                _ => {}
            }
        });
        let parties = Parties { source, target, third: None };
        for constraint in &class_entry.constraints {
            if constraint.permissions & decision.allowed != 0 && !holds(self, constraint, &parties) {
                decision.allowed &= !constraint.permissions;
            }
        }
        decision.allowed &= !self.lost_by_role(source, target, class, decision.allowed);
        let parent = self.bounds(source.kind);
        if parent != 0 && depth < DEEPEST {
            let lower = Context { kind: parent, ..source.clone() };
            let bounded_target = self.bounds(target.kind);
            let kind = if bounded_target == 0 { target.kind } else { bounded_target };
            let other = Context { kind, ..target.clone() };
            decision.allowed &= self.decide_within(&lower, &other, class, depth + 1).allowed;
        }
        decision
    }

    /// The type whose rights are the limit of a type's, 0 for none.
    fn bounds(&self, kind: u32) -> u32 {
        self.type_entry(kind).map_or(0, |entry| entry.bounds)
    }

    /// Transitions between roles need a rule of their own.
    fn lost_by_role(&self, source: &Context, target: &Context, class: u32, allowed: u32) -> u32 {
        if source.role == target.role || self.class_name(class) != "process" {
            return 0;
        }
        let bit = |name| self.find_permission(class, name).unwrap_or(0);
        let transitions = bit("transition") | bit("dyntransition");
        let mut allows = self.policy().role_allows.iter();
        if allowed & transitions == 0 || allows.any(|rule| rule.old == source.role && rule.new == target.role)
        {
            0
        } else {
            transitions
        }
    }

    /// Calls with each rule that covers source type, target type and class, conditional ones included.
    pub fn each_rule(&self, source: u32, target: u32, class: u32, mut take: impl FnMut(u32)) {
        let targets: Vec<u32> = self.attributes_of(target).chain([target]).collect();
        for source in self.attributes_of(source).chain([source]) {
            for target in &targets {
                for number in self.rules_between(source, *target) {
                    if self.rule(*number).is_some_and(|rule| u32::from(rule.class) == class) {
                        take(*number);
                    }
                }
            }
        }
    }
}
