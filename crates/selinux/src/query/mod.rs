//! Search for rules, with the semantics of sesearch.

mod labels;

pub use labels::{search_ranges, search_role_allows, search_role_transitions};

use crate::{
    database::Database,
    error::LookupError,
    policy::{Bitmap, Rule, RuleKind, Step},
    text::xperm_name,
};

/// A type or attribute to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criterion {
    /// Its name.
    pub name: String,
    /// Whether only rules that name exactly this one are meant; otherwise a rule matches when it covers one of its
    /// types.
    pub direct: bool,
}

/// What to look for. Empty parts match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Kinds of rules.
    pub kinds: Vec<RuleKind>,
    /// The source.
    pub source: Option<Criterion>,
    /// The target.
    pub target: Option<Criterion>,
    /// Classes, any of them.
    pub classes: Vec<String>,
    /// Permissions, any of them. Extended rules match by `ioctl` and `nlmsg`.
    pub permissions: Vec<String>,
    /// Booleans of the rule's conditional, any of them.
    pub booleans: Vec<String>,
    /// The type that the rule gives, or an attribute of it.
    pub result: Option<String>,
}

/// A rule that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Found {
    /// A rule of the access table or of a conditional, by number.
    Rule(u32),
    /// A type transition by name: the transition, its result, the source's value.
    Named(u32, u32, u32),
}

/// A query with names looked up.
struct Search<'a> {
    database: &'a Database,
    query: &'a Query,
    source: Option<Vec<bool>>,
    target: Option<Vec<bool>>,
    classes: Vec<u32>,
    booleans: Vec<u32>,
    result: Option<Bitmap>,
    /// For each class the permissions asked for.
    vectors: Vec<u32>,
}

/// Finds rules, those of the access table first.
///
/// # Errors
/// A name that the policy does not have.
pub fn search(database: &Database, query: &Query) -> Result<Vec<Found>, LookupError> {
    let policy = database.policy();
    let classes =
        query.classes.iter().map(|name| database.find_class(name)).collect::<Result<Vec<_>, _>>()?;
    let mut vectors = vec![0; policy.classes.highest as usize + 1];
    for name in &query.permissions {
        database.check_permission(name)?;
        // A permission that none of the classes has is a mistake, too.
        if let Some(class) = classes.first()
            && !classes.iter().any(|class| database.find_permission(*class, name).is_ok())
        {
            database.find_permission(*class, name)?;
        }
        for class in &policy.classes.entries {
            for permission in database.permissions(class).filter(|one| *one.name == **name) {
                if let Some(vector) = vectors.get_mut(class.value as usize) {
                    *vector |= 1 << (permission.value - 1);
                }
            }
        }
    }
    let result = query.result.as_ref().map(|name| database.find_type(name)).transpose()?;
    let search = Search {
        database,
        query,
        source: query.source.as_ref().map(|one| database.matching(one)).transpose()?,
        target: query.target.as_ref().map(|one| database.matching(one)).transpose()?,
        classes,
        booleans: query.booleans.iter().map(|name| database.find_boolean(name)).collect::<Result<_, _>>()?,
        result: result.map(|value| database.members(value).clone()),
        vectors,
    };
    let mut found = Vec::new();
    let mut take = |numbers: &mut dyn Iterator<Item = u32>| {
        found.extend(numbers.filter(|number| search.matches(*number)).map(Found::Rule));
    };
    let chosen = |set: &Option<Vec<bool>>| -> Vec<u32> {
        let flags = set.iter().flatten().enumerate();
        flags.filter(|(_, chosen)| **chosen).map(|(value, _)| value as u32).collect()
    };
    match (&search.source, &search.target) {
        _ if database.first_search() => {
            let rules = (0..).zip(&policy.rules);
            let from = rules.filter(|(_, rule)| within(&search.source, rule.source.into()));
            take(&mut from.map(|(number, _)| number));
        }
        (Some(_), _) => {
            for value in chosen(&search.source) {
                take(&mut database.rules_from(value).iter().copied());
            }
        }
        (None, Some(_)) => {
            for value in chosen(&search.target) {
                take(&mut database.rules_to(value).iter().copied());
            }
        }
        (None, None) => take(&mut (0..policy.rules.len() as u32)),
    }
    search.named(&mut found);
    found.sort_unstable();
    Ok(found)
}

