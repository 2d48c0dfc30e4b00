//! The SELinux modules of virt-launcher pods, in CIL.

use crate::selinux::base::Base;
use ferrovirt_model::Profile;
use ferrovirt_privilege::{DOMAIN_BLOCK, Domain, Feature, Grant, GrantSet, Right, Surface, grants};
use ferrovirt_selinux::{cil::Statement, policy::RuleKind};
use std::{collections::BTreeMap, fmt::Write as _};

/// The block that gives the documented profile's domain its name.
const BLOCK: &str = "virt_launcher";
/// The domain inside the block.
const DOMAIN: &str = "process";

/// The rules of the domain `virt_launcher.process` beyond `container_t`, one sentence above each. Empty when no grant
/// has an SELinux part. The clone of `container_t` is made for the policy of each node.
pub fn rules(grants: &GrantSet) -> String {
    let mut rules: BTreeMap<(String, String), (Vec<String>, Vec<String>)> = BTreeMap::new();
    for (held, origins) in grants.iter().filter(|(held, _)| held.right.surface() == Surface::Selinux) {
        let Right::Selinux { source: _, target, class, permission } = &held.right else { continue };
        let (permissions, comments) = rules.entry((target.clone(), class.clone())).or_default();
        permissions.push(permission.clone());
        for origin in origins {
            let comment = comment(origin.feature, origin.grant);
            if !comments.contains(&comment) {
                comments.push(comment);
            }
        }
    }
    if rules.is_empty() {
        return String::new();
    }
    let mut out = format!("(block {BLOCK}\n    (type {DOMAIN})\n");
    for ((target, class), (permissions, comments)) in rules {
        for comment in comments {
            let _ = writeln!(out, "    ; {comment}");
        }
        let _ = writeln!(out, "    (allow {DOMAIN} {target} ({class} ({})))", permissions.join(" "));
    }
    out.push_str(")\n");
    out
}

fn comment(feature: Feature, grant: &Grant) -> String {
    format!("{feature}: {}. Checked by {}.", grant.reason, grant.hook)
}

/// The module of the minimal profile: every type, each with the rules of its features. A feature's rules stand once, for
/// an attribute of the module's own that its types have.
pub fn minimal(base: &Base) -> Vec<Statement> {
    let mut body = Vec::new();
    let domains = Domain::all();
    for feature in Feature::ALL {
        let granted: Vec<&Grant> = grants(feature, Profile::Minimal)
            .filter(|grant| grant.rights.iter().any(|right| right.surface() == Surface::Selinux))
            .collect();
        if granted.is_empty() {
            continue;
        }
        let attribute = attribute(feature);
        body.push(Statement::TypeAttribute(attribute.clone()));
        for grant in granted {
            body.push(Statement::Comment(comment(feature, grant)));
            body.extend(of_grant(grant, &attribute, base));
        }
        let having = domains.iter().filter(|domain| domain.features().contains(&feature));
        body.push(Statement::TypeAttributeSet { attribute, types: having.map(short).collect() });
    }
    body.extend(domains.iter().map(|domain| Statement::Type(short(domain))));
    vec![Statement::Block { name: DOMAIN_BLOCK.to_owned(), body }]
}

/// The name inside the block.
fn short(domain: &Domain) -> String {
    domain.name().rsplit('.').next().unwrap_or_default().to_owned()
}

/// The attribute of the types that have a feature.
fn attribute(feature: Feature) -> String {
    let name = feature.name().to_ascii_lowercase();
    format!("with_{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"))
}

/// A grant's rules, those of one source, target and class together, in the table's order.
fn of_grant(grant: &Grant, attribute: &str, base: &Base) -> Vec<Statement> {
    let mut out: Vec<Statement> = Vec::new();
    let name = |name: &str| if name == "{domain}" { attribute } else { base.name(name) }.to_owned();
    for right in grant.rights.iter().map(|right| right.map(&|text| name(text))) {
        match right {
            Right::Selinux { source, target, class, permission } => match out.last_mut() {
                Some(Statement::Access { source: s, target: t, class: c, permissions, .. })
                    if (&*s, &*t, &*c) == (&source, &target, &class) =>
                {
                    permissions.push(permission);
                }
                _ => out.push(Statement::Access {
                    kind: RuleKind::Allow,
                    source,
                    target,
                    class,
                    permissions: vec![permission],
                }),
            },
            Right::SelinuxAttribute { domain, attribute } => {
                out.push(Statement::TypeAttributeSet { attribute, types: vec![domain] });
            }
            Right::SelinuxRole { domain, role } => out.push(Statement::RoleType { role, kind: domain }),
            _ => {}
        }
    }
    out
}
