//! Whether what a policy refers to exists.

use super::{Bitmap, Constraint, Context, Expression, Level, Operand, Policy, Range, Rule, Step, TypeKind};
use crate::error::InvalidPolicy;
use hashbrown::HashSet;

type Result = std::result::Result<(), InvalidPolicy>;

/// Attributes of roles that a policy may have had: several times as many as Debian's. The values of roles tell how much memory is
/// needed for them, so that without a bound a small file could ask for a lot.
const MOST_ROLE_ATTRIBUTES: usize = 1024;
/// Types are 16 bits wide in rules, so nothing can have more.
const MOST: u32 = u16::MAX as u32;

pub(super) fn policy(policy: &Policy) -> Result {
    tables(policy)?;
    classes(policy)?;
    let types = policy.types.highest;
    for (what, set) in [("permissive types", &policy.permissive), ("never audited types", &policy.neveraudit)]
    {
        // In these two maps the bit is the value itself.
        if let Some(value) = set.highest().filter(|value| *value > types).or(set.contains(0).then_some(0)) {
            return Err(missing(what.to_owned(), "type", value, types));
        }
    }
    for role in &policy.roles.entries {
        let place = || format!("role {}", role.name);
        bits(&role.types, "type", types, place)?;
        bits(&role.dominates, "role", policy.roles.highest, place)?;
        bounds(role.bounds, "role", policy.roles.highest, place)?;
    }
    for user in &policy.users.entries {
        let place = || format!("user {}", user.name);
        bits(&user.roles, "role", policy.roles.highest, place)?;
        bounds(user.bounds, "user", policy.users.highest, place)?;
        range(policy, &user.range, place)?;
        level(policy, &user.level, place)?;
    }
    for sensitivity in &policy.sensitivities.entries {
        level(policy, &sensitivity.level, || format!("sensitivity {}", sensitivity.name))?;
    }
    for (number, checked) in policy.rules.iter().enumerate() {
        rule(policy, checked, number)?;
    }
    for (number, conditional) in policy.conditionals.iter().enumerate() {
        let place = || format!("conditional {number}");
        let mut depth = 0_usize;
        for (step, _) in &conditional.expression {
            let needed = match step {
                Step::Boolean(value) => {
                    reference(*value, "boolean", policy.booleans.highest, place)?;
                    0
                }
                Step::Not => 1,
                _ => 2,
            };
            depth = postfix(depth, needed, place)?;
        }
        end(depth, place)?;
    }
    transitions(policy)?;
    ocontexts(policy)?;
    for (number, map) in policy.attribute_maps.iter().enumerate() {
        bits(map, "type", types, || format!("attribute map of type {}", number + 1))?;
    }
    bounds_end(policy)
}

fn missing(place: String, table: &'static str, value: u32, highest: u32) -> InvalidPolicy {
    InvalidPolicy::Reference { place, table, value, highest }
}

fn problem(place: String, problem: &str) -> InvalidPolicy {
    InvalidPolicy::Record { place, problem: problem.to_owned() }
}

fn reference(value: u32, table: &'static str, highest: u32, place: impl Fn() -> String) -> Result {
    if value == 0 || value > highest { Err(missing(place(), table, value, highest)) } else { Ok(()) }
}

fn bounds(value: u32, table: &'static str, highest: u32, place: impl Fn() -> String) -> Result {
    if value > highest { Err(missing(place(), table, value, highest)) } else { Ok(()) }
}

fn bits(set: &Bitmap, table: &'static str, highest: u32, place: impl Fn() -> String) -> Result {
    match set.highest() {
        Some(bit) if bit >= highest => Err(missing(place(), table, bit.saturating_add(1), highest)),
        _ => Ok(()),
    }
}

fn level(policy: &Policy, level: &Level, place: impl Fn() -> String) -> Result {
    // Without levels the file has them all the same, as zeros that mean nothing.
    if !policy.mls() {
        return Ok(());
    }
    reference(level.sensitivity, "sensitivity", policy.sensitivities.highest, &place)?;
    bits(&level.categories, "category", policy.categories.highest, place)
}

fn range(policy: &Policy, range: &Range, place: impl Fn() -> String) -> Result {
    level(policy, &range.low, &place)?;
    level(policy, range.high(), place)
}

fn context(policy: &Policy, context: &Context, place: impl Fn() -> String) -> Result {
    reference(context.user, "user", policy.users.highest, &place)?;
    reference(context.role, "role", policy.roles.highest, &place)?;
    reference(context.kind, "type", policy.types.highest, &place)?;
    range(policy, &context.range, place)
}

/// Takes `needed` results from the stack and puts one on it.
fn postfix(
    depth: usize,
    needed: usize,
    place: impl Fn() -> String,
) -> std::result::Result<usize, InvalidPolicy> {
    depth
        .checked_sub(needed)
        .map(|left| left + 1)
        .ok_or_else(|| problem(place(), "an operator lacks its operands"))
}

fn end(depth: usize, place: impl Fn() -> String) -> Result {
    if depth == 1 { Ok(()) } else { Err(problem(place(), "the expression has not exactly one result")) }
}

