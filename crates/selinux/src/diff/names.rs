//! One numbering for two policies: what has the same name has the same number.

use crate::{
    database::Database,
    policy::{Conditional, Permission, Step},
};
use std::collections::HashMap;

/// Numbers of names, in the order in which they are first met.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Numbers {
    pub(super) fn of(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.to_owned(), number);
        self.names.push(name.to_owned());
        number
    }

    pub(super) fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", String::as_str)
    }
}

/// The numbers of both policies.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub(super) types: Numbers,
    pub(super) classes: Numbers,
    /// For each class the numbers of its permissions.
    pub(super) permissions: Vec<Numbers>,
    pub(super) conditions: Numbers,
    /// How each condition was written where it was first met.
    pub(super) written: Vec<String>,
}

/// One policy's values in the common numbers.
#[derive(Debug)]
pub(super) struct Mapped<'a> {
    pub(super) database: &'a Database,
    /// By value.
    pub(super) types: Vec<u32>,
    pub(super) classes: Vec<u32>,
    /// By class value: for each bit its common bit; `None` where both are the same.
    vectors: Vec<Option<Vec<(u32, u32)>>>,
    /// By place: the number of the condition, and whether the branches are exchanged.
    pub(super) conditions: Vec<(u32, bool)>,
}

impl<'a> Mapped<'a> {
    pub(super) fn new(database: &'a Database, common: &mut Common) -> Self {
        let policy = database.policy();
        let types = (0..=policy.types.highest).map(|value| match value {
            0 => 0,
            value => common.types.of(database.type_name(value)),
        });
        let types = types.collect();
        let mut classes = vec![0];
        let mut vectors = vec![None];
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
                permissions.sort_unstable_by_key(|one| one.value);
                map.extend(permissions.iter().map(|one| (one.value - 1, numbers.of(&one.name))));
            }
            let same = map.iter().all(|(own, common)| own == common);
            vectors.push(if same { None } else { Some(map) });
        }
        let conditions = policy.conditionals.iter().map(|one| {
            let (text, exchanged) = canonical(database, one);
            let number = common.conditions.of(&text);
            if common.written.len() <= number as usize {
                let written = database.condition_text(one);
                common.written.push(if exchanged { format!("! ( {written} )") } else { written });
            }
            (number, exchanged)
        });
        let conditions = conditions.collect();
        Self { database, types, classes, vectors, conditions }
    }

    pub(super) fn type_number(&self, value: u32) -> u32 {
        self.types.get(value as usize).copied().unwrap_or(0)
    }

    pub(super) fn class_number(&self, value: u32) -> u32 {
        self.classes.get(value as usize).copied().unwrap_or(0)
    }

    /// An access vector in the common numbers, which may be more than 32.
    pub(super) fn vector(&self, class: u32, vector: u32) -> u64 {
        match self.vectors.get(class as usize) {
            Some(Some(map)) => {
                let set = map.iter().filter(|(own, _)| vector >> own & 1 == 1);
                set.fold(0, |all, (_, common)| all | 1_u64.checked_shl(*common).unwrap_or(0))
            }
            _ => vector.into(),
        }
    }
}

/// A condition in a form that is the same for all equal ones, and whether it is the contrary of the original: the
/// truth table over up to six booleans, beyond that the text.
fn canonical(database: &Database, conditional: &Conditional) -> (String, bool) {
    let mut names: Vec<(&str, u32)> = conditional
        .expression
        .iter()
        .filter_map(|(step, _)| match step {
            Step::Boolean(value) => database.boolean(*value).map(|one| (&*one.name, *value)),
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
            let place = names.iter().position(|(_, one)| *one == value);
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
