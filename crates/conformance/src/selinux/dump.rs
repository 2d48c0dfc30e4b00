//! Dumps of policies that another reader made.

use ferrovirt_selinux::{
    Database,
    policy::{Rule, Step, TypeKind, XpermSort},
    text::runs,
};
use serde_json::{Map, Value, json};

use super::{Beside, report::Report};

pub(super) fn check(name: &str, want: Value, policies: Beside<'_>, report: &mut Report) {
    let policy = name.strip_suffix(".json").unwrap_or(name);
    let policy = policy.strip_suffix(".expected").unwrap_or(policy);
    let Some(known) = policies.named(policy) else {
        return report.note(format!("the policy {policy} is not here, so its dump is not compared"));
    };
    let Value::Object(want) = want else {
        return report.compare("dumps", Err("a dump is an object".to_owned()));
    };
    let have = dump(&known.database);
    for (key, mut want) in want {
        order(&key, &mut want);
        match have.get(&key) {
            Some(have) => report.compare("dumps", first_difference(&key, &want, have)),
            None => report.note(format!("{key} is not compared: nothing is known about it")),
        }
    }
}

/// Lists whose order means nothing are sorted as ours are.
fn order(key: &str, want: &mut Value) {
    let lists = [
        "rules",
        "conditionals",
        "filename_transitions",
        "role_allow",
        "role_transitions",
        "range_transitions",
    ];
    let Value::Array(list) = want else { return };
    if !lists.contains(&key) {
        return;
    }
    for entry in list.iter_mut() {
        for branch in ["true", "false"] {
            if let Some(Value::Array(rules)) = entry.get_mut(branch) {
                rules.sort_by_cached_key(Value::to_string);
            }
        }
    }
    list.sort_by_cached_key(Value::to_string);
}

/// Both sides, or of long lists and maps their first difference.
fn first_difference(key: &str, want: &Value, have: &Value) -> Result<(), String> {
    if want == have {
        return Ok(());
    }
    let only = |one: &Value, other: &Value| -> Option<String> {
        match (one, other) {
            (Value::Array(one), Value::Array(other)) => {
                one.iter().find(|entry| !other.contains(entry)).map(Value::to_string)
            }
            (Value::Object(one), Value::Object(other)) => one
                .iter()
                .find(|(name, value)| other.get(*name) != Some(*value))
                .map(|(name, value)| format!("{name}: {value}")),
            _ => Some(one.to_string()),
        }
    };
    let (want, have) = (only(want, have), only(have, want));
    Err(format!("{key}: want {}, have {}", want.unwrap_or_default(), have.unwrap_or_default()))
}

fn sorted(mut list: Vec<Value>) -> Value {
    list.sort_by_cached_key(Value::to_string);
    json!(list)
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    json!(names)
}

fn rule(database: &Database, rule: &Rule) -> Value {
    let (source, target) = (database.type_name(rule.source.into()), database.type_name(rule.target.into()));
    let (kind, class) = (rule.kind.name(), database.class_name(rule.class.into()));
    if rule.kind.is_type() {
        return json!([kind, source, target, class, database.type_name(rule.data)]);
    }
    if rule.kind.is_extended() {
        let Some(xperm) = database.policy().xperms.get(rule.data as usize) else { return Value::Null };
        let sort = match xperm.sort {
            XpermSort::IoctlFunction => "ioctl-function",
            XpermSort::IoctlDriver => "ioctl-driver",
            XpermSort::Netlink => "nlmsg",
        };
        let numbers = runs(xperm.numbers().map(u32::from));
        return json!([kind, source, target, class, sort, xperm.driver, numbers]);
    }
    json!([kind, source, target, class, database.permission_names(rule.class.into(), rule.permissions())])
}

