//! A valid policy with names and indexes.
//!
//! What a question needs is built when it is first asked: a single query on a large policy costs reading the file and
//! little more.

mod lookup;
mod near;

use lookup::Names;
pub use near::nearest;

use crate::{
    error::{InvalidPolicy, PolicyError},
    policy::{Bitmap, Class, Common, Conditional, Growing, Permission, Policy, Rule, TypeKind},
};
use std::sync::OnceLock;

/// A policy that can be asked.
#[derive(Debug)]
pub struct Database {
    policy: Policy,
    types: Vec<u32>,
    classes: Vec<u32>,
    roles: Vec<u32>,
    users: Vec<u32>,
    booleans: Vec<u32>,
    sensitivities: Vec<u32>,
    categories: Vec<u32>,
    members: OnceLock<Vec<Bitmap>>,
    by_source: OnceLock<Buckets>,
    by_target: OnceLock<Buckets>,
    type_names: OnceLock<Names>,
    category_names: OnceLock<Names>,
    searched: OnceLock<()>,
}

/// Entries by value: place `value - 1` holds the entry's place in its table. A value without an entry has a place that no
/// table has.
fn places(highest: u32, entries: impl Iterator<Item = (u32, bool)>) -> Vec<u32> {
    let mut places = vec![u32::MAX; highest as usize];
    for (place, (value, alias)) in entries.enumerate() {
        if !alias && let Some(slot) = places.get_mut((value as usize).wrapping_sub(1)) {
            *slot = place as u32;
        }
    }
    places
}

fn entry<'a, T>(places: &[u32], entries: &'a [T], value: u32) -> Option<&'a T> {
    let place = places.get((value as usize).checked_sub(1)?)?;
    entries.get(*place as usize)
}

/// Numbers of rules sorted by a value.
#[derive(Debug)]
pub(crate) struct Buckets {
    starts: Vec<u32>,
    rules: Vec<u32>,
}

impl Buckets {
    /// Keeps the order of `rules` within a bucket.
    fn new(highest: u32, rules: impl Iterator<Item = u32> + Clone, key: impl Fn(u32) -> u16) -> Self {
        let mut starts = vec![0_u32; highest as usize + 2];
        let mut count = 0_usize;
        for rule in rules.clone() {
            if let Some(start) = starts.get_mut(usize::from(key(rule)) + 1) {
                *start += 1;
            }
            count += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        let mut sorted = vec![0; count];
        for rule in rules {
            if let Some(place) = next.get_mut(usize::from(key(rule))) {
                if let Some(slot) = sorted.get_mut(*place as usize) {
                    *slot = rule;
                }
                *place += 1;
            }
        }
        Self { starts, rules: sorted }
    }

    /// The rules with this value.
    pub(crate) fn of(&self, value: u32) -> &[u32] {
        let start = self.starts.get(value as usize).copied().unwrap_or(0) as usize;
        let end = self.starts.get(value as usize + 1).copied().unwrap_or(0) as usize;
        self.rules.get(start..end).unwrap_or_default()
    }
}

impl Database {
    /// Reads and checks a policy.
    pub fn open(bytes: &[u8]) -> Result<Self, PolicyError> {
        Ok(Self::new(Policy::parse(bytes)?)?)
    }

    /// Checks a policy that was read.
    pub fn new(policy: Policy) -> Result<Self, InvalidPolicy> {
        policy.validate()?;
        let types = policy.types.entries.iter().map(|entry| (entry.value, entry.kind() == TypeKind::Alias));
        Ok(Self {
            types: places(policy.types.highest, types),
            classes: places(
                policy.classes.highest,
                policy.classes.entries.iter().map(|class| (class.value, false)),
            ),
            roles: places(policy.roles.highest, policy.roles.entries.iter().map(|role| (role.value, false))),
            users: places(policy.users.highest, policy.users.entries.iter().map(|user| (user.value, false))),
            booleans: places(
                policy.booleans.highest,
                policy.booleans.entries.iter().map(|boolean| (boolean.value, false)),
            ),
            sensitivities: places(
                policy.sensitivities.highest,
                policy.sensitivities.entries.iter().map(|entry| (entry.level.sensitivity, entry.alias)),
            ),
            categories: places(
                policy.categories.highest,
                policy.categories.entries.iter().map(|category| (category.value, category.alias)),
            ),
            policy,
            members: OnceLock::new(),
            by_source: OnceLock::new(),
            by_target: OnceLock::new(),
            type_names: OnceLock::new(),
            category_names: OnceLock::new(),
            searched: OnceLock::new(),
        })
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The entry of a type or attribute by value.
    pub fn type_entry(&self, value: u32) -> Option<&crate::policy::Type> {
        entry(&self.types, &self.policy.types.entries, value)
    }

    /// The name of a type or attribute; empty for values that do not exist.
    pub fn type_name(&self, value: u32) -> &str {
        self.type_entry(value).map_or("", |entry| &entry.name)
    }

    /// Whether the value is an attribute's.
    pub fn is_attribute(&self, value: u32) -> bool {
        self.type_entry(value).is_some_and(|entry| entry.kind() == TypeKind::Attribute)
    }

    /// Values of the types, without attributes.
    pub fn types(&self) -> impl Iterator<Item = u32> + '_ {
        (1..=self.policy.types.highest).filter(|value| !self.is_attribute(*value))
    }

