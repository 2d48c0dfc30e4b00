//! The sections of one policy as texts, a line for each record: what two policies have differently is what only one of them
//! has of these.

use crate::{
    database::Database,
    decide::{same_text, text},
    policy::{Ocontexts, Policy, TypeKind},
    text::braces,
};

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

pub(super) fn names(database: &Database, kind: TypeKind) -> Vec<String> {
    let entries = database.policy().types.entries.iter();
    entries.filter(|entry| entry.kind() == kind).map(|entry| entry.name.to_string()).collect()
}

pub(super) fn aliases(database: &Database) -> Vec<String> {
    let entries = database.policy().types.entries.iter().filter(|entry| entry.kind() == TypeKind::Alias);
    entries.map(|alias| format!("{} for {}", alias.name, database.type_name(alias.value))).collect()
}

/// Whether another section already reports a type.
pub(super) type IsReported<'a> = &'a dyn Fn(&Database, u32) -> bool;

/// All that names a type other than rules, attributes and roles.
pub(super) fn about(database: &Database, value: u32) -> Vec<String> {
    let policy = database.policy();
    let mut lines = Vec::new();
    for transition in &policy.named_transitions {
        let results = transition.results.iter();
        for (source, result) in results.flat_map(|(all, result)| all.iter().map(|bit| (bit + 1, *result))) {
            if source == value || transition.target == value {
                let [source, target, result] =
                    [source, transition.target, result].map(|kind| database.type_name(kind));
                lines.push(named_text(
                    source,
                    target,
                    database.class_name(transition.class),
                    result,
                    &transition.name,
                ));
            }
        }
    }
    let elsewhere = |_: &Database, other: u32| other != value;
    lines.extend(of_ranges(database, &|source, target| source == value || target == value));
    lines.extend(of_role_transitions(database, &elsewhere));
    lines.extend(of_types(database, &elsewhere));
    lines
}

pub(super) fn named_text(source: &str, target: &str, class: &str, result: &str, name: &str) -> String {
    format!("type_transition {source} {target}:{class} {result} \"{name}\";")
}

pub(super) fn properties(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
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
    let bounded =
        policy.types.entries.iter().filter(|entry| entry.bounds != 0 && entry.kind() == TypeKind::Type);
    let bounded = bounded.filter(|entry| !is_reported(database, entry.value));
    lines.extend(
        bounded.map(|entry| format!("typebounds {} {}", database.type_name(entry.bounds), entry.name)),
    );
    lines
}

