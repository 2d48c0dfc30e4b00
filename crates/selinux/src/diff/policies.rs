//! Two policies.

use super::{
    Difference, Line, Sign, between_types, compare,
    names::{Common, Mapped},
    rules::{differing, pairs},
    sections::{
        about, aliases, booleans, classes, constraints, contexts, levels, named_text, names, properties,
        ranges, role_rules, roles, users,
    },
};
use crate::{clone::is_computed, database::Database, policy::TypeKind, text::braces};
use hashbrown::HashSet;
use std::collections::{BTreeMap, BTreeSet};

/// Types that only one side has, by name.
struct Only<'a> {
    sign: Sign,
    database: &'a Database,
    names: BTreeSet<&'a str>,
}

/// Compares two policies by meaning: the order of records, the numbers of names and the version of the format do not
/// count. Neither does the order of contexts of ports and nodes that overlap, in which the kernel looks at them.
pub fn between_policies(first: &Database, second: &Database) -> Difference {
    let mut common = Common::default();
    let mapped = [Mapped::new(first, &mut common), Mapped::new(second, &mut common)];
    let pairs = pairs(&mapped[0], &mapped[1]);
    let only = [
        Only {
            sign: Sign::Removed,
            database: first,
            names: kinds_only(first, second, pairs.iter().copied()),
        },
        Only {
            sign: Sign::Added,
            database: second,
            names: kinds_only(second, first, pairs.iter().map(|(first, second)| (*second, *first))),
        },
    ];
    let same_numbers = mapped[0].has_same_numbers(&mapped[1]);
    let compared = |section: &dyn Fn(&Database) -> Vec<String>| compare(section(first), section(second));
    // Records that are equal need no texts where all that they refer to has the same numbers.
    let compared_unless = |equal: bool, section: &dyn Fn(&Database) -> Vec<String>| {
        if same_numbers && equal { Vec::new() } else { compared(section) }
    };
    let mut difference = Difference::default();
    // Differences that involve such a type are reported under it.
    let reported_names: HashSet<&str> = only.iter().flat_map(|side| side.names.iter().copied()).collect();
    let is_reported = |database: &Database, value: u32| reported_names.contains(database.type_name(value));
    difference.group("properties", compared(&|database| properties(database, &is_reported)));
    difference.group("classes and permissions", compare(classes(first, second), classes(second, first)));
    difference.group("attributes", compared(&|database| names(database, TypeKind::Attribute)));
    difference.group("aliases", compared(&aliases));
    let reported: HashSet<u32> = reported_names.iter().map(|name| common.types.of(name)).collect();
    let mut rules = Rules::of(&mapped, &common, &pairs, &reported, same_numbers);
    for side in &only {
        for name in &side.names {
            let lines = side.describe(name, rules.of_types.remove(*name).unwrap_or_default());
            let text = if side.sign == Sign::Removed { "first" } else { "second" };
            difference.group(format!("type {name}, only in the {text}"), lines);
        }
    }
    memberships(&mut difference, &mapped[0], &mapped[1], &common, &pairs, same_numbers);
    for (condition, lines) in rules.by_condition {
        difference.group(
            match condition {
                None => "rules".to_owned(),
                Some((text, true)) => format!("rules if {text}"),
                Some((text, false)) => format!("rules unless {text}"),
            },
            lines,
        );
    }
    let (left, right) = (first.policy(), second.policy());
    let mut of_roles = compared(&roles);
    of_roles.extend(types_of_roles(&mapped[0], &mapped[1], &common, &reported));
    of_roles.extend(compared_unless(
        left.role_allows == right.role_allows && left.role_transitions == right.role_transitions,
        &|database| role_rules(database, &is_reported),
    ));
    difference.group("transitions by name", named(&mapped[0], &mapped[1], &common, &reported, same_numbers));
    let ranges = |database: &Database| ranges(database, &is_reported);
    difference.group(
        "range transitions",
        compared_unless(left.range_transitions == right.range_transitions, &ranges),
    );
    difference.group("roles", of_roles);
    difference.group("users", compared_unless(left.users == right.users, &users));
    difference.group("booleans", compared(&booleans));
    difference.group("levels", compared_unless(true, &levels));
    let of_constraints = |mine: &Database, other: &Database| constraints(mine, same_numbers.then_some(other));
    let of_constraints = compare(of_constraints(first, second), of_constraints(second, first));
    difference.group("constraints", of_constraints);
    let equal = left.ocontexts == right.ocontexts && left.paths == right.paths;
    difference.group("contexts of objects without labels", compared_unless(equal, &contexts));
    difference
}

/// Rules that only one side has.
struct Rules {
    /// Of types that both sides have, by the condition and the branch in which they stand.
    by_condition: BTreeMap<Option<(String, bool)>, Vec<Line>>,
    /// Of types that have a section of their own, by the type.
    of_types: BTreeMap<String, Vec<Line>>,
}

