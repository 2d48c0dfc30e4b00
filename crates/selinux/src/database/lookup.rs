//! Names to values, and texts to contexts.

use super::{Database, nearest};
use crate::{
    error::LookupError,
    policy::{Bitmap, Context, Level, Range},
};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher as _;

/// The places of names in their table.
#[derive(Debug)]
pub(super) struct Names {
    hasher: DefaultHashBuilder,
    places: HashTable<(u64, usize)>,
}

impl Names {
    fn new<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let hasher = DefaultHashBuilder::default();
        let mut places = HashTable::with_capacity(names.len());
        for (place, name) in names.enumerate() {
            let hash = hasher.hash_one(name);
            places.insert_unique(hash, (hash, place), |(hash, _)| *hash);
        }
        Self { hasher, places }
    }

    fn place<'a>(&self, name: &str, at: impl Fn(usize) -> Option<&'a str>) -> Option<usize> {
        let found = self.places.find(self.hasher.hash_one(name), |(_, place)| at(*place) == Some(name));
        found.map(|(_, place)| *place)
    }
}

type Result<T> = std::result::Result<T, LookupError>;

fn unknown<'a>(kind: &'static str, name: &str, names: impl Iterator<Item = &'a str>) -> LookupError {
    LookupError::Unknown { kind, name: name.to_owned(), near: nearest(name, names) }
}

impl Database {
    /// The value of a type or attribute; an alias stands for its type.
    pub fn find_type(&self, name: &str) -> Result<u32> {
        let entries = &self.policy.types.entries;
        let names = self.type_names.get_or_init(|| Names::new(entries.iter().map(|entry| &*entry.name)));
        let found = names.place(name, |place| entries.get(place).map(|entry| &*entry.name));
        found
            .and_then(|place| entries.get(place))
            .map(|entry| entry.value)
            .ok_or_else(|| unknown("type or attribute", name, entries.iter().map(|entry| &*entry.name)))
    }

    /// The value of a class.
    pub fn find_class(&self, name: &str) -> Result<u32> {
        let entries = &self.policy.classes.entries;
        let found = entries.iter().find(|entry| &*entry.name == name).map(|entry| entry.value);
        found.ok_or_else(|| unknown("class", name, entries.iter().map(|entry| &*entry.name)))
    }

    /// A permission of a class as an access vector.
    pub fn find_permission(&self, class: u32, name: &str) -> Result<u32> {
        let class = self.class(class);
        let all = || class.into_iter().flat_map(|class| self.permissions(class));
        let found = all().find(|entry| &*entry.name == name).map(|entry| 1 << (entry.value - 1));
        found.ok_or_else(|| unknown("permission of this class", name, all().map(|entry| &*entry.name)))
    }

    /// The value of a boolean.
    pub fn find_boolean(&self, name: &str) -> Result<u32> {
        let entries = &self.policy.booleans.entries;
        let found = entries.iter().find(|entry| &*entry.name == name).map(|entry| entry.value);
        found.ok_or_else(|| unknown("boolean", name, entries.iter().map(|entry| &*entry.name)))
    }

    /// The value of a role.
    pub fn find_role(&self, name: &str) -> Result<u32> {
        let entries = &self.policy.roles.entries;
        let found = entries.iter().find(|entry| &*entry.name == name).map(|entry| entry.value);
        found.ok_or_else(|| unknown("role", name, entries.iter().map(|entry| &*entry.name)))
    }

    /// The value of a user.
    pub fn find_user(&self, name: &str) -> Result<u32> {
        let entries = &self.policy.users.entries;
        let found = entries.iter().find(|entry| &*entry.name == name).map(|entry| entry.value);
        found.ok_or_else(|| unknown("user", name, entries.iter().map(|entry| &*entry.name)))
    }

    /// Fails when no class has a permission of this name.
    pub fn check_permission(&self, name: &str) -> Result<()> {
        let all = || {
            let commons = self.policy.commons.entries.iter().flat_map(|common| &common.permissions.entries);
            commons.chain(self.policy.classes.entries.iter().flat_map(|class| &class.permissions.entries))
        };
        if all().any(|entry| &*entry.name == name) {
            return Ok(());
        }
        let mut names: Vec<_> = all().map(|entry| &*entry.name).collect();
        names.sort_unstable();
        names.dedup();
        Err(unknown("permission", name, names.into_iter()))
    }

    fn find_category(&self, name: &str) -> Result<u32> {
        let entries = &self.policy.categories.entries;
        let names = self.category_names.get_or_init(|| Names::new(entries.iter().map(|entry| &*entry.name)));
        let found = names.place(name, |place| entries.get(place).map(|entry| &*entry.name));
        found
            .and_then(|place| entries.get(place))
            .map(|entry| entry.value)
            .ok_or_else(|| unknown("category", name, entries.iter().map(|entry| &*entry.name)))
    }

    /// Reads `user:role:type[:range]`. The context's parts exist; whether they go together is
    /// [`Database::is_valid`].
    pub fn find_context(&self, text: &str) -> Result<Context> {
        let problem =
            |problem: &str| LookupError::Context { text: text.to_owned(), problem: problem.to_owned() };
        let mut parts = text.splitn(4, ':');
        let (Some(user), Some(role), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(problem("expected user:role:type:level"));
        };
        let (user, role, kind) = (self.find_user(user)?, self.find_role(role)?, self.find_type(kind)?);
        if self.is_attribute(kind) {
            return Err(problem("its third part is an attribute, expected a type"));
        }
        let range = match (parts.next(), self.policy.mls()) {
            (Some(range), true) => self.find_range(range)?,
            (None, false) => {
                Range { low: Level { sensitivity: 0, categories: Bitmap::default() }, high: None }
            }
            (None, true) => return Err(problem("it lacks a level, as in user:role:type:s0")),
            (Some(_), false) => return Err(problem("this policy has no levels")),
        };
        Ok(Context { user, role, kind, range })
    }

    /// Reads `low[-high]`, each `sensitivity[:categories]`.
    pub fn find_range(&self, text: &str) -> Result<Range> {
        match text.split_once('-') {
            None => Ok(Range { low: self.find_level(text)?, high: None }),
            Some((low, high)) => {
                let (low, high) = (self.find_level(low.trim())?, self.find_level(high.trim())?);
                let high = Some(high).filter(|high| *high != low);
                Ok(Range { low, high })
            }
        }
    }

    fn find_level(&self, text: &str) -> Result<Level> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let entries = &self.policy.sensitivities.entries;
        let found = entries.iter().find(|entry| &*entry.name == name);
        let found =
            found.ok_or_else(|| unknown("sensitivity", name, entries.iter().map(|entry| &*entry.name)))?;
        let mut categories = Vec::new();
        for part in rest.split(',').filter(|_| !rest.is_empty()) {
            match part.split_once('.') {
                None => categories.push(self.find_category(part)? - 1),
                Some((first, last)) => {
                    let (first, last) = (self.find_category(first)?, self.find_category(last)?);
                    if first >= last {
                        let problem = format!("the categories {part} do not ascend");
                        return Err(LookupError::Context { text: text.to_owned(), problem });
                    }
                    categories.extend(first - 1..last);
                }
            }
        }
        let categories = Bitmap::of(categories);
        Ok(Level { sensitivity: found.level.sensitivity, categories })
    }
}
