//! The SELinux modules of launcher pods: made for a node's policy, and looked for in one.

use crate::{
    render,
    selinux::base::{Base, BaseError},
};
use ferrovirt_model::Profile;
use ferrovirt_privilege::{DOMAIN_BLOCK, Domain, Right, cluster_grants};
use ferrovirt_selinux::{
    Database, LookupError, PolicyError, cil,
    clone::{self, CloneError, Extra, Held, Remainder},
    diff::{Access, Side, Sign, TypeDifference, between_types},
    policy::RuleKind,
};
use std::collections::{BTreeMap, BTreeSet};

/// The type that the documented profile's copies.
pub const COPIED: &str = "container_t";
/// Block and module of the documented profile's type.
pub const DOCUMENTED: (&str, &str) = ("virt_launcher", "process");

/// The name of a profile's module in a store.
pub fn module_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Documented => DOCUMENTED.0,
        Profile::Minimal => DOMAIN_BLOCK,
    }
}

/// A module for one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name in the store.
    pub name: &'static str,
    /// Its CIL, the same for the same policy.
    pub text: String,
    /// Documented permissions and whether the copied type has each already; empty in the minimal profile.
    pub remainder: Vec<Remainder>,
}

/// Why a policy can have no module of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// The documented profile's type cannot be made.
    #[error(transparent)]
    Clone(#[from] CloneError),
    /// The minimal profile's types do not fit.
    #[error(transparent)]
    Base(#[from] BaseError),
}

/// The rules that the documented profile adds to the copied type, each with feature, reason and hook.
pub fn documented_rules() -> Vec<Extra> {
    let mut rules: BTreeMap<(String, String), (Vec<String>, Vec<String>)> = BTreeMap::new();
    for (held, origins) in cluster_grants(Profile::Documented).iter() {
        let Right::Selinux { target, class, permission, .. } = &held.right else { continue };
        let (permissions, comments) = rules.entry((target.clone(), class.clone())).or_default();
        permissions.push(permission.clone());
        for origin in origins {
            let text =
                format!("{}: {}. Checked by {}.", origin.feature, origin.grant.reason, origin.grant.hook);
            if !comments.contains(&text) {
                comments.push(text);
            }
        }
    }
    let extra = |((target, class), (permissions, comments))| Extra { target, class, permissions, comments };
    rules.into_iter().map(extra).collect()
}

/// The module of a profile for a policy.
///
/// # Errors
/// The policy lacks what the module builds on.
pub fn module(database: &Database, profile: Profile) -> Result<Module, ModuleError> {
    match profile {
        Profile::Documented => Ok(copy_of(database, COPIED)?),
        Profile::Minimal => {
            let base = Base::of(database)?;
            base.check(database)?;
            Ok(minimal_module(&base))
        }
    }
}

/// The minimal profile's module for a base whose names are known. Whether the base has them is not looked at.
pub fn minimal_module(base: &Base) -> Module {
    let text = cil::text(&render::cil::minimal(base));
    Module { name: module_name(Profile::Minimal), text, remainder: Vec::new() }
}

/// The documented profile's module, with another type copied.
///
/// # Errors
/// The policy lacks the type or what a rule names, or the type cannot be copied.
pub fn copy_of(database: &Database, copied: &str) -> Result<Module, CloneError> {
    let made = clone::module(database, copied, DOCUMENTED.0, DOCUMENTED.1, &documented_rules())?;
    let text = cil::text(&made.statements);
    Ok(Module { name: DOCUMENTED.0, text, remainder: made.remainder })
}

/// A module as an object of the Security Profiles Operator, which puts a block of the object's name around its text.
/// Names of objects cannot have underscores, so that the types have a hyphen instead: `virt-launcher.process`. The same
/// module gives the same text.
pub fn raw_selinux_profile(module: &Module) -> String {
    let name = object_name(module.name);
    let mut lines = module.text.lines();
    // The block's own first and last line are the operator's to write.
    lines.next();
    lines.next_back();
    let mut out = format!(
        "apiVersion: security-profiles-operator.x-k8s.io/v1\nkind: RawSelinuxProfile\nmetadata:\n  name: {name}\nspec:\n  policy: |\n"
    );
    for line in lines {
        out.push_str(&format!("    {}\n", line.strip_prefix("    ").unwrap_or(line)).replace("    \n", "\n"));
    }
    out
}

/// The name of a module as the name of an object.
pub fn object_name(module: &str) -> String {
    module.replace('_', "-")
}

/// The statement in a line of a module, and the comments that say why it is there. Lines count from 1.
pub fn reason(text: &str, line: usize) -> Option<(&str, Vec<&str>)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = line.checked_sub(1)?;
    let statement = *lines.get(at)?;
    let before = lines.get(..at)?;
    let is_comment = |line: &&&str| line.starts_with(';');
    let end = before.iter().rposition(|line| line.starts_with(';')).map_or(0, |last| last + 1);
    let mut comments: Vec<&str> = before
        .get(..end)?
        .iter()
        .rev()
        .take_while(is_comment)
        .map(|line| line.trim_start_matches(';').trim())
        .collect();
    comments.reverse();
    Some((statement, comments))
}