impl Rules {
    fn of(
        [first, second]: &[Mapped<'_>; 2],
        common: &Common<'_>,
        pairs: &[(u32, u32)],
        reported: &HashSet<u32>,
        same_numbers: bool,
    ) -> Self {
        let mut by_condition: BTreeMap<Option<(String, bool)>, Vec<Line>> = BTreeMap::new();
        let mut of_types: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        differing(first, second, pairs, same_numbers, |key, removed, added| {
            let condition = key.condition_text(common);
            for (sign, data) in [(Sign::Removed, removed), (Sign::Added, added)] {
                if data == 0 {
                    continue;
                }
                let text = key.text(common, data);
                let owner = [key.source(), key.target()].into_iter().find(|number| reported.contains(number));
                match owner {
                    Some(owner) => {
                        let text = match &condition {
                            Some((condition, branch)) => format!("{text} [ {condition} ]:{branch}"),
                            None => text,
                        };
                        of_types
                            .entry(common.types.name(owner).to_owned())
                            .or_default()
                            .push(Line { sign, text });
                    }
                    None => by_condition.entry(condition.clone()).or_default().push(Line { sign, text }),
                }
            }
        });
        Self { by_condition, of_types }
    }
}

/// Names of types that the other policy does not have, of pairs of values in this one and the other.
fn kinds_only<'a>(
    database: &'a Database,
    other: &Database,
    pairs: impl Iterator<Item = (u32, u32)>,
) -> BTreeSet<&'a str> {
    pairs
        .filter(|(mine, theirs)| {
            let is_type = |database: &Database, value| value != 0 && !database.is_attribute(value);
            is_type(database, *mine) && !is_type(other, *theirs)
        })
        .map(|(mine, _)| database.type_name(mine))
        .collect()
}

impl Only<'_> {
    fn text(&self, text: String) -> Line {
        Line { sign: self.sign, text }
    }

    /// A type that only this side has: like another type except for some rules, or all of its rules.
    fn describe(&self, name: &str, rules: Vec<Line>) -> Vec<Line> {
        let database = self.database;
        let Ok(value) = database.find_type(name) else { return rules };
        let attributes: Vec<u32> = database.attributes_of(value).collect();
        // Compilers compute some attributes again for each policy.
        let computed: HashSet<u32> =
            database.attributes().filter(|attribute| is_computed(database.type_name(*attribute))).collect();
        let written =
            |value: u32| database.attributes_of(value).filter(|attribute| !computed.contains(attribute));
        let direct = database.rules_from(value).len();
        let mut candidates: Vec<(usize, u32)> = database
            .types()
            .filter(|other| !self.names.contains(database.type_name(*other)))
            .filter(|other| !attributes.is_empty() && written(*other).eq(written(value)))
            .map(|other| (database.rules_from(other).len().abs_diff(direct), other))
            .collect();
        candidates.sort_unstable();
        let best =
            candidates.iter().take(2).map(|(_, other)| (between_types(database, *other, value), *other));
        let best = best.min_by_key(|(between, _)| between.accesses.len());
        if let Some((between, other)) = best
            && between.accesses.len() < rules.len().max(1)
        {
            let other = database.type_name(other);
            let grouped = between.grouped(other, name);
            let mut lines = vec![self.text(format!(
                "as {other} in all respects{}",
                if grouped.is_empty() { "" } else { " but:" }
            ))];
            for group in grouped.groups {
                for line in group.lines {
                    let text = match line.sign {
                        Sign::Added => format!("more than {other}: {}", line.text),
                        Sign::Removed => format!("less than {other}: {}", line.text),
                    };
                    let cause = match group.cause.strip_prefix("rules with only ") {
                        None => Some(&*group.cause),
                        // Only the condition of such rules is not in their text.
                        Some(rest) => rest.split_once(", ").map(|(_, condition)| condition),
                    };
                    lines.push(self.text(match cause {
                        None => text,
                        Some(cause) => format!("{text} ({cause})"),
                    }));
                }
            }
            return lines;
        }
        let names: Vec<&str> = attributes.iter().map(|value| database.type_name(*value)).collect();
        let mut lines = rules;
        if !names.is_empty() {
            lines.push(self.text(format!("attributes {}", braces(&names))));
        }
        let all = database.policy().roles.entries.iter();
        let roles: Vec<&str> =
            all.filter(|role| role.types.contains(value - 1)).map(|role| &*role.name).collect();
        if !roles.is_empty() {
            lines.push(self.text(format!("roles {}", braces(&roles))));
        }
        lines.extend(about(database, value).into_iter().map(|text| self.text(text)));
        lines.push(self.text(format!("type {name}")));
        lines
    }
}