fn dump(database: &Database) -> Map<String, Value> {
    let policy = database.policy();
    let kind = |value: u32| database.type_name(value);
    let rules = |range: std::ops::Range<usize>| {
        sorted(
            policy.rules.get(range).unwrap_or_default().iter().map(|entry| rule(database, entry)).collect(),
        )
    };
    let entries = |wanted: TypeKind| policy.types.entries.iter().filter(move |entry| entry.kind() == wanted);
    let members = |value: u32| names(database.members(value).iter().map(|bit| kind(bit + 1)));
    let conditionals = policy.conditionals.iter().map(|conditional| {
        let steps = conditional.expression.iter().map(|(step, _)| match step {
            Step::Boolean(value) => database.boolean(*value).map_or(String::new(), |boolean| boolean.name.to_string()),
            Step::Not => "not".to_owned(),
            Step::And => "and".to_owned(),
            Step::Or => "or".to_owned(),
            Step::Xor => "xor".to_owned(),
            Step::Equal => "eq".to_owned(),
            Step::Unequal => "neq".to_owned(),
        });
        let steps: Vec<String> = steps.collect();
        json!({ "postfix": steps, "state": conditional.state, "true": rules(conditional.yes.clone()), "false": rules(conditional.no.clone()) })
    });
    let range = |range: &ferrovirt_selinux::policy::Range| {
        format!("{} - {}", database.level_text(&range.low), database.level_text(range.high()))
    };
    let oc = &policy.ocontexts;
    let mut counts = vec![
        oc.initial.len(),
        oc.file_systems.len(),
        oc.ports.len(),
        oc.interfaces.len(),
        oc.nodes.len(),
        oc.uses.len(),
        oc.nodes6.len(),
    ];
    if policy.version >= 31 {
        counts.extend([oc.partition_keys.len(), oc.endports.len()]);
    }
    let classes = policy.classes.entries.iter();
    let permissions = |class| -> Map<String, Value> {
        database
            .permissions(class)
            .map(|permission| (permission.name.to_string(), json!(permission.value)))
            .collect()
    };
    let map = |entries: Vec<(String, Value)>| Value::Object(entries.into_iter().collect());
    let dump = json!({
        "version": policy.version,
        "mls": policy.mls(),
        "handle_unknown": policy.handle_unknown().name(),
        "policycaps": policy.capabilities.iter().collect::<Vec<_>>(),
        "permissive": names(policy.permissive.iter().map(kind)),
        "neveraudit": names(policy.neveraudit.iter().map(kind)),
        "classes": map(classes.clone().map(|class| (class.name.to_string(), permissions(class).into())).collect()),
        "types": names(entries(TypeKind::Type).map(|entry| &*entry.name)),
        "aliases": map(entries(TypeKind::Alias).map(|alias| (alias.name.to_string(), json!(kind(alias.value)))).collect()),
        "attributes": map(entries(TypeKind::Attribute).map(|attribute| (attribute.name.to_string(), members(attribute.value))).collect()),
        "typebounds": map(policy.types.entries.iter().filter(|entry| entry.bounds != 0 && entry.kind() == TypeKind::Type)
            .map(|entry| (entry.name.to_string(), json!(kind(entry.bounds)))).collect()),
        "roles": map(policy.roles.entries.iter()
            .map(|role| (role.name.to_string(), names(role.types.iter().map(|bit| kind(bit + 1))))).collect()),
        "users": map(policy.users.entries.iter().map(|user| (user.name.to_string(),
            json!({ "roles": names(user.roles.iter().map(|bit| database.role_name(bit + 1))) }))).collect()),
        "booleans": map(policy.booleans.entries.iter().map(|boolean| (boolean.name.to_string(), json!(boolean.state))).collect()),
        "rules": rules(0..policy.unconditional),
        "conditionals": sorted(conditionals.collect()),
        "filename_transitions": sorted(policy.named_transitions.iter().flat_map(|transition| {
            transition.results.iter().flat_map(move |(sources, result)| sources.iter().map(move |bit| {
                json!([kind(bit + 1), kind(transition.target), database.class_name(transition.class), &*transition.name, kind(*result)])
            }))
        }).collect()),
        "role_allow": sorted(policy.role_allows.iter()
            .map(|allowed| json!([database.role_name(allowed.old), database.role_name(allowed.new)])).collect()),
        "role_transitions": sorted(policy.role_transitions.iter().map(|transition| json!([
            database.role_name(transition.role), kind(transition.kind), database.class_name(transition.class), database.role_name(transition.result),
        ])).collect()),
        "range_transitions": sorted(policy.range_transitions.iter().map(|transition| json!([
            kind(transition.source), kind(transition.target), database.class_name(transition.class), range(&transition.range),
        ])).collect()),
        "constraint_counts": map(classes
            .map(|class| (class.name.to_string(), json!([class.constraints.len(), class.validatetrans.len()]))).collect()),
        "ocontext_counts": counts,
        "genfs_count": policy.paths.iter().map(|system| system.paths.len()).sum::<usize>(),
    });
    match dump {
        Value::Object(dump) => dump,
        _ => Map::new(),
    }
}