/// What a policy has of a profile's module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// Not there, and why it may not be.
    Missing(String),
    /// There, but not what the table and this policy make of it: each difference.
    Stale(Vec<String>),
    /// Exactly what it should be; notes about what the base had already.
    Current(Vec<String>),
}

/// Looks for a profile's module in the bytes of a policy.
///
/// # Errors
/// Bytes that are no policy.
pub fn look(policy: &[u8], profile: Profile) -> Result<Installed, PolicyError> {
    Ok(look_in(&Database::open(policy)?, profile))
}

/// Looks for a profile's module in a policy.
pub fn look_in(database: &Database, profile: Profile) -> Installed {
    let looked = match profile {
        Profile::Documented => documented(database),
        Profile::Minimal => minimal(database),
    };
    looked.unwrap_or_else(|problem| Installed::Missing(problem.to_string()))
}

fn documented(database: &Database) -> Result<Installed, LookupError> {
    let kind = format!("{}.{}", DOCUMENTED.0, DOCUMENTED.1);
    let Ok(own) = database.find_type(&kind) else {
        return Ok(Installed::Missing(format!("the policy has no type {kind}")));
    };
    let base = database.find_type(COPIED)?;
    let rules = documented_rules();
    let TypeDifference { accesses, rest } = between_types(database, base, own);
    let mut wrong: Vec<String> = rest
        .groups
        .iter()
        .flat_map(|group| {
            group.lines.iter().map(|line| format!("{}: {} {}", group.cause, line.sign.symbol(), line.text))
        })
        .collect();
    for access in &accesses {
        if !is_documented(access, &rules) {
            let who = if access.sign == Sign::Added { &kind } else { COPIED };
            wrong.push(format!("only {who} has: {}", access.rules.join(" ")));
        }
    }
    for rule in clone::remainder(database, own, &rules)? {
        if rule.held != Held::Always {
            wrong.push(format!("{kind} lacks: {} {} {}", rule.target, rule.class, rule.permission));
        }
    }
    if !wrong.is_empty() {
        return Ok(Installed::Stale(wrong));
    }
    let had = clone::remainder(database, base, &rules)?.into_iter().filter(|rule| rule.held == Held::Always);
    let had = had
        .map(|rule| format!("{COPIED} has this already: {} {} {}", rule.target, rule.class, rule.permission));
    Ok(Installed::Current(had.collect()))
}

/// A right beyond the copied type that the documents give.
fn is_documented(access: &Access, rules: &[Extra]) -> bool {
    access.sign == Sign::Added
        && access.side == Side::Source
        && access.kind == RuleKind::Allow
        && access.condition.is_none()
        && rules.iter().any(|rule| {
            rule.target == access.other
                && rule.class == access.class
                && access.what.iter().all(|permission| rule.permissions.contains(permission))
        })
}

/// Source, target, class and permission, with attributes of the module's own and `self` put in full.
type Rule = (String, String, String, String);

