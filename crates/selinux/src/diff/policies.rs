//! Two policies.

use super::{
    Difference, Line, Sign, between_types, compare,
    names::{Common, Mapped},
    rules::{differing, pairs},
};
use crate::{
    clone::is_computed,
    database::Database,
    decide::{same_text, text},
    policy::{Ocontexts, Policy, TypeKind},
    text::braces,
};
use hashbrown::HashSet;
use std::collections::{BTreeMap, BTreeSet};

/// Names of policy capabilities by number.
pub(crate) const CAPABILITIES: [&str; 14] = [
    "network_peer_controls",
    "open_perms",
    "extended_socket_class",
    "always_check_network",
    "cgroup_seclabel",
    "nnp_nosuid_transition",
    "genfs_seclabel_symlinks",
    "ioctl_skip_cloexec",
    "userspace_initial_context",
    "netlink_xperm",
    "netif_wildcard",
    "genfs_seclabel_wildcard",
    "functionfs_seclabel",
    "memfd_class",
];

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
            names: kinds_only(second, first, pairs.iter().map(|(one, two)| (*two, *one))),
        },
    ];
    let (one, two) = (first.policy(), second.policy());
    let alike = mapped[0].names_alike(&mapped[1]);
    let both = |of: &dyn Fn(&Database) -> Vec<String>| compare(of(first), of(second));
    // Records that are the same need no texts where all that they refer to has the same numbers.
    let unless = |same: bool, of: &dyn Fn(&Database) -> Vec<String>| {
        if alike && same { Vec::new() } else { both(of) }
    };
    let mut difference = Difference::default();
    // Differences that involve such a type are reported under it.
    let apart_names: HashSet<&str> = only.iter().flat_map(|one| one.names.iter().copied()).collect();
    let is_reported = |database: &Database, value: u32| apart_names.contains(database.type_name(value));
    difference.group("properties", both(&|database| properties(database, &is_reported)));
    difference.group("classes and permissions", compare(classes(first, second), classes(second, first)));
    difference.group("attributes", both(&|database| names(database, TypeKind::Attribute)));
    difference.group("aliases", both(&aliases));
    let apart: HashSet<u32> = apart_names.iter().map(|name| common.types.of(name)).collect();
    let mut groups: BTreeMap<Option<(String, bool)>, Vec<Line>> = BTreeMap::new();
    let mut of_types: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    differing(&mapped[0], &mapped[1], &pairs, alike, |key, removed, added| {
        let condition = key.condition_text(&common);
        for (sign, data) in [(Sign::Removed, removed), (Sign::Added, added)] {
            if data == 0 {
                continue;
            }
            let text = key.text(&common, data);
            let owner = [key.source(), key.target()].into_iter().find(|number| apart.contains(number));
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
                None => groups.entry(condition.clone()).or_default().push(Line { sign, text }),
            }
        }
    });
    for side in &only {
        for name in &side.names {
            let lines = side.describe(name, of_types.remove(*name).unwrap_or_default());
            let text = if side.sign == Sign::Removed { "first" } else { "second" };
            difference.group(format!("type {name}, only in the {text}"), lines);
        }
    }
    memberships(&mut difference, &mapped[0], &mapped[1], &common, &pairs, alike);
    for (condition, lines) in groups {
        difference.group(
            match condition {
                None => "rules".to_owned(),
                Some((text, true)) => format!("rules if {text}"),
                Some((text, false)) => format!("rules unless {text}"),
            },
            lines,
        );
    }
    let [left, right] = mapped;
    let mut of_roles = both(&roles);
    of_roles.extend(types_of_roles(&left, &right, &common, &apart));
    of_roles.extend(unless(
        one.role_allows == two.role_allows && one.role_transitions == two.role_transitions,
        &|database| role_rules(database, &is_reported),
    ));
    difference.group("transitions by name", named(&left, &right, &common, &apart, alike));
    let ranges = |database: &Database| ranges(database, &is_reported);
    difference.group("range transitions", unless(one.range_transitions == two.range_transitions, &ranges));
    difference.group("roles", of_roles);
    difference.group("users", unless(one.users == two.users, &users));
    difference.group("booleans", both(&booleans));
    difference.group("levels", unless(true, &levels));
    let of_constraints = |mine: &Database, other: &Database| constraints(mine, alike.then_some(other));
    let of_constraints = compare(of_constraints(first, second), of_constraints(second, first));
    difference.group("constraints", of_constraints);
    let same = one.ocontexts == two.ocontexts && one.paths == two.paths;
    difference.group("contexts of objects without labels", unless(same, &contexts));
    difference
}

