//! In which domains operations are tried, and the modules that declare them.

use super::experiments::{EXPERIMENTS, Experiment};
use crate::{
    render::cil::minimal,
    selinux::base::{Base, BaseError},
};
use ferrovirt_model::Profile;
use ferrovirt_privilege::{Domain, Right, cluster_grants};
use ferrovirt_selinux::{
    Database,
    cil::{self, Statement},
    clone::{CloneError, Extra, module},
};
use std::collections::{BTreeMap, BTreeSet};

/// The type that containers run as, of which the documented domain is a copy.
const CONTAINER: &str = "container_t";

/// The documented domain.
pub(super) const LAUNCHER: &str = "virt_launcher.process";

/// One permission that the privilege table gives to a domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Type, attribute or `self`.
    pub target: String,
    /// Class.
    pub class: String,
    /// Permission.
    pub permission: String,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.target, self.class, self.permission)
    }
}

/// A domain in which operations are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its type.
    pub kind: String,
    /// The type that has what it has before the privilege table gives it anything: `container_t`, of which it is a copy, or
    /// a blank type with the same attributes.
    pub inherits: String,
    /// What the privilege table gives it.
    pub rules: BTreeSet<Rule>,
    /// The one rule of the table that it lacks on purpose, to see that the rule is needed.
    pub without: Option<Rule>,
}

impl Trial {
    /// What is tried in it. A domain that lacks one rule does what that rule is about.
    pub fn experiments(&self) -> impl Iterator<Item = &'static Experiment> + '_ {
        EXPERIMENTS.iter().filter(|experiment| {
            self.without
                .as_ref()
                .is_none_or(|rule| !experiment.needs_neighbour() && is_about(experiment, rule))
        })
    }
}

fn is_about(experiment: &Experiment, rule: &Rule) -> bool {
    use super::experiments::Target;
    experiment.accesses.iter().any(|access| {
        let target = match access.target {
            Target::Own => rule.target == "self",
            Target::OwnHuge => rule.target == "hugetlbfs_t",
            Target::OwnFiles => rule.target == "container_file_t",
            Target::Node(kind) => rule.target == kind,
            _ => false,
        };
        target && access.class == rule.class && access.permissions.contains(&rule.permission.as_str())
    })
}

/// Domains with what declares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The domains.
    pub trials: Vec<Trial>,
    /// The module that declares those that the base lacks, in CIL.
    pub module: String,
    /// A module with blank types, in CIL: each has attributes of the base and nothing else. Only expectations are computed
    /// with it; a kernel never sees it.
    pub blank: String,
}

