//! A type made as an exact copy of another one, as a CIL module.
//!
//! Giving the new type the other one's attributes is not enough: rules that name the type itself would be lost, which are
//! hundreds after expansion. So the module holds those rules too, with the type's name replaced.

use crate::{
    cil::{Condition, Level, Statement},
    database::Database,
    error::LookupError,
    policy::{Conditional, Rule, RuleKind, Step},
    text::{runs, xperm_name, xperm_runs},
};
use std::collections::BTreeMap;

/// A rule that the new type gets beyond the other one's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extra {
    /// A type, an attribute, or `self`.
    pub target: String,
    /// The class.
    pub class: String,
    /// The permissions.
    pub permissions: Vec<String>,
    /// Why, as comments above the rule.
    pub comments: Vec<String>,
}

/// Whether the copied type has a permission already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// No: the extra rule gives it.
    No,
    /// Only while this condition is true (or false).
    If(String, bool),
    /// Yes, always.
    Always,
}

/// A permission of an extra rule, and whether the copied type has it already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remainder {
    /// A type, an attribute, or `self`.
    pub target: String,
    /// The class.
    pub class: String,
    /// The permission.
    pub permission: String,
    /// Whether the copied type has it.
    pub held: Held,
}

/// A module and what it adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The statements; [`crate::cil::text`] writes them.
    pub statements: Vec<Statement>,
    /// For each permission of the extra rules whether the copied type has it.
    pub remainder: Vec<Remainder>,
}

/// Why a type cannot be copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloneError {
    /// A name that the policy does not have.
    #[error("{0}")]
    Lookup(#[from] LookupError),
    /// The policy lacks the type that containers run as.
    #[error(
        "the policy has no type \"{0}\"; on Fedora, RHEL and OKD the package container-selinux brings container_t, \
         on Debian the module services/container of selinux-policy-src"
    )]
    NoBase(String),
    /// An attribute is no type.
    #[error("\"{0}\" is an attribute; name the type to copy")]
    Attribute(String),
    /// The copy would not be confined.
    #[error("the type \"{0}\" is permissive, so a copy of it would confine nothing; make it enforcing first")]
    Permissive(String),
    /// CIL cannot hold a name of the policy.
    #[error("a transition for the file name {0:?} cannot be written as CIL")]
    Unwritable(String),
}

struct Copy<'a> {
    database: &'a Database,
    base: u32,
    /// The new type's name inside of its block.
    kind: &'a str,
}