/// Whether a value is in a set that may be absent.
fn within(set: &Option<Vec<bool>>, value: u32) -> bool {
    set.as_ref().is_none_or(|set| set.get(value as usize).copied().unwrap_or(false))
}

impl Search<'_> {
    fn kind(&self, kind: RuleKind) -> bool {
        self.query.kinds.is_empty() || self.query.kinds.contains(&kind)
    }

    fn class(&self, class: u32) -> bool {
        self.classes.is_empty() || self.classes.contains(&class)
    }

    fn result(&self, value: u32) -> bool {
        self.result.as_ref().is_none_or(|members| value > 0 && members.contains(value - 1))
    }

    fn matches(&self, number: u32) -> bool {
        let Some(rule) = self.database.rule(number) else { return false };
        within(&self.source, rule.source.into())
            && within(&self.target, rule.target.into())
            && self.kind(rule.kind)
            && self.class(rule.class.into())
            && self.permission(rule)
            && (self.query.result.is_none() || rule.kind.is_type() && self.result(rule.data))
            && (self.booleans.is_empty() || self.boolean(number))
    }

    fn permission(&self, rule: &Rule) -> bool {
        if self.query.permissions.is_empty() {
            true
        } else if rule.kind.is_extended() {
            let xperm = self.database.policy().xperms.get(rule.data as usize);
            xperm
                .is_some_and(|xperm| self.query.permissions.iter().any(|name| name == xperm_name(xperm.sort)))
        } else {
            let vector = self.vectors.get(usize::from(rule.class)).copied().unwrap_or(0);
            rule.kind.is_access() && rule.permissions() & vector != 0
        }
    }

    fn boolean(&self, number: u32) -> bool {
        self.database.conditional(number).is_some_and(|(conditional, _)| {
            let mut steps = conditional.expression.iter();
            steps.any(|(step, _)| matches!(step, Step::Boolean(value) if self.booleans.contains(value)))
        })
    }

    fn named(&self, found: &mut Vec<Found>) {
        if !self.kind(RuleKind::TypeTransition)
            || !self.query.permissions.is_empty()
            || !self.query.booleans.is_empty()
        {
            return;
        }
        for (number, one) in self.database.policy().named_transitions.iter().enumerate() {
            if !within(&self.target, one.target) || !self.class(one.class) {
                continue;
            }
            for (place, (sources, result)) in one.results.iter().enumerate() {
                if self.result(*result) {
                    let sources =
                        sources.iter().map(|bit| bit + 1).filter(|value| within(&self.source, *value));
                    found.extend(sources.map(|value| Found::Named(number as u32, place as u32, value)));
                }
            }
        }
    }
}

impl Database {
    /// By value, whether a type or attribute fits: itself, or one of its types is one of the criterion's.
    fn matching(&self, criterion: &Criterion) -> Result<Vec<bool>, LookupError> {
        let value = self.find_type(&criterion.name)?;
        let mut set = vec![false; self.policy().types.highest as usize + 1];
        let mut take = |value: u32| {
            if let Some(flag) = set.get_mut(value as usize) {
                *flag = true;
            }
        };
        if criterion.direct {
            take(value);
        } else if self.is_attribute(value) {
            for kind in self.members(value).iter().map(|bit| bit + 1) {
                take(kind);
                self.attributes_of(kind).for_each(&mut take);
            }
        } else {
            take(value);
            self.attributes_of(value).for_each(take);
        }
        Ok(set)
    }

    /// A rule that was found, as sesearch prints it.
    pub fn found_text(&self, found: Found) -> String {
        let (number, place, source) = match found {
            Found::Rule(number) => return self.rule_text(number),
            Found::Named(number, place, source) => (number, place, source),
        };
        let Some(one) = self.policy().named_transitions.get(number as usize) else { return String::new() };
        let Some((_, result)) = one.results.get(place as usize) else { return String::new() };
        let (source, target) = (self.type_name(source), self.type_name(one.target));
        let class = self.class_name(one.class);
        format!("type_transition {source} {target}:{class} {} {};", self.type_name(*result), one.name)
    }
}
