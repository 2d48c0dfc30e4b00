//! `ferrovirt selinux query`: rules by what they name.

use super::{Answer, Source, answer, lines, source::load};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ferrovirt_selinux::{
    Database, LookupError,
    policy::RuleKind,
    query::{Criterion, Query, search, search_ranges, search_role_allows, search_role_transitions},
};
use serde_json::json;

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Allow,
    Auditallow,
    Dontaudit,
    Allowxperm,
    Auditallowxperm,
    Dontauditxperm,
    TypeTransition,
    TypeMember,
    TypeChange,
    RangeTransition,
    RoleAllow,
    RoleTransition,
}

#[derive(Args)]
pub(super) struct QueryOptions {
    #[command(flatten)]
    source: Source,
    /// Source type or attribute; of role-allow and role-transition a role
    #[arg(short = 's', long = "source", value_name = "TYPE")]
    from: Option<String>,
    /// Target type or attribute; of role-allow a role
    #[arg(short, long, value_name = "TYPE")]
    target: Option<String>,
    /// Classes, any of them
    #[arg(short, long, value_delimiter = ',')]
    class: Vec<String>,
    /// Permissions, any of them
    #[arg(short, long, value_delimiter = ',')]
    permission: Vec<String>,
    /// Booleans of the condition, any of them
    #[arg(short, long, value_delimiter = ',')]
    boolean: Vec<String>,
    /// The type that the rule gives; of range-transition a range, of role-transition a role
    #[arg(short = 'D', long, value_name = "TYPE")]
    result: Option<String>,
    /// Kinds of rules
    #[arg(short, long, value_enum, value_delimiter = ',', default_values = ["allow", "allowxperm"])]
    kind: Vec<Kind>,
    /// Only rules that name source and target themselves, not through an attribute
    #[arg(long)]
    direct: bool,
}

pub(super) fn query(options: &QueryOptions) -> Answer {
    let database = load(&options.source.policy)?;
    let criterion = |name: &Option<String>| {
        name.as_ref().map(|name| Criterion { name: name.clone(), direct: options.direct })
    };
    type More = fn(&Database, &Query) -> Result<Vec<String>, LookupError>;
    let (mut kinds, mut others): (Vec<RuleKind>, Vec<More>) = (Vec::new(), Vec::new());
    for kind in &options.kind {
        match kind {
            Kind::Allow => kinds.push(RuleKind::Allow),
            Kind::Auditallow => kinds.push(RuleKind::AuditAllow),
            Kind::Dontaudit => kinds.push(RuleKind::DontAudit),
            Kind::Allowxperm => kinds.push(RuleKind::AllowXperm),
            Kind::Auditallowxperm => kinds.push(RuleKind::AuditAllowXperm),
            Kind::Dontauditxperm => kinds.push(RuleKind::DontAuditXperm),
            Kind::TypeTransition => kinds.push(RuleKind::TypeTransition),
            Kind::TypeMember => kinds.push(RuleKind::TypeMember),
            Kind::TypeChange => kinds.push(RuleKind::TypeChange),
            Kind::RangeTransition => others.push(search_ranges),
            Kind::RoleAllow => others.push(search_role_allows),
            Kind::RoleTransition => others.push(search_role_transitions),
        }
    }
    let narrowed = !options.permission.is_empty() || !options.boolean.is_empty();
    if !others.is_empty() && narrowed {
        bail!("changes of ranges and roles have neither permissions nor booleans: leave -p and -b out");
    }
    let query = Query {
        kinds,
        source: criterion(&options.from),
        target: criterion(&options.target),
        classes: options.class.clone(),
        permissions: options.permission.clone(),
        booleans: options.boolean.clone(),
        result: options.result.clone(),
    };
    let mut rules = Vec::new();
    if !query.kinds.is_empty() {
        rules.extend(search(database, &query)?.into_iter().map(|rule| database.found_text(rule)));
    }
    for other in others {
        rules.extend(other(database, &query)?);
    }
    rules.sort_unstable();
    answer(options.source.output, || lines(&rules), || json!({ "rules": rules }))
}