/// Classes and what they have but for constraints; not those that the other policy has just so.
pub(super) fn classes(database: &Database, other: &Database) -> Vec<String> {
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
        lines.extend(
            database.permissions(class).map(|permission| format!("class {} {}", class.name, permission.name)),
        );
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

pub(super) fn ranges(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    of_ranges(database, &|source, target| !is_reported(database, source) && !is_reported(database, target))
}

/// Range transitions by source and target.
fn of_ranges(database: &Database, wanted: &dyn Fn(u32, u32) -> bool) -> Vec<String> {
    let all = database.policy().range_transitions.iter().filter(|rule| wanted(rule.source, rule.target));
    all.map(|rule| database.range_transition_text(rule)).collect()
}

fn of_role_transitions(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    let all = database.policy().role_transitions.iter().filter(|rule| !is_reported(database, rule.kind));
    all.map(|rule| database.role_transition_text(rule)).collect()
}

pub(super) fn roles(database: &Database) -> Vec<String> {
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

pub(super) fn role_rules(database: &Database, is_reported: IsReported<'_>) -> Vec<String> {
    let allows = database.policy().role_allows.iter().map(|rule| database.role_allow_text(rule));
    allows.chain(of_role_transitions(database, is_reported)).collect()
}

pub(super) fn users(database: &Database) -> Vec<String> {
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

pub(super) fn booleans(database: &Database) -> Vec<String> {
    database
        .policy()
        .booleans
        .entries
        .iter()
        .map(|boolean| format!("{} {}", boolean.name, boolean.state))
        .collect()
}

pub(super) fn levels(database: &Database) -> Vec<String> {
    let policy = database.policy();
    let mut lines: Vec<String> = policy
        .sensitivities
        .entries
        .iter()
        .map(|entry| format!("sensitivity {} with {}", entry.name, database.level_text(&entry.level)))
        .collect();
    lines.extend(policy.categories.entries.iter().map(|entry| {
        let real = database.category_name(entry.value);
        if entry.alias { format!("category {} for {real}", entry.name) } else { format!("category {real}") }
    }));
    // The order of sensitivities counts.
    let mut order: Vec<(u32, &str)> = policy
        .sensitivities
        .entries
        .iter()
        .filter(|entry| !entry.alias)
        .map(|entry| (entry.level.sensitivity, &*entry.name))
        .collect();
    order.sort_unstable();
    let order: Vec<&str> = order.into_iter().map(|(_, name)| name).collect();
    lines.push(format!("dominance {}", braces(&order)));
    lines
}

/// Constraints as text, which for some is long; not those of classes that have the same ones in another policy in which the
/// same names have the same values.
pub(super) fn constraints(database: &Database, same_numbers: Option<&Database>) -> Vec<String> {
    let mut lines = Vec::new();
    for class in &database.policy().classes.entries {
        let same = same_numbers.and_then(|other| Some((other, other.class(class.value)?))).is_some_and(
            |(other, theirs)| {
                [(&class.constraints, &theirs.constraints), (&class.validatetrans, &theirs.validatetrans)]
                    .into_iter()
                    .all(|(mine, theirs)| {
                        let mut pairs = mine.iter().zip(theirs);
                        mine.len() == theirs.len()
                            && pairs.all(|(ours, theirs)| same_text((database, ours), (other, theirs)))
                    })
            },
        );
        if same {
            continue;
        }
        for (on_change, list) in [(false, &class.constraints), (true, &class.validatetrans)] {
            lines.extend(list.iter().map(|constraint| text(database, class.value, constraint, on_change)));
        }
    }
    lines
}

pub(super) fn contexts(database: &Database) -> Vec<String> {
    let policy: &Policy = database.policy();
    let all: &Ocontexts = &policy.ocontexts;
    let text = |context| database.context_text(context);
    let mut lines = Vec::new();
    lines.extend(all.initial.iter().map(|(number, context)| format!("sid {number} {}", text(context))));
    for (keyword, list) in [("fscon", &all.file_systems), ("netifcon", &all.interfaces)] {
        lines.extend(
            list.iter().map(|entry| {
                format!("{keyword} {} {} {}", entry.name, text(&entry.first), text(&entry.second))
            }),
        );
    }
    for port in &all.ports {
        lines.push(format!("portcon {} {}-{} {}", port.protocol, port.low, port.high, text(&port.context)));
    }
    for node in &all.nodes {
        let (address, mask) = (std::net::Ipv4Addr::from(node.address), std::net::Ipv4Addr::from(node.mask));
        lines.push(format!("nodecon {address} {mask} {}", text(&node.context)));
    }
    for node in &all.nodes6 {
        let (address, mask) = (std::net::Ipv6Addr::from(node.address), std::net::Ipv6Addr::from(node.mask));
        lines.push(format!("nodecon {address} {mask} {}", text(&node.context)));
    }
    for rule in &all.uses {
        lines.push(format!("fs_use {} {} {}", rule.behaviour, rule.name, text(&rule.context)));
    }
    for key in &all.partition_keys {
        let prefix = u64::from_be_bytes(key.prefix);
        lines.push(format!("ibpkeycon {prefix:#x} {}-{} {}", key.low, key.high, text(&key.context)));
    }
    for port in &all.endports {
        lines.push(format!("ibendportcon {} {} {}", port.name, port.port, text(&port.context)));
    }
    for system in &policy.paths {
        for path in &system.paths {
            let class = if path.class == 0 { "any class" } else { database.class_name(path.class) };
            lines.push(format!("genfscon {} {} ({class}) {}", system.name, path.path, text(&path.context)));
        }
    }
    lines
}