    /// Values of the attributes.
    pub fn attributes(&self) -> impl Iterator<Item = u32> + '_ {
        (1..=self.policy.types.highest).filter(|value| self.is_attribute(*value))
    }

    /// A type's attributes.
    pub fn attributes_of(&self, value: u32) -> impl Iterator<Item = u32> + '_ {
        let map = (value as usize).checked_sub(1).and_then(|place| self.policy.attribute_maps.get(place));
        map.into_iter()
            .flat_map(Bitmap::iter)
            .map(|bit| bit + 1)
            .filter(move |other| *other != value && self.is_attribute(*other))
    }

    /// The types of an attribute (bits are values minus 1), or the type itself.
    pub fn members(&self, value: u32) -> &Bitmap {
        static NONE: OnceLock<Bitmap> = OnceLock::new();
        let members = self.members.get_or_init(|| {
            let mut sets = vec![Growing::default(); self.policy.types.highest as usize];
            for kind in self.types() {
                for value in self.attributes_of(kind).chain([kind]) {
                    if let Some(set) = sets.get_mut(value as usize - 1) {
                        set.add(kind - 1);
                    }
                }
            }
            sets.into_iter().map(Growing::done).collect()
        });
        (value as usize)
            .checked_sub(1)
            .and_then(|place| members.get(place))
            .unwrap_or_else(|| NONE.get_or_init(Bitmap::default))
    }

    /// Whether `value` is the type itself or one of its attributes.
    pub fn covers(&self, value: u32, kind: u32) -> bool {
        value == kind
            || (kind as usize)
                .checked_sub(1)
                .and_then(|place| self.policy.attribute_maps.get(place))
                .is_some_and(|map| value > 0 && map.contains(value - 1) && self.is_attribute(value))
    }

    /// Whether nothing was searched before: one pass over all rules costs less than the indexes for later searches.
    pub(crate) fn first_search(&self) -> bool {
        self.searched.set(()).is_ok() && self.by_source.get().is_none()
    }

    /// Numbers of the rules whose source is exactly this type or attribute, sorted by target.
    pub fn rules_from(&self, value: u32) -> &[u32] {
        self.by_source().of(value)
    }

    pub(crate) fn by_source(&self) -> &Buckets {
        self.by_source.get_or_init(|| self.sorted_by_source(&self.by_target().rules))
    }

    fn sorted_by_source(&self, rules: &[u32]) -> Buckets {
        Buckets::new(self.policy.types.highest, rules.iter().copied(), |number| {
            self.rule(number).map_or(0, |rule| rule.source)
        })
    }

    /// Numbers of the rules of some sources, `sources` telling by value which ones, in the order of the file.
    pub(crate) fn rules_of_sources(&self, sources: &[bool]) -> Buckets {
        let wanted = |rule: &Rule| sources.get(usize::from(rule.source)) == Some(&true);
        let rules: Vec<u32> = (0..)
            .zip(&self.policy.rules)
            .filter(|(_, rule)| wanted(rule))
            .map(|(number, _)| number)
            .collect();
        self.sorted_by_source(&rules)
    }

    fn by_target(&self) -> &Buckets {
        self.by_target.get_or_init(|| {
            Buckets::new(self.policy.types.highest, 0..self.policy.rules.len() as u32, |number| {
                self.rule(number).map_or(0, |rule| rule.target)
            })
        })
    }

    /// Numbers of the rules whose target is exactly this type or attribute.
    pub fn rules_to(&self, value: u32) -> &[u32] {
        self.by_target().of(value)
    }

    /// Numbers of the rules between exactly these two.
    pub fn rules_between(&self, source: u32, target: u32) -> &[u32] {
        let rules = self.rules_from(source);
        let target_of = |number: &u32| self.rule(*number).map_or(0, |rule| u32::from(rule.target));
        let start = rules.partition_point(|number| target_of(number) < target);
        let end = rules.partition_point(|number| target_of(number) <= target);
        rules.get(start..end).unwrap_or_default()
    }

    /// A rule by number.
    pub fn rule(&self, number: u32) -> Option<&Rule> {
        self.policy.rules.get(number as usize)
    }

    /// The conditional that a rule stands in, and whether in its true branch.
    pub fn conditional(&self, number: u32) -> Option<(&Conditional, bool)> {
        let (place, branch) = self.conditional_place(number)?;
        Some((self.policy.conditionals.get(place)?, branch))
    }

    /// The place of that conditional.
    pub(crate) fn conditional_place(&self, number: u32) -> Option<(usize, bool)> {
        let number = number as usize;
        if number < self.policy.unconditional {
            return None;
        }
        let conditionals = &self.policy.conditionals;
        let place = conditionals.partition_point(|conditional| conditional.no.end <= number);
        Some((place, conditionals.get(place)?.yes.contains(&number)))
    }

    /// Whether a conditional rule is in force, by the booleans' states.
    pub fn in_force(&self, number: u32) -> bool {
        self.conditional(number).is_none_or(|(conditional, branch)| self.holds(conditional) == Some(branch))
    }

    /// The result of a conditional's expression.
    pub fn holds(&self, conditional: &Conditional) -> Option<bool> {
        self.holds_with(conditional, |value| self.boolean(value).is_some_and(|boolean| boolean.state))
    }

    /// The result of a conditional's expression with booleans in other states.
    pub fn holds_with(&self, conditional: &Conditional, state: impl Fn(u32) -> bool) -> Option<bool> {
        use crate::policy::Step;
        let mut stack: Vec<bool> = Vec::new();
        for (step, _) in &conditional.expression {
            let result = match step {
                Step::Boolean(value) => state(*value),
                Step::Not => !stack.pop()?,
                binary => {
                    let (right, left) = (stack.pop()?, stack.pop()?);
                    match binary {
                        Step::Or => left || right,
                        Step::And => left && right,
                        Step::Equal => left == right,
                        _ => left != right,
                    }
                }
            };
            stack.push(result);
        }
        stack.pop()
    }

    /// A class by value.
    pub fn class(&self, value: u32) -> Option<&Class> {
        entry(&self.classes, &self.policy.classes.entries, value)
    }

    /// The name of a class.
    pub fn class_name(&self, value: u32) -> &str {
        self.class(value).map_or("", |class| &class.name)
    }

    /// The permissions of a class, those of its common first.
    pub fn permissions<'a>(&'a self, class: &'a Class) -> impl Iterator<Item = &'a Permission> + 'a {
        let common = self.common(class).into_iter();
        common.flat_map(|common| &common.permissions.entries).chain(&class.permissions.entries)
    }

    /// The common of a class.
    pub(crate) fn common(&self, class: &Class) -> Option<&Common> {
        let mut all = self.policy.commons.entries.iter();
        all.find(|common| !class.common.is_empty() && common.name == class.common)
    }

    /// All permissions that the class has, as an access vector.
    pub fn all_permissions(&self, class: &Class) -> u32 {
        match class.permissions.highest {
            32.. => u32::MAX,
            highest => (1 << highest) - 1,
        }
    }

    /// The names of an access vector, sorted.
    pub fn permission_names(&self, class: u32, vector: u32) -> Vec<&str> {
        let Some(class) = self.class(class) else { return Vec::new() };
        let set = self.permissions(class).filter(|permission| vector >> (permission.value - 1) & 1 == 1);
        let mut names: Vec<&str> = set.map(|permission| &*permission.name).collect();
        names.sort_unstable();
        names
    }

    /// A boolean by value.
    pub fn boolean(&self, value: u32) -> Option<&crate::policy::Boolean> {
        entry(&self.booleans, &self.policy.booleans.entries, value)
    }

    /// The name of a role.
    pub fn role_name(&self, value: u32) -> &str {
        self.role(value).map_or("", |role| &role.name)
    }

    /// A role by value.
    pub fn role(&self, value: u32) -> Option<&crate::policy::Role> {
        entry(&self.roles, &self.policy.roles.entries, value)
    }

    /// The name of a user.
    pub fn user_name(&self, value: u32) -> &str {
        self.user(value).map_or("", |user| &user.name)
    }

    /// A user by value.
    pub fn user(&self, value: u32) -> Option<&crate::policy::User> {
        entry(&self.users, &self.policy.users.entries, value)
    }

    /// A sensitivity by value.
    pub fn sensitivity(&self, value: u32) -> Option<&crate::policy::Sensitivity> {
        entry(&self.sensitivities, &self.policy.sensitivities.entries, value)
    }

    /// The name of a category.
    pub fn category_name(&self, value: u32) -> &str {
        entry(&self.categories, &self.policy.categories.entries, value).map_or("", |category| &category.name)
    }
}
