//! Questions that are made of what a policy has.

use ferrovirt_selinux::{
    Database,
    policy::{Level, Rule, RuleKind, Step},
    query::{Criterion, Query},
};
use serde_json::{Map, Value, json};

/// Numbers without a pattern, the same in each run (xorshift).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn one<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

pub(crate) struct Question {
    /// What setools is asked.
    pub(crate) ask: &'static str,
    /// Among the rules of roles: whether changes are meant, or who may become whom.
    pub(crate) role_transition: bool,
    pub(crate) query: Query,
    pub(crate) json: Value,
}

fn question(ask: &'static str, kinds: &[&str], query: Query) -> Question {
    let direct = [&query.source, &query.target].into_iter().flatten().any(|one| one.direct);
    let mut map = Map::new();
    map.insert("ask".to_owned(), json!(ask));
    map.insert("kinds".to_owned(), json!(kinds));
    map.insert("direct".to_owned(), json!(direct));
    for (key, value) in [
        ("source", query.source.as_ref().map(|one| json!(one.name))),
        ("target", query.target.as_ref().map(|one| json!(one.name))),
        ("tclass", (!query.classes.is_empty()).then(|| json!(query.classes))),
        ("perms", (!query.permissions.is_empty()).then(|| json!(query.permissions))),
        ("boolean", (!query.booleans.is_empty()).then(|| json!(query.booleans))),
        ("default", query.result.as_ref().map(|name| json!(name))),
    ] {
        map.extend(value.map(|value| (key.to_owned(), value)));
    }
    Question { ask, role_transition: kinds == ["role_transition"], query, json: Value::Object(map) }
}

/// The type or attribute itself, one of its types, or one of its attributes. An attribute without types is none: to
/// setools it is no criterion at all.
fn near(database: &Database, value: u32, numbers: &mut Numbers) -> String {
    let mut values = vec![value];
    if database.is_attribute(value) {
        values.extend(database.members(value).iter().map(|bit| bit + 1));
    } else {
        values.extend(database.attributes_of(value));
    }
    let other = if numbers.percent(70) { value } else { *numbers.one(&values) };
    let filled = [other, value].into_iter().find(|value| !database.members(*value).is_empty());
    let any = || database.types().next().unwrap();
    database.type_name(filled.unwrap_or_else(any)).to_owned()
}

fn permissions(database: &Database, rule: &Rule, numbers: &mut Numbers) -> Vec<String> {
    if rule.kind.is_extended() {
        return vec!["ioctl".to_owned()];
    }
    let names = if numbers.percent(70) {
        database.permission_names(rule.class.into(), rule.permissions())
    } else {
        database.permission_names(rule.class.into(), u32::MAX)
    };
    if names.is_empty() {
        return Vec::new();
    }
    let count = 1 + numbers.below(2);
    let mut chosen: Vec<String> = (0..count).map(|_| (*numbers.one(&names)).to_owned()).collect();
    chosen.dedup();
    chosen
}

/// A question about rules that has, most of the time, the rule in its answer that it is made of.
pub(crate) fn rule_question(database: &Database, numbers: &mut Numbers) -> Question {
    let policy = database.policy();
    // Half of the questions come from conditional rules and from kinds that are rare.
    let number = match numbers.below(4) {
        0 => numbers.below(policy.rules.len() - policy.unconditional) + policy.unconditional,
        1 => {
            let kind = *numbers.one(&RuleKind::ALL);
            let rare: Vec<usize> =
                (0..policy.rules.len()).filter(|number| policy.rules[*number].kind == kind).collect();
            if rare.is_empty() { numbers.below(policy.rules.len()) } else { *numbers.one(&rare) }
        }
        _ => numbers.below(policy.rules.len()),
    };
    let rule = policy.rules[number];
    let kinds: Vec<RuleKind> = match numbers.below(4) {
        0 if rule.kind == RuleKind::Allow => vec![RuleKind::Allow, RuleKind::AllowXperm],
        1 => RuleKind::ALL.into_iter().filter(|kind| kind.is_type() == rule.kind.is_type()).collect(),
        2 => RuleKind::ALL.into_iter().filter(|kind| kind.is_extended() == rule.kind.is_extended()).collect(),
        _ => vec![rule.kind],
    };
    let direct = numbers.percent(25);
    let criterion = |name| Some(Criterion { name, direct });
    let mut query = Query { kinds: kinds.clone(), ..Query::default() };
    if numbers.percent(75) {
        query.source = criterion(near(database, rule.source.into(), numbers));
    }
    if query.source.is_none() || numbers.percent(50) {
        query.target = criterion(near(database, rule.target.into(), numbers));
    }
    if numbers.percent(40) {
        query.classes.push(database.class_name(rule.class.into()).to_owned());
        if numbers.percent(30) {
            let other = &numbers.one(&policy.classes.entries).name;
            query.classes.push(other.to_string());
        }
    }
    if !rule.kind.is_type() && numbers.percent(35) {
        query.permissions = permissions(database, &rule, numbers);
    }
    if let Some((conditional, _)) = database.conditional(number as u32)
        && numbers.percent(50)
    {
        let booleans = conditional.expression.iter().filter_map(|(step, _)| match step {
            Step::Boolean(value) => database.boolean(*value).map(|one| one.name.to_string()),
            _ => None,
        });
        query.booleans = booleans.take(1 + numbers.below(2)).collect();
    }
    if rule.kind.is_type() && numbers.percent(40) {
        query.result = Some(near(database, rule.data, numbers));
    }
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    question("rules", &names, query)
}

/// A question about changes of ranges, changes of roles, or roles that may become others.
pub(crate) fn label_question(database: &Database, numbers: &mut Numbers) -> Question {
    let policy = database.policy();
    let exact = |name: String| Some(Criterion { name, direct: false });
    let mut query = Query::default();
    match numbers.below(3) {
        0 if !policy.range_transitions.is_empty() => {
            let one = numbers.one(&policy.range_transitions);
            let direct = numbers.percent(25);
            let criterion = |name| Some(Criterion { name, direct });
            if numbers.percent(60) {
                query.source = criterion(near(database, one.source, numbers));
            }
            if numbers.percent(40) {
                query.target = criterion(near(database, one.target, numbers));
            }
            if numbers.percent(30) {
                query.classes = vec![database.class_name(one.class).to_owned()];
            }
            // To setools 4.4 no two levels with categories are equal.
            let plain = |level: &Level| level.categories.is_empty();
            if plain(&one.range.low) && plain(one.range.high()) && numbers.percent(50) {
                query.result = Some(database.range_text(&one.range));
            }
            question("ranges", &["range_transition"], query)
        }
        1 if !policy.role_transitions.is_empty() => {
            let one = numbers.one(&policy.role_transitions);
            if numbers.percent(50) {
                query.source = exact(database.role_name(one.role).to_owned());
            }
            if numbers.percent(50) {
                query.target = exact(near(database, one.kind, numbers));
            }
            if numbers.percent(30) {
                query.classes = vec![database.class_name(one.class).to_owned()];
            }
            if numbers.percent(30) {
                query.result = Some(database.role_name(one.result).to_owned());
            }
            question("roles", &["role_transition"], query)
        }
        _ => {
            let one = numbers.one(&policy.role_allows);
            if numbers.percent(60) {
                query.source = exact(database.role_name(one.old).to_owned());
            }
            if numbers.percent(40) {
                query.target = exact(database.role_name(one.new).to_owned());
            }
            question("roles", &["allow"], query)
        }
    }
}