/// Types of both sides that are in an attribute on one side only.
fn memberships(
    difference: &mut Difference,
    first: &Mapped<'_>,
    second: &Mapped<'_>,
    common: &Common<'_>,
    pairs: &[(u32, u32)],
    same_numbers: bool,
) {
    let attributes = |mapped: &Mapped<'_>, value: u32| -> Vec<u32> {
        let mut all: Vec<u32> =
            mapped.database.attributes_of(value).map(|value| mapped.type_number(value)).collect();
        all.sort_unstable();
        all
    };
    let maps = [first, second].map(|side| &side.database.policy().attribute_maps);
    let same = |value: u32| {
        let place = value as usize - 1;
        maps[0].get(place) == maps[1].get(place)
    };
    let mut groups: BTreeMap<&str, Vec<Line>> = BTreeMap::new();
    for (left, right) in pairs.iter().copied().filter(|(left, right)| *left != 0 && *right != 0) {
        let is_attribute = first.database.is_attribute(left) || second.database.is_attribute(right);
        if is_attribute || same_numbers && same(left) {
            continue;
        }
        let (lefts, rights) = (attributes(first, left), attributes(second, right));
        for (sign, mine, others) in [(Sign::Removed, &lefts, &rights), (Sign::Added, &rights, &lefts)] {
            for attribute in mine.iter().filter(|attribute| others.binary_search(attribute).is_err()) {
                let text = first.database.type_name(left).to_owned();
                groups.entry(common.types.name(*attribute)).or_default().push(Line { sign, text });
            }
        }
    }
    for (attribute, lines) in groups {
        difference.group(format!("members of {attribute}"), lines);
    }
}

/// Types of both sides that a role may have on one side only.
fn types_of_roles(
    first: &Mapped<'_>,
    second: &Mapped<'_>,
    common: &Common<'_>,
    reported: &HashSet<u32>,
) -> Vec<Line> {
    // The roles of a type that the other side lacks are reported under the type.
    let types = |mapped: &Mapped<'_>, name: &str| -> Vec<u32> {
        let roles = mapped.database.policy().roles.entries.iter().find(|role| &*role.name == name);
        let types = roles.into_iter().flat_map(|role| role.types.iter());
        let mut types: Vec<u32> = types
            .map(|bit| mapped.type_number(bit + 1))
            .filter(|number| !reported.contains(number))
            .collect();
        types.sort_unstable();
        types
    };
    let names = |mapped: &Mapped<'_>| -> BTreeSet<String> {
        mapped.database.policy().roles.entries.iter().map(|role| role.name.to_string()).collect()
    };
    let mut lines = Vec::new();
    for name in &names(first) | &names(second) {
        let (lefts, rights) = (types(first, &name), types(second, &name));
        for (sign, mine, others) in [(Sign::Removed, &lefts, &rights), (Sign::Added, &rights, &lefts)] {
            for number in mine.iter().filter(|number| others.binary_search(number).is_err()) {
                lines.push(Line { sign, text: format!("role {name} types {}", common.types.name(*number)) });
            }
        }
    }
    lines
}

fn named(
    first: &Mapped<'_>,
    second: &Mapped<'_>,
    common: &Common<'_>,
    reported: &HashSet<u32>,
    same_numbers: bool,
) -> Vec<Line> {
    let transitions = [first, second].map(|side| &side.database.policy().named_transitions);
    if same_numbers && transitions[0] == transitions[1] {
        return Vec::new();
    }
    /// Name, source, target, class, result.
    type Transition<'a> = (&'a str, u32, u32, u32, u32);
    fn sorted<'a>(mapped: &Mapped<'a>) -> Vec<Transition<'a>> {
        let mut all = Vec::new();
        for rule in &mapped.database.policy().named_transitions {
            let (target, class) = (mapped.type_number(rule.target), mapped.class_number(rule.class));
            for (sources, result) in &rule.results {
                let result = mapped.type_number(*result);
                let sources = sources.iter().map(|source| mapped.type_number(source + 1));
                all.extend(sources.map(|source| (&*rule.name, source, target, class, result)));
            }
        }
        all.sort_unstable();
        all
    }
    let (lefts, rights) = (sorted(first), sorted(second));
    let mut lines = Vec::new();
    for (sign, mine, others) in [(Sign::Removed, &lefts, &rights), (Sign::Added, &rights, &lefts)] {
        for transition in mine.iter().filter(|transition| others.binary_search(transition).is_err()) {
            let (name, source, target, class, result) = *transition;
            if reported.contains(&source) || reported.contains(&target) {
                continue;
            }
            let [source, target, result] = [source, target, result].map(|number| common.types.name(number));
            let class = common.classes.name(class);
            let text = named_text(source, target, class, result, name);
            lines.push(Line { sign, text });
        }
    }
    lines
}