/// Each value from 1 to the highest has exactly one entry (aliases and holes apart), and names are not used twice.
fn tables(policy: &Policy) -> Result {
    table(
        "common",
        policy.commons.highest,
        policy.commons.entries.iter().map(|common| (&*common.name, common.value, false)),
    )?;
    table(
        "class",
        policy.classes.highest,
        policy.classes.entries.iter().map(|class| (&*class.name, class.value, false)),
    )?;
    table(
        "role",
        policy.roles.highest,
        policy.roles.entries.iter().map(|role| (&*role.name, role.value, false)),
    )?;
    let types = policy.types.entries.iter();
    table(
        "type",
        policy.types.highest,
        types.map(|entry| (&*entry.name, entry.value, entry.kind() == TypeKind::Alias)),
    )?;
    table(
        "user",
        policy.users.highest,
        policy.users.entries.iter().map(|user| (&*user.name, user.value, false)),
    )?;
    table(
        "boolean",
        policy.booleans.highest,
        policy.booleans.entries.iter().map(|boolean| (&*boolean.name, boolean.value, false)),
    )?;
    let sensitivities = policy.sensitivities.entries.iter();
    table(
        "sensitivity",
        policy.sensitivities.highest,
        sensitivities.map(|entry| (&*entry.name, entry.level.sensitivity, entry.alias)),
    )?;
    let categories = policy.categories.entries.iter();
    table(
        "category",
        policy.categories.highest,
        categories.map(|category| (&*category.name, category.value, category.alias)),
    )
}

fn table<'a>(
    table: &'static str,
    highest: u32,
    entries: impl ExactSizeIterator<Item = (&'a str, u32, bool)>,
) -> Result {
    let wrong = |problem: String| Err(InvalidPolicy::Table { table, problem });
    // Compilers count aliases of sensitivities and categories, and attributes of roles, which they then leave out: their
    // values have no entry.
    let holes = matches!(table, "sensitivity" | "category" | "role");
    let without_entry = if table == "role" { MOST_ROLE_ATTRIBUTES } else { 0 };
    if highest as usize > entries.len() + without_entry || highest > MOST {
        return wrong(format!("the highest value is {highest}, but there are {} entries", entries.len()));
    }
    let mut seen = vec![false; highest as usize + 1];
    let mut names = HashSet::with_capacity(entries.len());
    for (name, value, alias) in entries {
        match seen.get_mut(value as usize).filter(|_| value > 0) {
            None => return wrong(format!("{name} has the value {value}, the highest is {highest}")),
            Some(true) if !alias => {
                return wrong(format!("{name} shares the value {value} with another one"));
            }
            Some(seen) => *seen |= !alias,
        }
        if !names.insert(name) {
            return wrong(format!("the name {name} is there twice"));
        }
    }
    if holes {
        return Ok(());
    }
    match seen.iter().skip(1).position(|seen| !seen) {
        Some(hole) => wrong(format!("no entry has the value {}", hole + 1)),
        None => Ok(()),
    }
}

fn classes(policy: &Policy) -> Result {
    for common in &policy.commons.entries {
        let entries =
            common.permissions.entries.iter().map(|permission| (&*permission.name, permission.value, false));
        if common.permissions.highest > 32 {
            return Err(problem(format!("common {}", common.name), "more than 32 permissions"));
        }
        table("permission of a common", common.permissions.highest, entries)?;
    }
    for class in &policy.classes.entries {
        let place = || format!("class {}", class.name);
        let inherited: &[_] = if class.common.is_empty() {
            &[]
        } else {
            let common = policy.commons.entries.iter().find(|common| common.name == class.common);
            &common.ok_or_else(|| problem(place(), "its common does not exist"))?.permissions.entries
        };
        if class.permissions.highest > 32 {
            return Err(problem(place(), "more than 32 permissions"));
        }
        let all: Vec<_> = inherited.iter().chain(&class.permissions.entries).collect();
        table(
            "permission of a class",
            class.permissions.highest,
            all.iter().map(|entry| (&*entry.name, entry.value, false)),
        )?;
        for checked in &class.constraints {
            constraint(policy, checked, false, place)?;
        }
        for checked in &class.validatetrans {
            constraint(policy, checked, true, place)?;
        }
        for (what, value, most) in [
            ("user", class.default_user, 2),
            ("role", class.default_role, 2),
            ("type", class.default_type, 2),
            ("range", class.default_range, 7),
        ] {
            if value > most {
                return Err(problem(
                    place(),
                    &format!("its default {what} is {value}, the highest is {most}"),
                ));
            }
        }
    }
    Ok(())
}