/// Makes the module of `block.kind`, a copy of the type `base` with the extra rules.
///
/// # Errors
/// The policy lacks a name, or the type cannot be copied.
pub fn module(
    database: &Database,
    base: &str,
    block: &str,
    kind: &str,
    extra: &[Extra],
) -> Result<Module, CloneError> {
    let value = match database.find_type(base) {
        Ok(value) => value,
        Err(LookupError::Unknown { near, .. }) if near.is_empty() || base == "container_t" => {
            return Err(CloneError::NoBase(base.to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    if database.is_attribute(value) {
        return Err(CloneError::Attribute(base.to_owned()));
    }
    if database.policy().permissive.contains(value) {
        return Err(CloneError::Permissive(base.to_owned()));
    }
    let remainder = remainder(database, value, extra)?;
    let mut body = Copy { database, base: value, kind }.statements();
    for rule in extra {
        body.extend(rule.comments.iter().cloned().map(Statement::Comment));
        body.push(Statement::Access {
            kind: RuleKind::Allow,
            source: kind.to_owned(),
            target: rule.target.clone(),
            class: rule.class.clone(),
            permissions: rule.permissions.clone(),
        });
    }
    let statements = vec![Statement::Block { name: block.to_owned(), body }];
    match crate::cil::unwritable(&statements) {
        Some(name) => Err(CloneError::Unwritable(name.to_owned())),
        None => Ok(Module { statements, remainder }),
    }
}

/// Which permissions of the rules a type has already.
///
/// # Errors
/// A name that the policy lacks.
pub fn remainder(database: &Database, base: u32, extra: &[Extra]) -> Result<Vec<Remainder>, LookupError> {
    let mut all = Vec::new();
    for rule in extra {
        let target = if rule.target == "self" { base } else { database.find_type(&rule.target)? };
        let class = database.find_class(&rule.class)?;
        for permission in &rule.permissions {
            let bit = database.find_permission(class, permission)?;
            let held = if database.is_attribute(target) {
                // All of its types must have it.
                let mut each =
                    database.members(target).iter().map(|kind| held(database, base, kind + 1, class, bit));
                each.find(|held| *held != Held::Always).unwrap_or(Held::Always)
            } else {
                held(database, base, target, class, bit)
            };
            let (target, class) = (rule.target.clone(), rule.class.clone());
            all.push(Remainder { target, class, permission: permission.clone(), held });
        }
    }
    Ok(all)
}

fn held(database: &Database, source: u32, target: u32, class: u32, bit: u32) -> Held {
    let mut best = Held::No;
    database.each_rule(source, target, class, |number| {
        if !database.rule(number).is_some_and(|rule| rule.kind == RuleKind::Allow && rule.data & bit != 0) {
            return;
        }
        match database.conditional(number) {
            None => best = Held::Always,
            Some((condition, branch)) if best == Held::No => {
                best = Held::If(database.condition_text(condition), branch)
            }
            Some(_) => {}
        }
    });
    best
}

/// Attributes that compilers compute from expressions: types join them by themselves.
pub fn is_computed(name: &str) -> bool {
    name.rsplit_once("_typeattr_")
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Copy<'_> {
    fn statements(&self) -> Vec<Statement> {
        let database = self.database;
        let policy = database.policy();
        let kind = self.kind.to_owned();
        let mut head = vec![Statement::Type(kind.clone())];
        let mut roles: Vec<&str> = policy
            .roles
            .entries
            .iter()
            .filter(|role| role.types.contains(self.base - 1))
            .map(|role| &*role.name)
            .collect();
        roles.sort_unstable();
        head.extend(
            roles.into_iter().map(|role| Statement::RoleType { role: role.to_owned(), kind: kind.clone() }),
        );
        let mut attributes: Vec<&str> = database
            .attributes_of(self.base)
            .map(|value| database.type_name(value))
            .filter(|name| !is_computed(name))
            .collect();
        attributes.sort_unstable();
        head.extend(attributes.into_iter().map(|attribute| Statement::TypeAttributeSet {
            attribute: attribute.to_owned(),
            types: vec![kind.clone()],
        }));
        if let Some(bounds) =
            database.type_entry(self.base).map(|entry| entry.bounds).filter(|bounds| *bounds != 0)
        {
            head.push(Statement::TypeBounds { parent: database.type_name(bounds).to_owned(), child: kind });
        }
        let mut rules = Vec::new();
        let mut branches: BTreeMap<Condition, [Vec<Statement>; 2]> = BTreeMap::new();
        let mut numbers: Vec<u32> = database.rules_from(self.base).to_vec();
        numbers.extend(database.rules_to(self.base).iter().filter(|number| {
            database.rule(**number).is_some_and(|rule| u32::from(rule.source) != self.base)
        }));
        for number in numbers {
            let Some(rule) = database.rule(number) else { continue };
            let statement = self.rule(rule);
            match database.conditional(number) {
                None => rules.push(statement),
                Some((conditional, branch)) => {
                    let condition = condition(database, conditional);
                    let [yes, no] = branches.entry(condition).or_default();
                    if branch { yes.push(statement) } else { no.push(statement) }
                }
            }
        }
        self.transitions(&mut rules);
        rules.sort_unstable();
        rules.dedup();
        head.extend(rules);
        for (condition, [mut yes, mut no]) in branches {
            for branch in [&mut yes, &mut no] {
                branch.sort_unstable();
                branch.dedup();
            }
            head.push(Statement::BooleanIf { condition, yes, no });
        }
        head
    }

    /// A type's name in the copy.
    fn name(&self, value: u32) -> String {
        if value == self.base { self.kind.to_owned() } else { self.database.type_name(value).to_owned() }
    }

    fn rule(&self, rule: &Rule) -> Statement {
        let database = self.database;
        let kind = rule.kind;
        let (source, target) = (u32::from(rule.source), u32::from(rule.target));
        let class = database.class_name(rule.class.into()).to_owned();
        let both = source == self.base && target == self.base;
        let target = if both { "self".to_owned() } else { self.name(target) };
        let source = self.name(source);
        if kind.is_type() {
            return Statement::TypeRule {
                kind,
                source,
                target,
                class,
                name: None,
                result: self.name(rule.data),
            };
        }
        if let Some(xperm) = database.policy().xperms.get(rule.data as usize).filter(|_| kind.is_extended()) {
            let sort = xperm_name(xperm.sort).to_owned();
            return Statement::Extended { kind, source, target, sort, class, numbers: xperm_runs(xperm) };
        }
        let names = database.permission_names(rule.class.into(), rule.permissions());
        let permissions = names.into_iter().map(str::to_owned).collect();
        Statement::Access { kind, source, target, class, permissions }
    }

    fn transitions(&self, rules: &mut Vec<Statement>) {
        let database = self.database;
        let policy = database.policy();
        let class = |value| database.class_name(value).to_owned();
        for transition in &policy.named_transitions {
            for (sources, result) in &transition.results {
                let mut push = |source: u32| {
                    let both = source == self.base && transition.target == self.base;
                    rules.push(Statement::TypeRule {
                        kind: RuleKind::TypeTransition,
                        source: self.name(source),
                        target: if both { "self".to_owned() } else { self.name(transition.target) },
                        class: class(transition.class),
                        name: Some(transition.name.to_string()),
                        result: self.name(*result),
                    });
                };
                if transition.target == self.base {
                    sources.iter().for_each(|bit| push(bit + 1));
                } else if sources.contains(self.base - 1) {
                    push(self.base);
                }
            }
        }
        for rule in policy
            .range_transitions
            .iter()
            .filter(|rule| rule.source == self.base || rule.target == self.base)
        {
            rules.push(Statement::RangeTransition {
                source: self.name(rule.source),
                target: self.name(rule.target),
                class: class(rule.class),
                low: self.level(&rule.range.low),
                high: self.level(rule.range.high()),
            });
        }
        for transition in policy.role_transitions.iter().filter(|transition| transition.kind == self.base) {
            rules.push(Statement::RoleTransition {
                role: database.role_name(transition.role).to_owned(),
                target: self.name(transition.kind),
                class: class(transition.class),
                result: database.role_name(transition.result).to_owned(),
            });
        }
    }

    fn level(&self, level: &crate::policy::Level) -> Level {
        let name = |value| self.database.category_name(value).to_owned();
        let sensitivity = self.database.sensitivity(level.sensitivity);
        let categories = runs(level.categories.iter().map(|bit| bit + 1));
        Level {
            sensitivity: sensitivity.map_or(String::new(), |entry| entry.name.to_string()),
            categories: categories.into_iter().map(|(low, high)| (name(low), name(high))).collect(),
        }
    }
}

fn condition(database: &Database, conditional: &Conditional) -> Condition {
    let mut stack: Vec<Condition> = Vec::new();
    for (step, _) in &conditional.expression {
        let next = match step {
            Step::Boolean(value) => Condition::Boolean(
                database.boolean(*value).map_or(String::new(), |boolean| boolean.name.to_string()),
            ),
            Step::Not => Condition::Not(Box::new(pop(&mut stack))),
            binary => {
                let right = Box::new(pop(&mut stack));
                let left = Box::new(pop(&mut stack));
                match binary {
                    Step::And => Condition::And(left, right),
                    Step::Or => Condition::Or(left, right),
                    Step::Xor => Condition::Xor(left, right),
                    Step::Equal => Condition::Equal(left, right),
                    _ => Condition::Unequal(left, right),
                }
            }
        };
        stack.push(next);
    }
    pop(&mut stack)
}

/// A policy that was validated never lacks an operand.
fn pop(stack: &mut Vec<Condition>) -> Condition {
    stack.pop().unwrap_or_else(|| Condition::Boolean(String::new()))
}