/// Why there is nothing to try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The documented domain cannot be made.
    #[error(transparent)]
    Clone(#[from] CloneError),
    /// The minimal types cannot be made.
    #[error(transparent)]
    Base(#[from] BaseError),
}

/// The domains of the profiles on a base policy. `container_t` is always among them, to see what it may not.
///
/// # Errors
/// The base lacks what the modules build on.
pub fn plan(database: &Database, profiles: &[Profile]) -> Result<Plan, PlanError> {
    let trial = |kind: &str, rules, without| Trial {
        kind: kind.to_owned(),
        inherits: CONTAINER.to_owned(),
        rules,
        without,
    };
    let mut trials = vec![trial(CONTAINER, BTreeSet::new(), None)];
    let mut statements = Vec::new();
    let mut blanks = Blanks::default();
    for profile in profiles {
        match profile {
            Profile::Documented => {
                let (all, comments) = documented();
                let whole = ("virt_launcher".to_owned(), all.clone(), None);
                let parts = all.iter().map(|rule| {
                    let rest: BTreeSet<Rule> = all.iter().filter(|other| *other != rule).cloned().collect();
                    let target = if rule.target == "self" { "" } else { &format!("{}_", rule.target) };
                    (format!("without_{target}{}_{}", rule.class, rule.permission), rest, Some(rule.clone()))
                });
                for (block, rules, without) in std::iter::once(whole).chain(parts) {
                    let made = module(database, CONTAINER, &block, "process", &extras(&rules, &comments))?;
                    statements.extend(made.statements);
                    trials.push(trial(&format!("{block}.process"), rules, without));
                }
            }
            Profile::Minimal => {
                let base = Base::of(database)?;
                base.check(database)?;
                statements.extend(minimal(&base));
                trials.extend(Domain::all().iter().map(|domain| least(domain, &base, &mut blanks)));
            }
        }
    }
    Ok(Plan { trials, module: cil::text(&statements), blank: blanks.text() })
}

/// The rules of the documented profile, with where each comes from.
fn documented() -> (BTreeSet<Rule>, BTreeMap<Rule, String>) {
    let mut comments = BTreeMap::new();
    for (held, origins) in cluster_grants(Profile::Documented).iter() {
        let Right::Selinux { target, class, permission, .. } = &held.right else { continue };
        let rule = Rule { target: target.clone(), class: class.clone(), permission: permission.clone() };
        let origins = origins.iter().map(|origin| format!("{}: {}", origin.feature, origin.grant.reason));
        comments.insert(rule, origins.collect::<Vec<_>>().join("; "));
    }
    (comments.keys().cloned().collect(), comments)
}

/// Rules as a module takes them: the compiler names the line of one that it refuses, and the line above says the reason.
fn extras(rules: &BTreeSet<Rule>, comments: &BTreeMap<Rule, String>) -> Vec<Extra> {
    let mut grouped: BTreeMap<(&str, &str), Extra> = BTreeMap::new();
    for rule in rules {
        let extra = grouped.entry((&rule.target, &rule.class)).or_insert_with(|| Extra {
            target: rule.target.clone(),
            class: rule.class.clone(),
            permissions: Vec::new(),
            comments: Vec::new(),
        });
        extra.permissions.push(rule.permission.clone());
        if let Some(comment) = comments.get(rule).filter(|comment| !extra.comments.contains(comment)) {
            extra.comments.push(comment.clone());
        }
    }
    grouped.into_values().collect()
}

/// A type of the minimal profile: nothing but what the table says.
fn least(domain: &Domain, base: &Base, blanks: &mut Blanks) -> Trial {
    let (mut rules, mut attributes) = (BTreeSet::new(), BTreeSet::new());
    for right in base.rights(domain) {
        match right {
            Right::Selinux { source, target, class, permission } if source == domain.name() => {
                let target = if target == domain.name() { "self".to_owned() } else { target };
                rules.insert(Rule { target, class, permission });
            }
            Right::SelinuxAttribute { attribute, .. } => {
                attributes.insert(attribute);
            }
            _ => {}
        }
    }
    Trial { kind: domain.name().to_owned(), inherits: blanks.with(attributes), rules, without: None }
}

/// Blank types by their attributes.
#[derive(Default)]
struct Blanks(Vec<BTreeSet<String>>);

impl Blanks {
    /// The name of the blank type with these attributes.
    fn with(&mut self, attributes: BTreeSet<String>) -> String {
        let known = self.0.iter().position(|other| *other == attributes);
        let number = known.unwrap_or_else(|| {
            self.0.push(attributes);
            self.0.len() - 1
        });
        format!("blank_{number}.process")
    }

    fn text(&self) -> String {
        let block = |(number, attributes): (usize, &BTreeSet<String>)| {
            let kind = "process".to_owned();
            let mut body = vec![Statement::Type(kind.clone())];
            body.extend(attributes.iter().map(|attribute| Statement::TypeAttributeSet {
                attribute: attribute.clone(),
                types: vec![kind.clone()],
            }));
            Statement::Block { name: format!("blank_{number}"), body }
        };
        cil::text(&self.0.iter().enumerate().map(block).collect::<Vec<_>>())
    }
}
