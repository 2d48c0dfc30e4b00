//! One numbering for two policies: what has the same name has the same number.

use crate::{
    database::Database,
    policy::{Conditional, Permission, Step},
};
use hashbrown::HashMap;

/// Numbers of names, in the order in which they are first met.
#[derive(Debug, Default)]
pub(super) struct Numbers<'a> {
    numbers: HashMap<&'a str, u32>,
    names: Vec<&'a str>,
}

impl<'a> Numbers<'a> {
    pub(super) fn of(&mut self, name: &'a str) -> u32 {
        *self.numbers.entry(name).or_insert_with(|| {
            self.names.push(name);
            self.names.len() as u32 - 1
        })
    }

    pub(super) fn name(&self, number: u32) -> &'a str {
        self.names.get(number as usize).copied().unwrap_or_default()
    }
}

/// The numbers of both policies.
#[derive(Debug, Default)]
pub(super) struct Common<'a> {
    pub(super) types: Numbers<'a>,
    pub(super) classes: Numbers<'a>,
    /// For each class the numbers of its permissions.
    pub(super) permissions: Vec<Numbers<'a>>,
    /// By what they mean.
    conditions: HashMap<String, u32>,
    /// How each condition was written where it was first met.
    pub(super) written: Vec<String>,
}

/// The permissions of a class.
#[derive(Debug, Default)]
struct Vectors {
    /// All of them.
    whole: u32,
    /// For each bit its common bit; `None` where both are the same.
    map: Option<Vec<(u32, u32)>>,
}

/// One policy's values in the common numbers.
#[derive(Debug)]
pub(super) struct Mapped<'a> {
    pub(super) database: &'a Database,
    /// By value.
    pub(super) types: Vec<u32>,
    pub(super) classes: Vec<u32>,
    /// By class value.
    vectors: Vec<Vectors>,
    /// For each rule after the unconditional ones: the number of its condition plus 1, and the branch that it stands in.
    conditions: Vec<(u32, bool)>,
}

impl<'a> Mapped<'a> {
    pub(super) fn new(database: &'a Database, common: &mut Common<'a>) -> Self {
        let policy = database.policy();
        let types = (0..=policy.types.highest).map(|value| match value {
            0 => 0,
            value => common.types.of(database.type_name(value)),
        });
        let types = types.collect();
        let mut classes = vec![0];
        let mut vectors = vec![Vectors::default()];
        for value in 1..=policy.classes.highest {
            let number = common.classes.of(database.class_name(value));
            classes.push(number);
            while common.permissions.len() <= number as usize {
                common.permissions.push(Numbers::default());
            }
            let mut map = Vec::new();
            if let (Some(class), Some(numbers)) =
                (database.class(value), common.permissions.get_mut(number as usize))
            {
                let mut permissions: Vec<&Permission> = database.permissions(class).collect();
                permissions.sort_unstable_by_key(|permission| permission.value);
                map.extend(
                    permissions.iter().map(|permission| (permission.value - 1, numbers.of(&permission.name))),
                );
            }
            let same = map.iter().all(|(own, common)| own == common);
            let whole = database.class(value).map_or(0, |class| database.all_permissions(class));
            vectors.push(Vectors { whole, map: if same { None } else { Some(map) } });
        }
        let mut conditions = Vec::with_capacity(policy.rules.len() - policy.unconditional);
        for conditional in &policy.conditionals {
            let (text, exchanged) = canonical(database, conditional);
            let number = *common.conditions.entry(text).or_insert_with(|| {
                let written = database.condition_text(conditional);
                common.written.push(if exchanged { format!("! ( {written} )") } else { written });
                common.written.len() as u32
            });
            conditions.extend(conditional.yes.clone().map(|_| (number, !exchanged)));
            conditions.extend(conditional.no.clone().map(|_| (number, exchanged)));
        }
        Self { database, types, classes, vectors, conditions }
    }

    /// Whether all names that both policies have stand for the same values in both: of types, classes, permissions, roles,
    /// users and levels. What refers to them is then the same where its values are.
    pub(super) fn has_same_numbers(&self, other: &Self) -> bool {
        let same =
            |mine: &[u32], theirs: &[u32]| mine.iter().zip(theirs).all(|(ours, theirs)| ours == theirs);
        let (ours, theirs) = (self.database, other.database);
        let (mine, yours) = (ours.policy(), theirs.policy());
        same(&self.types, &other.types)
            && same(&self.classes, &other.classes)
            && self.vectors.iter().chain(&other.vectors).all(|vectors| vectors.map.is_none())
            && self.vectors.iter().zip(&other.vectors).all(|(ours, theirs)| ours.whole == theirs.whole)
            && mine.mls() == yours.mls()
            && mine.roles.highest == yours.roles.highest
            && (1..=mine.roles.highest).all(|value| ours.role_name(value) == theirs.role_name(value))
            && mine.users.highest == yours.users.highest
            && (1..=mine.users.highest).all(|value| ours.user_name(value) == theirs.user_name(value))
            && mine.sensitivities == yours.sensitivities
            && mine.categories == yours.categories
    }

    pub(super) fn type_number(&self, value: u32) -> u32 {
        self.types.get(value as usize).copied().unwrap_or(0)
    }

    pub(super) fn class_number(&self, value: u32) -> u32 {
        self.classes.get(value as usize).copied().unwrap_or(0)
    }

    /// The number of a rule's condition plus 1, and the branch that it stands in; 0 without one.
    pub(super) fn condition(&self, rule: u32) -> (u32, bool) {
        let place = (rule as usize).checked_sub(self.database.policy().unconditional);
        place.and_then(|place| self.conditions.get(place)).copied().unwrap_or((0, true))
    }

    /// The permissions of an access vector that the class has, in the common numbers, which may be more than 32.
    pub(super) fn vector(&self, class: u32, vector: u32) -> u64 {
        let Some(Vectors { whole, map }) = self.vectors.get(class as usize) else { return 0 };
        let vector = vector & whole;
        let Some(map) = map else { return vector.into() };
        let set = map.iter().filter(|(own, _)| vector >> own & 1 == 1);
        set.fold(0, |all, (_, common)| all | 1_u64.checked_shl(*common).unwrap_or(0))
    }
}

/// A condition in a form that is the same for all equal ones, and whether it is the contrary of the original: the
/// truth table over up to six booleans, beyond that the text.
fn canonical(database: &Database, conditional: &Conditional) -> (String, bool) {
    let mut names: Vec<(&str, u32)> = conditional
        .expression
        .iter()
        .filter_map(|(step, _)| match step {
            Step::Boolean(value) => database.boolean(*value).map(|boolean| (&*boolean.name, *value)),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 6 {
        return (database.condition_text(conditional), false);
    }
    let mut table = 0_u64;
    for states in 0..1_u32 << names.len() {
        let state = |value: u32| {
            let place = names.iter().position(|(_, boolean)| *boolean == value);
            place.is_some_and(|place| states >> place & 1 == 1)
        };
        if database.holds_with(conditional, state).unwrap_or(false) {
            table |= 1 << states;
        }
    }
    // The compiler may turn a condition around and exchange the branches.
    let exchanged = table & 1 == 1;
    if exchanged {
        table = !table & (u64::MAX >> (64 - (1_u32 << names.len())));
    }
    let names: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
    (format!("{} {table:x}", names.join(" ")), exchanged)
}