fn constraint(policy: &Policy, constraint: &Constraint, third: bool, place: impl Fn() -> String) -> Result {
    let mut depth = 0;
    for step in &constraint.expression {
        let needed = match step {
            Expression::Not(_) => 1,
            Expression::And(_) | Expression::Or(_) => 2,
            Expression::Compare { operand, .. } => {
                let levels = Operand::L1_L2..=Operand::L2_H2;
                let plain = [Operand::USER, Operand::ROLE, Operand::TYPE].contains(&operand.0);
                let level = operand.0.is_power_of_two() && levels.contains(&operand.0);
                if !(plain || level) {
                    return Err(problem(place(), "a constraint compares something unknown"));
                }
                0
            }
            Expression::Names { operand, set, .. } => {
                let most = match operand.0 & 7 {
                    Operand::USER => policy.users.highest,
                    Operand::ROLE => policy.roles.highest,
                    Operand::TYPE => policy.types.highest,
                    _ => return Err(problem(place(), "a constraint compares names with something unknown")),
                };
                let side = operand.0 & !7;
                if !(side == 0 || side == Operand::TARGET || side == Operand::THIRD && third) {
                    return Err(problem(place(), "a constraint compares names with something unknown"));
                }
                bits(&set.names, "name of a constraint", most, &place)?;
                bits(&set.written, "type", policy.types.highest, &place)?;
                bits(&set.negated, "type", policy.types.highest, &place)?;
                0
            }
        };
        depth = postfix(depth, needed, &place)?;
    }
    end(depth, place)
}

fn rule(policy: &Policy, rule: &Rule, number: usize) -> Result {
    let place = || format!("access rule {number}");
    reference(rule.source.into(), "type", policy.types.highest, place)?;
    reference(rule.target.into(), "type", policy.types.highest, place)?;
    reference(rule.class.into(), "class", policy.classes.highest, place)?;
    if rule.kind.is_type() {
        reference(rule.data, "type", policy.types.highest, place)?;
    }
    Ok(())
}

fn transitions(policy: &Policy) -> Result {
    let (types, classes, roles) = (policy.types.highest, policy.classes.highest, policy.roles.highest);
    for (number, rule) in policy.role_transitions.iter().enumerate() {
        let place = || format!("role transition {number}");
        reference(rule.role, "role", roles, place)?;
        reference(rule.result, "role", roles, place)?;
        reference(rule.kind, "type", types, place)?;
        reference(rule.class, "class", classes, place)?;
    }
    for (number, rule) in policy.role_allows.iter().enumerate() {
        let place = || format!("role allow {number}");
        reference(rule.old, "role", roles, place)?;
        reference(rule.new, "role", roles, place)?;
    }
    for transition in &policy.named_transitions {
        let place = || format!("transition for the name \"{}\"", transition.name);
        reference(transition.target, "type", types, place)?;
        reference(transition.class, "class", classes, place)?;
        for (sources, result) in &transition.results {
            bits(sources, "type", types, place)?;
            reference(*result, "type", types, place)?;
        }
    }
    for (number, rule) in policy.range_transitions.iter().enumerate() {
        let place = || format!("range transition {number}");
        reference(rule.source, "type", types, place)?;
        reference(rule.target, "type", types, place)?;
        reference(rule.class, "class", classes, place)?;
        range(policy, &rule.range, place)?;
    }
    Ok(())
}

fn ocontexts(policy: &Policy) -> Result {
    let all = &policy.ocontexts;
    for (number, initial) in &all.initial {
        context(policy, initial, || format!("initial context {number}"))?;
    }
    for entry in all.file_systems.iter().chain(&all.interfaces) {
        context(policy, &entry.first, || format!("context of {}", entry.name))?;
        context(policy, &entry.second, || format!("context of {}", entry.name))?;
    }
    for port in &all.ports {
        context(policy, &port.context, || format!("context of port {}", port.low))?;
    }
    for node in &all.nodes {
        context(policy, &node.context, || "context of a node".to_owned())?;
    }
    for node in &all.nodes6 {
        context(policy, &node.context, || "context of an IPv6 node".to_owned())?;
    }
    for rule in &all.uses {
        context(policy, &rule.context, || format!("context of the file system {}", rule.name))?;
    }
    for key in &all.partition_keys {
        context(policy, &key.context, || "context of a partition key".to_owned())?;
    }
    for port in &all.endports {
        context(policy, &port.context, || format!("context of the InfiniBand port {}", port.name))?;
    }
    for system in &policy.paths {
        for path in &system.paths {
            let place = || format!("path {} of {}", path.path, system.name);
            bounds(path.class, "class", policy.classes.highest, place)?;
            context(policy, &path.context, place)?;
        }
    }
    Ok(())
}

/// Bounds must not go round in a circle.
fn bounds_end(policy: &Policy) -> Result {
    let mut parents = vec![0; policy.types.highest as usize + 1];
    for entry in &policy.types.entries {
        let place = || format!("type {}", entry.name);
        bounds(entry.bounds, "type", policy.types.highest, place)?;
        if entry.kind() == TypeKind::Type
            && let Some(parent) = parents.get_mut(entry.value as usize)
        {
            *parent = entry.bounds;
        }
    }
    for entry in policy.types.entries.iter().filter(|entry| entry.bounds != 0) {
        let (mut at, mut steps) = (entry.value, 0);
        while at != 0 {
            at = parents.get(at as usize).copied().unwrap_or(0);
            steps += 1;
            // The kernel gives up at the same depth.
            if steps > 8 {
                return Err(problem(
                    format!("type {}", entry.name),
                    "its bounds are nested deeper than 8 or go in a circle",
                ));
            }
        }
    }
    Ok(())
}