fn names(database: &Database, kind: TypeKind) -> Vec<String> {
    let entries = database.policy().types.entries.iter();
    entries.filter(|one| one.kind() == kind).map(|one| one.name.to_string()).collect()
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

fn aliases(database: &Database) -> Vec<String> {
    let entries = database.policy().types.entries.iter().filter(|one| one.kind() == TypeKind::Alias);
    entries.map(|one| format!("{} for {}", one.name, database.type_name(one.value))).collect()
}

/// Whether another section already reports a type.
type IsReported<'a> = &'a dyn Fn(&Database, u32) -> bool;

/// All that names a type other than rules, attributes and roles.
fn about(database: &Database, value: u32) -> Vec<String> {
    let policy = database.policy();
    let mut lines = Vec::new();
    for one in &policy.named_transitions {
        let results = one.results.iter();
        for (source, result) in results.flat_map(|(all, result)| all.iter().map(|bit| (bit + 1, *result))) {
            if source == value || one.target == value {
                let [source, target, result] =
                    [source, one.target, result].map(|kind| database.type_name(kind));
                lines.push(named_text(source, target, database.class_name(one.class), result, &one.name));
            }
        }
    }
    let elsewhere = |_: &Database, other: u32| other != value;
    lines.extend(of_ranges(database, &|source, target| source == value || target == value));
    lines.extend(of_role_transitions(database, &elsewhere));
    lines.extend(of_types(database, &elsewhere));
    lines
}

fn named_text(source: &str, target: &str, class: &str, result: &str, name: &str) -> String {
    format!("type_transition {source} {target}:{class} {result} \"{name}\";")
}

fn properties(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    let policy = database.policy();
    let mut lines = vec![
        format!("handle_unknown {}", policy.handle_unknown().name()),
        format!("levels {}", if policy.mls() { "in force" } else { "not in force" }),
    ];
    lines.extend(policy.capabilities.iter().map(|number| match CAPABILITIES.get(number as usize) {
        Some(name) => format!("policycap {name}"),
        None => format!("policycap number {number}"),
    }));
    lines.extend(of_types(database, is_reported));
    lines
}

/// Properties of types.
fn of_types(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    let policy = database.policy();
    let mut lines = Vec::new();
    for (what, all) in [("permissive", &policy.permissive), ("neveraudit", &policy.neveraudit)] {
        let all = all.iter().filter(|value| !is_reported(database, *value));
        lines.extend(all.map(|value| format!("{what} {}", database.type_name(value))));
    }
    let bounded = policy.types.entries.iter().filter(|one| one.bounds != 0 && one.kind() == TypeKind::Type);
    let bounded = bounded.filter(|one| !is_reported(database, one.value));
    lines.extend(bounded.map(|one| format!("typebounds {} {}", database.type_name(one.bounds), one.name)));
    lines
}

/// Classes and what they have but for constraints; not those that the other policy has just so.
fn classes(database: &Database, other: &Database) -> Vec<String> {
    let mut lines = Vec::new();
    for class in &database.policy().classes.entries {
        let same = other.class(class.value).is_some_and(|theirs| {
            class.name == theirs.name
                && class.permissions == theirs.permissions
                && database.common(class) == other.common(theirs)
                && (class.default_user, class.default_role) == (theirs.default_user, theirs.default_role)
                && (class.default_type, class.default_range) == (theirs.default_type, theirs.default_range)
        });
        if same {
            continue;
        }
        lines.push(format!("class {}", class.name));
        lines.extend(database.permissions(class).map(|one| format!("class {} {}", class.name, one.name)));
        for (what, value) in [
            ("user", class.default_user),
            ("role", class.default_role),
            ("type", class.default_type),
            ("range", class.default_range),
        ] {
            let side = match (what, value) {
                (_, 0) => continue,
                ("range", 1) => "source low",
                ("range", 2) => "source high",
                ("range", 3) => "source low-high",
                ("range", 4) => "target low",
                ("range", 5) => "target high",
                ("range", 6) => "target low-high",
                ("range", _) => "glblub",
                (_, 1) => "source",
                _ => "target",
            };
            lines.push(format!("default_{what} {} {side}", class.name));
        }
    }
    lines
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
            database.attributes().filter(|one| is_computed(database.type_name(*one))).collect();
        let written = |value: u32| database.attributes_of(value).filter(|one| !computed.contains(one));
        let direct = database.rules_from(value).len();
        let mut alike: Vec<(usize, u32)> = database
            .types()
            .filter(|other| !self.names.contains(database.type_name(*other)))
            .filter(|other| !attributes.is_empty() && written(*other).eq(written(value)))
            .map(|other| (database.rules_from(other).len().abs_diff(direct), other))
            .collect();
        alike.sort_unstable();
        let best = alike.iter().take(2).map(|(_, other)| (between_types(database, *other, value), *other));
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
    alike: bool,
) {
    let attributes = |mapped: &Mapped<'_>, value: u32| -> Vec<u32> {
        let mut all: Vec<u32> =
            mapped.database.attributes_of(value).map(|value| mapped.type_number(value)).collect();
        all.sort_unstable();
        all
    };
    let (one, two) = (first.database.policy(), second.database.policy());
    let same = |value: u32| {
        let place = value as usize - 1;
        one.attribute_maps.get(place) == two.attribute_maps.get(place)
    };
    let mut groups: BTreeMap<&str, Vec<Line>> = BTreeMap::new();
    for (one, two) in pairs.iter().copied().filter(|(one, two)| *one != 0 && *two != 0) {
        let is_attribute = first.database.is_attribute(one) || second.database.is_attribute(two);
        if is_attribute || alike && same(one) {
            continue;
        }
        let (ones, twos) = (attributes(first, one), attributes(second, two));
        for (sign, mine, others) in [(Sign::Removed, &ones, &twos), (Sign::Added, &twos, &ones)] {
            for attribute in mine.iter().filter(|attribute| others.binary_search(attribute).is_err()) {
                let text = first.database.type_name(one).to_owned();
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
    apart: &HashSet<u32>,
) -> Vec<Line> {
    // The roles of a type that the other side lacks are reported under the type.
    let types = |mapped: &Mapped<'_>, name: &str| -> Vec<u32> {
        let roles = mapped.database.policy().roles.entries.iter().find(|role| &*role.name == name);
        let types = roles.into_iter().flat_map(|role| role.types.iter());
        let mut types: Vec<u32> =
            types.map(|bit| mapped.type_number(bit + 1)).filter(|number| !apart.contains(number)).collect();
        types.sort_unstable();
        types
    };
    let names = |mapped: &Mapped<'_>| -> BTreeSet<String> {
        mapped.database.policy().roles.entries.iter().map(|role| role.name.to_string()).collect()
    };
    let mut lines = Vec::new();
    for name in &names(first) | &names(second) {
        let (ones, twos) = (types(first, &name), types(second, &name));
        for (sign, mine, others) in [(Sign::Removed, &ones, &twos), (Sign::Added, &twos, &ones)] {
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
    apart: &HashSet<u32>,
    alike: bool,
) -> Vec<Line> {
    let (one, two) = (first.database.policy(), second.database.policy());
    if alike && one.named_transitions == two.named_transitions {
        return Vec::new();
    }
    /// Name, source, target, class, result.
    type Transition<'a> = (&'a str, u32, u32, u32, u32);
    fn sorted<'a>(mapped: &Mapped<'a>) -> Vec<Transition<'a>> {
        let mut all = Vec::new();
        for one in &mapped.database.policy().named_transitions {
            let (target, class) = (mapped.type_number(one.target), mapped.class_number(one.class));
            for (sources, result) in &one.results {
                let result = mapped.type_number(*result);
                let sources = sources.iter().map(|source| mapped.type_number(source + 1));
                all.extend(sources.map(|source| (&*one.name, source, target, class, result)));
            }
        }
        all.sort_unstable();
        all
    }
    let (ones, twos) = (sorted(first), sorted(second));
    let mut lines = Vec::new();
    for (sign, mine, others) in [(Sign::Removed, &ones, &twos), (Sign::Added, &twos, &ones)] {
        for one in mine.iter().filter(|one| others.binary_search(one).is_err()) {
            let (name, source, target, class, result) = *one;
            if apart.contains(&source) || apart.contains(&target) {
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

fn ranges(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    of_ranges(database, &|source, target| !is_reported(database, source) && !is_reported(database, target))
}

/// Range transitions by source and target.
fn of_ranges(database: &Database, wanted: &dyn Fn(u32, u32) -> bool) -> Vec<String> {
    let all = database.policy().range_transitions.iter().filter(|one| wanted(one.source, one.target));
    all.map(|one| database.range_transition_text(one)).collect()
}

fn of_role_transitions(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    let all = database.policy().role_transitions.iter().filter(|one| !is_reported(database, one.kind));
    all.map(|one| database.role_transition_text(one)).collect()
}

fn roles(database: &Database) -> Vec<String> {
    let policy = database.policy();
    let mut lines = Vec::new();
    for role in &policy.roles.entries {
        lines.push(format!("role {}", role.name));
        let below = role.dominates.iter().map(|bit| database.role_name(bit + 1));
        lines.extend(
            below
                .filter(|name| **name != *role.name)
                .map(|name| format!("role {} dominates {name}", role.name)),
        );
        if role.bounds != 0 {
            lines.push(format!("role {} bounded by {}", role.name, database.role_name(role.bounds)));
        }
    }
    lines
}

fn role_rules(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    let allows = database.policy().role_allows.iter().map(|one| database.role_allow_text(one));
    allows.chain(of_role_transitions(database, is_reported)).collect()
}

fn users(database: &Database) -> Vec<String> {
    let mut lines = Vec::new();
    for user in &database.policy().users.entries {
        lines.push(format!("user {}", user.name));
        lines.extend(
            user.roles.iter().map(|bit| format!("user {} roles {}", user.name, database.role_name(bit + 1))),
        );
        if database.policy().mls() {
            lines.push(format!("user {} level {}", user.name, database.level_text(&user.level)));
            lines.push(format!("user {} range {}", user.name, database.range_text(&user.range)));
        }
        if user.bounds != 0 {
            lines.push(format!("user {} bounded by {}", user.name, database.user_name(user.bounds)));
        }
    }
    lines
}

fn booleans(database: &Database) -> Vec<String> {
    database.policy().booleans.entries.iter().map(|one| format!("{} {}", one.name, one.state)).collect()
}

fn levels(database: &Database) -> Vec<String> {
    let policy = database.policy();
    let mut lines: Vec<String> = policy
        .sensitivities
        .entries
        .iter()
        .map(|one| format!("sensitivity {} with {}", one.name, database.level_text(&one.level)))
        .collect();
    lines.extend(policy.categories.entries.iter().map(|one| {
        let real = database.category_name(one.value);
        if one.alias { format!("category {} for {real}", one.name) } else { format!("category {real}") }
    }));
    // The order of sensitivities counts.
    let mut order: Vec<(u32, &str)> = policy
        .sensitivities
        .entries
        .iter()
        .filter(|one| !one.alias)
        .map(|one| (one.level.sensitivity, &*one.name))
        .collect();
    order.sort_unstable();
    let order: Vec<&str> = order.into_iter().map(|(_, name)| name).collect();
    lines.push(format!("dominance {}", braces(&order)));
    lines
}

/// Constraints as text, which for some is long; not those of classes that have the same ones in another policy in which the
/// same names have the same values.
fn constraints(database: &Database, alike: Option<&Database>) -> Vec<String> {
    let mut lines = Vec::new();
    for class in &database.policy().classes.entries {
        let same = alike.and_then(|other| Some((other, other.class(class.value)?))).is_some_and(
            |(other, theirs)| {
                [(&class.constraints, &theirs.constraints), (&class.validatetrans, &theirs.validatetrans)]
                    .into_iter()
                    .all(|(mine, theirs)| {
                        let mut both = mine.iter().zip(theirs);
                        mine.len() == theirs.len()
                            && both.all(|(one, two)| same_text((database, one), (other, two)))
                    })
            },
        );
        if same {
            continue;
        }
        for (on_change, list) in [(false, &class.constraints), (true, &class.validatetrans)] {
            lines.extend(list.iter().map(|one| text(database, class.value, one, on_change)));
        }
    }
    lines
}

fn contexts(database: &Database) -> Vec<String> {
    let policy: &Policy = database.policy();
    let all: &Ocontexts = &policy.ocontexts;
    let text = |context| database.context_text(context);
    let mut lines = Vec::new();
    lines.extend(all.initial.iter().map(|(number, one)| format!("sid {number} {}", text(one))));
    for (keyword, list) in [("fscon", &all.file_systems), ("netifcon", &all.interfaces)] {
        lines.extend(
            list.iter()
                .map(|one| format!("{keyword} {} {} {}", one.name, text(&one.first), text(&one.second))),
        );
    }
    for one in &all.ports {
        lines.push(format!("portcon {} {}-{} {}", one.protocol, one.low, one.high, text(&one.context)));
    }
    for one in &all.nodes {
        let (address, mask) = (std::net::Ipv4Addr::from(one.address), std::net::Ipv4Addr::from(one.mask));
        lines.push(format!("nodecon {address} {mask} {}", text(&one.context)));
    }
    for one in &all.nodes6 {
        let (address, mask) = (std::net::Ipv6Addr::from(one.address), std::net::Ipv6Addr::from(one.mask));
        lines.push(format!("nodecon {address} {mask} {}", text(&one.context)));
    }
    for one in &all.uses {
        lines.push(format!("fs_use {} {} {}", one.behaviour, one.name, text(&one.context)));
    }
    for one in &all.partition_keys {
        let prefix = u64::from_be_bytes(one.prefix);
        lines.push(format!("ibpkeycon {prefix:#x} {}-{} {}", one.low, one.high, text(&one.context)));
    }
    for one in &all.endports {
        lines.push(format!("ibendportcon {} {} {}", one.name, one.port, text(&one.context)));
    }
    for system in &policy.paths {
        for path in &system.paths {
            let class = if path.class == 0 { "any class" } else { database.class_name(path.class) };
            lines.push(format!("genfscon {} {} ({class}) {}", system.name, path.path, text(&path.context)));
        }
    }
    lines
}
