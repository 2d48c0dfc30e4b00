//! `ferrovirt selinux types`, `attributes`, `classes` and `booleans`: what a policy has.

use super::{Answer, Source, answer, lines, source::load};
use anyhow::{anyhow, bail};
use clap::Args;
use ferrovirt_selinux::policy::{Class, TypeKind};
use serde_json::json;
use std::{collections::BTreeMap, fmt::Write as _};

#[derive(Args)]
pub(super) struct Listing {
    #[command(flatten)]
    source: Source,
    /// Only this one, with its details
    name: Option<String>,
}

/// Types, or one of them.
pub(super) fn types(options: &Listing) -> Answer {
    of_kind(options, TypeKind::Type)
}

/// Attributes, or one of them.
pub(super) fn attributes(options: &Listing) -> Answer {
    of_kind(options, TypeKind::Attribute)
}

fn of_kind(options: &Listing, kind: TypeKind) -> Answer {
    let database = load(&options.source.policy)?;
    let name_of = |value: u32| database.type_name(value);
    let Some(name) = &options.name else {
        let entries = database.policy().types.entries.iter().filter(|entry| entry.kind() == kind);
        let mut names: Vec<&str> = entries.map(|entry| &*entry.name).collect();
        names.sort_unstable();
        return answer(options.source.output, || lines(&names), || json!(names));
    };
    let value = database.find_type(name)?;
    if database.is_attribute(value) != (kind == TypeKind::Attribute) {
        bail!(
            "{name} is {}",
            if kind == TypeKind::Type { "an attribute, not a type" } else { "a type, not an attribute" }
        );
    }
    let sorted = |mut names: Vec<&str>| -> Vec<String> {
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    };
    if kind == TypeKind::Attribute {
        let members = sorted(database.members(value).iter().map(|bit| name_of(bit + 1)).collect());
        return answer(
            options.source.output,
            || lines(&members),
            || json!({ "attribute": name_of(value), "types": members }),
        );
    }
    let policy = database.policy();
    let aliases =
        policy.types.entries.iter().filter(|entry| entry.kind() == TypeKind::Alias && entry.value == value);
    let aliases = sorted(aliases.map(|alias| &*alias.name).collect());
    let attributes = sorted(database.attributes_of(value).map(name_of).collect());
    let roles = policy.roles.entries.iter().filter(|role| role.types.contains(value - 1));
    let roles = sorted(roles.map(|role| &*role.name).collect());
    let permissive = policy.permissive.contains(value);
    let bounds = database.type_entry(value).map_or(0, |entry| entry.bounds);
    answer(
        options.source.output,
        || {
            let mut text = format!("type {}\n", name_of(value));
            for (what, names) in [("aliases", &aliases), ("attributes", &attributes), ("roles", &roles)] {
                if !names.is_empty() {
                    let _ = writeln!(text, "  {what}: {}", names.join(" "));
                }
            }
            if permissive {
                text.push_str("  permissive\n");
            }
            if bounds != 0 {
                let _ = writeln!(text, "  bounded by {}", name_of(bounds));
            }
            text
        },
        || {
            json!({
                "type": name_of(value), "aliases": aliases, "attributes": attributes, "roles": roles,
                "permissive": permissive, "boundedBy": (bounds != 0).then(|| name_of(bounds)),
            })
        },
    )
}

/// Classes, or one of them.
pub(super) fn classes(options: &Listing) -> Answer {
    let database = load(&options.source.policy)?;
    let policy = database.policy();
    let Some(name) = &options.name else {
        let mut names: Vec<&str> = policy.classes.entries.iter().map(|class| &*class.name).collect();
        names.sort_unstable();
        return answer(options.source.output, || lines(&names), || json!(names));
    };
    let value = database.find_class(name)?;
    let class: &Class = database.class(value).ok_or_else(|| anyhow!("no class {name}"))?;
    let permissions = database.permission_names(value, u32::MAX);
    let constraints = class.constraints.iter().map(|constraint| (constraint, false));
    let constraints = constraints.chain(class.validatetrans.iter().map(|constraint| (constraint, true)));
    let constraints: Vec<String> = constraints
        .map(|(constraint, on_change)| {
            ferrovirt_selinux::decide::text(database, value, constraint, on_change)
        })
        .collect();
    answer(
        options.source.output,
        || {
            let mut text = format!("class {name}\n");
            if !class.common.is_empty() {
                let _ = writeln!(text, "  inherits: {}", class.common);
            }
            let _ = writeln!(text, "  permissions: {}", permissions.join(" "));
            for constraint in &constraints {
                let _ = writeln!(text, "  {constraint}");
            }
            text
        },
        || {
            let common = (!class.common.is_empty()).then_some(&class.common);
            json!({ "class": name, "inherits": common, "permissions": permissions, "constraints": constraints })
        },
    )
}

/// Booleans, or one of them.
pub(super) fn booleans(options: &Listing) -> Answer {
    let database = load(&options.source.policy)?;
    let mut all: BTreeMap<&str, bool> =
        database.policy().booleans.entries.iter().map(|boolean| (&*boolean.name, boolean.state)).collect();
    if let Some(name) = &options.name {
        database.find_boolean(name)?;
        all.retain(|other, _| *other == name.as_str());
    }
    let text =
        || lines(all.iter().map(|(name, state)| format!("{name} {}", if *state { "on" } else { "off" })));
    answer(options.source.output, text, || json!(all))
}
