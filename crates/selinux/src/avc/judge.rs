//! What a policy says about a denial.

use super::record::Denial;
use crate::{
    database::Database,
    decide::{self, Verdict},
    error::LookupError,
};

/// What a policy says about the permissions of a denial, all together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Whether the policy knows both contexts and the class; nothing else is set otherwise.
    pub known: bool,
    /// Whether all of it is allowed.
    pub allowed: bool,
    /// Whether a constraint refuses some of it.
    pub constraint: bool,
    /// Whether a rule is there for some of it, and its boolean is off.
    pub boolean: bool,
    /// Whether a rule is there, and something else than levels or a boolean refuses it: users, roles, bounds.
    pub elsewhere: bool,
    /// A line for each permission and cause; the error where the policy lacks a name.
    pub details: Vec<String>,
}

impl Judged {
    /// Asks the policy about a denial.
    pub fn new(database: &Database, denial: &Denial) -> Self {
        let mut judged = Self::default();
        if let Err(error) = judged.judge(database, denial) {
            judged.details.push(error.to_string());
        }
        judged
    }

    fn judge(&mut self, database: &Database, denial: &Denial) -> Result<(), LookupError> {
        let source = database.find_context(&denial.source)?;
        let target = database.find_context(&denial.target)?;
        let class = database.find_class(&denial.class)?;
        self.known = true;
        let mut allowed = true;
        for permission in &denial.permissions {
            let bit = database.find_permission(class, permission)?;
            let verdict = database.judge(&source, &target, class, bit).verdict;
            allowed &= matches!(verdict, Verdict::Allowed(_));
            self.add(database, class, permission, verdict);
        }
        self.allowed = allowed;
        Ok(())
    }

    fn add(&mut self, database: &Database, class: u32, permission: &str, verdict: Verdict) {
        let mut detail = |text: String| self.details.push(format!("{permission}: {text}"));
        match verdict {
            Verdict::Allowed(rules) => {
                let rule = rules.first().map_or(String::new(), |rule| database.rule_text(*rule));
                detail(format!("this policy allows it: {rule}"));
            }
            Verdict::Invalid(problem) => {
                self.elsewhere = true;
                detail(problem);
            }
            Verdict::Constraint(places) => {
                self.constraint = true;
                let entry = database.class(class);
                // Without levels it is about users, roles or types, and keeps no two levels apart.
                let mut levels = false;
                let constraints = places.into_iter().filter_map(|place| entry?.constraints.get(place));
                for constraint in constraints {
                    levels |= constraint.compares_levels();
                    let text = decide::text(database, class, constraint, false);
                    detail(format!("a rule allows it, this constraint does not: {text}"));
                }
                self.elsewhere |= !levels;
            }
            Verdict::Boolean(rules) => {
                self.boolean = true;
                for rule in rules {
                    detail(format!("this rule is off: {}", database.rule_text(rule)));
                }
            }
            Verdict::Bounds(parent) => {
                self.elsewhere = true;
                detail(format!("the bounding type {} may not", database.type_name(parent)));
            }
            Verdict::Role => {
                self.elsewhere = true;
                detail("no rule allows the change of role".to_owned());
            }
            Verdict::NoRule => detail("no rule allows it".to_owned()),
        }
    }
}
