//! SELinux rights out of a compiled policy.

use ferrovirt_privilege::Right;
use ferrovirt_selinux::{
    Database,
    clone::is_computed,
    policy::{RuleKind, TypeKind},
};
use std::collections::{BTreeMap, BTreeSet};

/// Something about the types that is none of the rights whose meaning is known here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// A conditional rule, a transition, a rule that only changes what is logged.
    #[error("the rule `{0}` is about a type of the block and is no unconditional allow rule")]
    Rule(String),
    /// A type that would not be confined as its rules say.
    #[error("the type {0} is permissive or bounded by another one")]
    Special(String),
}

/// The rights of a block's types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifted {
    /// Every right.
    pub rights: BTreeSet<Right<String>>,
    /// Those among them on the type itself that come with its attributes too: compilers write a rule of an attribute on
    /// `self` once for each type, so it is lost whose it was. Each member of the attribute has them.
    pub implied: BTreeSet<Right<String>>,
}

impl Lifted {
    /// What is here and not asked for, and what is asked for and not here; both are empty when a policy holds exactly
    /// what was granted.
    pub fn differences(&self, asked: &BTreeSet<Right<String>>) -> [Vec<Right<String>>; 2] {
        let more = self.rights.difference(asked).filter(|right| !self.implied.contains(right));
        [more.cloned().collect(), asked.difference(&self.rights).cloned().collect()]
    }
}

/// Permissions on the type itself by kind of rule and class.
type OnSelf = BTreeMap<(RuleKind, u16), u32>;

/// Every right of the types of a block: `virt_machine` has `virt_machine.kvm` and others. Attributes of the block's own
/// stand for their types; other attributes are rights themselves, but for those that compilers compute of expressions,
/// which each type joins that fits.
///
/// # Errors
/// What could grant something and is no right.
pub fn lift(database: &Database, block: &str) -> Result<Lifted, PolicyError> {
    let policy = database.policy();
    let own =
        |value: u32| database.type_name(value).strip_prefix(block).is_some_and(|rest| rest.starts_with('.'));
    let types: Vec<u32> = policy
        .types
        .entries
        .iter()
        .filter(|entry| entry.kind() == TypeKind::Type && own(entry.value))
        .map(|entry| entry.value)
        .collect();
    let mut out = Lifted::default();
    let mut by_attribute: BTreeMap<u32, OnSelf> = BTreeMap::new();
    let mut implied: BTreeMap<u32, OnSelf> = BTreeMap::new();
    let mut numbers: BTreeSet<u32> = BTreeSet::new();
    for value in &types {
        let domain = || database.type_name(*value).to_owned();
        if policy.permissive.contains(*value)
            || database.type_entry(*value).is_some_and(|entry| entry.bounds != 0)
        {
            return Err(PolicyError::Special(domain()));
        }
        for attribute in database.attributes_of(*value) {
            let name = database.type_name(attribute);
            if own(attribute) {
                numbers.extend(database.rules_from(attribute).iter().chain(database.rules_to(attribute)));
                continue;
            }
            let common =
                by_attribute.entry(attribute).or_insert_with(|| of_every_member(database, attribute));
            let own = implied.entry(*value).or_default();
            common.iter().for_each(|(key, vector)| *own.entry(*key).or_default() |= vector);
            if !is_computed(name) {
                out.rights.insert(Right::SelinuxAttribute { domain: domain(), attribute: name.to_owned() });
            }
        }
        numbers.extend(database.rules_from(*value).iter().chain(database.rules_to(*value)));
        for role in policy.roles.entries.iter().filter(|role| role.types.contains(*value - 1)) {
            out.rights.insert(Right::SelinuxRole { domain: domain(), role: role.name.to_string() });
        }
    }
    transitions(database, &types)?;
    for number in numbers {
        rule(database, number, &own, &implied, &mut out)?;
    }
    Ok(out)
}

/// Refuses transitions of the types.
fn transitions(database: &Database, types: &[u32]) -> Result<(), PolicyError> {
    let policy = database.policy();
    let named = policy.named_transitions.iter().any(|transition| {
        let result = transition.results.iter().any(|(sources, result)| {
            types.contains(result) || types.iter().any(|value| sources.contains(value - 1))
        });
        types.contains(&transition.target) || result
    });
    let range = policy
        .range_transitions
        .iter()
        .any(|transition| types.contains(&transition.source) || types.contains(&transition.target));
    let role = policy.role_transitions.iter().any(|transition| types.contains(&transition.kind));
    if named || range || role {
        return Err(PolicyError::Rule("a named, range or role transition".to_owned()));
    }
    Ok(())
}

/// What each member of an attribute may do to itself.
fn of_every_member(database: &Database, attribute: u32) -> OnSelf {
    let mut common: Option<OnSelf> = None;
    for value in database.members(attribute).iter().map(|bit| bit + 1) {
        let mut own = OnSelf::new();
        for number in database.rules_between(value, value) {
            if let Some(rule) = database.rule(*number).filter(|_| database.conditional(*number).is_none()) {
                *own.entry((rule.kind, rule.class)).or_default() |= rule.permissions();
            }
        }
        common = Some(match common {
            None => own,
            Some(mut common) => {
                common.retain(|key, vector| {
                    *vector &= own.get(key).copied().unwrap_or(0);
                    *vector != 0
                });
                common
            }
        });
    }
    common.unwrap_or_default()
}

fn rule(
    database: &Database,
    number: u32,
    own: &impl Fn(u32) -> bool,
    implied: &BTreeMap<u32, OnSelf>,
    out: &mut Lifted,
) -> Result<(), PolicyError> {
    let Some(rule) = database.rule(number) else { return Ok(()) };
    let (source, target) = (u32::from(rule.source), u32::from(rule.target));
    let with_attributes = implied
        .get(&source)
        .filter(|_| source == target)
        .and_then(|own| own.get(&(rule.kind, rule.class)))
        .copied()
        .unwrap_or(0);
    if rule.kind == RuleKind::DontAudit
        && database.conditional(number).is_none()
        && rule.permissions() & !with_attributes == 0
    {
        return Ok(());
    }
    if rule.kind != RuleKind::Allow || database.conditional(number).is_some() {
        return Err(PolicyError::Rule(database.rule_text(number)));
    }
    let names = |value: u32| -> Vec<String> {
        if own(value) && database.is_attribute(value) {
            database.members(value).iter().map(|bit| database.type_name(bit + 1).to_owned()).collect()
        } else {
            vec![database.type_name(value).to_owned()]
        }
    };
    let class = database.class_name(rule.class.into());
    let implied = database.permission_names(rule.class.into(), rule.permissions() & with_attributes);
    for source in names(source) {
        for target in names(target) {
            let target = if target == source { "self".to_owned() } else { target };
            for permission in database.permission_names(rule.class.into(), rule.permissions()) {
                let right = Right::Selinux {
                    source: source.clone(),
                    target: target.clone(),
                    class: class.to_owned(),
                    permission: permission.to_owned(),
                };
                if implied.contains(&permission) {
                    out.implied.insert(right.clone());
                }
                out.rights.insert(right);
            }
        }
    }
    Ok(())
}