fn minimal(database: &Database) -> Result<Installed, LookupError> {
    let domains = Domain::all();
    let mut values = BTreeMap::new();
    let mut missing = Vec::new();
    for domain in &domains {
        match database.find_type(domain.name()) {
            Ok(value) => drop(values.insert(value, domain)),
            Err(_) => missing.push(domain.name()),
        }
    }
    if values.is_empty() {
        return Ok(Installed::Missing(format!("the policy has no type {DOMAIN_BLOCK}.*")));
    }
    let mut wrong: Vec<String> =
        missing.into_iter().map(|name| format!("the type {name} is missing")).collect();
    let base = match Base::of(database) {
        Ok(base) => base,
        Err(problem) => return Ok(Installed::Missing(problem.to_string())),
    };
    let (mut granted, mut attributes) = (BTreeSet::new(), BTreeSet::new());
    for (value, domain) in &values {
        let joined: BTreeSet<&str> =
            database.attributes_of(*value).map(|attribute| database.type_name(attribute)).collect();
        for right in base.rights(domain) {
            match right {
                Right::Selinux { source, target, class, permission } => {
                    let target = if target == "self" { source.clone() } else { target };
                    // Names may be aliases in this policy.
                    let all = |name: String| match database.find_type(&name) {
                        Ok(value) => expanded(database, value),
                        Err(_) => vec![name],
                    };
                    let targets = all(target);
                    for source in all(source) {
                        for target in &targets {
                            let (target, class) = (target.clone(), class.clone());
                            granted.insert((source.clone(), target, class, permission.clone()));
                        }
                    }
                }
                Right::SelinuxAttribute { attribute, .. } => match database.find_type(&attribute) {
                    Ok(_) if !joined.contains(attribute.as_str()) => {
                        wrong.push(format!("{domain} lacks the attribute {attribute}"));
                    }
                    Ok(attribute) => drop(attributes.insert(attribute)),
                    // The compiler drops attributes that no rule uses.
                    Err(_) => {}
                },
                Right::SelinuxRole { role, .. } => {
                    let mut roles = database.policy().roles.entries.iter();
                    if !roles.any(|role_entry| {
                        *role_entry.name == *role && role_entry.types.contains(value.saturating_sub(1))
                    }) {
                        wrong.push(format!("the role {role} lacks {domain}"));
                    }
                }
                _ => {}
            }
        }
    }
    let actual = rules_of(database);
    let text = |(source, target, class, permission): &Rule| format!("{source} {target} {class} {permission}");
    wrong.extend(granted.difference(&actual).map(|rule| format!("missing: allow {}", text(rule))));
    let mut everybodys: BTreeMap<(&String, &String), bool> = BTreeMap::new();
    for rule in actual.difference(&granted) {
        let (source, target, class, permission) = rule;
        let mut by_attribute = || is_everybodys(database, &attributes, class, permission);
        if source != target || !*everybodys.entry((class, permission)).or_insert_with(&mut by_attribute) {
            wrong.push(format!("not granted by the table: allow {}", text(rule)));
        }
    }
    Ok(if wrong.is_empty() { Installed::Current(Vec::new()) } else { Installed::Stale(wrong) })
}

/// Whether the base policy gives a right to itself to every type of one of the attributes. The compiler writes such a rule
/// out for each type, as if it were the type's own.
fn is_everybodys(database: &Database, attributes: &BTreeSet<u32>, class: &str, permission: &str) -> bool {
    let Ok(class) = database.find_class(class) else { return false };
    let Ok(permission) = database.find_permission(class, permission) else { return false };
    let has = |kind: u32| {
        database.rules_between(kind, kind).iter().filter_map(|number| database.rule(*number)).any(|rule| {
            rule.kind == RuleKind::Allow && u32::from(rule.class) == class && rule.data & permission != 0
        })
    };
    attributes.iter().any(|attribute| database.members(*attribute).iter().all(|bit| has(bit + 1)))
}

/// A type, or the types of an attribute.
fn expanded(database: &Database, value: u32) -> Vec<String> {
    if !database.is_attribute(value) {
        return vec![database.type_name(value).to_owned()];
    }
    database.members(value).iter().map(|bit| database.type_name(bit + 1).to_owned()).collect()
}

/// What rules allow that name a type or an attribute of the minimal module.
fn rules_of(database: &Database) -> BTreeSet<Rule> {
    let prefix = format!("{DOMAIN_BLOCK}.");
    let own = |name: &str| name.starts_with(&prefix);
    let mut out = BTreeSet::new();
    let names =
        database.policy().types.entries.iter().filter(|entry| own(&entry.name)).map(|entry| entry.value);
    for value in names.collect::<BTreeSet<_>>() {
        for number in database.rules_from(value).iter().chain(database.rules_to(value)) {
            let Some(rule) = database.rule(*number).filter(|rule| rule.kind == RuleKind::Allow) else {
                continue;
            };
            let class = u32::from(rule.class);
            for source in expanded(database, rule.source.into()) {
                for target in expanded(database, rule.target.into()) {
                    for permission in database.permission_names(class, rule.permissions()) {
                        let class = database.class_name(class).to_owned();
                        out.insert((source.clone(), target.clone(), class, permission.to_owned()));
                    }
                }
            }
        }
    }
    out
}
