//! What the privilege table and the base policy say about an operation in a domain.

use super::{
    domains::{Rule, Trial},
    experiments::{Access, Experiment, Target},
};
use ferrovirt_selinux::{
    Database, LookupError,
    decide::{Parties, holds},
    policy::{Context, RuleKind},
};

/// Where the kernel stops an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The class of the access that is refused.
    pub class: String,
    /// The permissions that are missing, sorted.
    pub permissions: Vec<String>,
    /// Those of them that the kernel records; policies hide some denials.
    pub recorded: Vec<String>,
    /// The target's context.
    pub target: String,
    /// Whether a rule would allow it and a constraint (the categories) takes it away.
    pub constraint: bool,
    /// The number of the error that the system call gives.
    pub error: i32,
}

/// What is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It succeeds, thanks to these rules of the privilege table; without any, the base policy's own are enough.
    Allowed(Vec<Rule>),
    /// It is refused.
    Refused(Refusal),
}

/// The type of privileged containers, among them the node agent.
pub(super) const PRIVILEGED: &str = "spc_t";

/// The two machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Categories of the machine.
    pub(super) own: String,
    /// Categories of the other machine.
    pub(super) other: String,
}

impl Place {
    /// The context of an access's target.
    pub(super) fn target(&self, trial: &Trial, access: &Access, huge: &HugeLevels) -> String {
        let (own, other) = (&self.own, &self.other);
        match access.target {
            Target::Own => process(&trial.kind, own),
            Target::Other => process(&trial.kind, other),
            Target::OwnFiles => object("container_file_t", own),
            Target::OtherFiles => object("container_file_t", other),
            Target::OwnHuge => object("hugetlbfs_t", if huge.of_process { own } else { "s0" }),
            Target::OtherHuge => object("hugetlbfs_t", if huge.of_process { other } else { "s0" }),
            Target::Kernel => process("kernel_t", "s0"),
            Target::Privileged => process(PRIVILEGED, "s0"),
            Target::Node(kind) => object(kind, "s0"),
        }
    }
}

/// The context of a process.
pub(super) fn process(kind: &str, level: &str) -> String {
    format!("system_u:system_r:{kind}:{level}")
}

/// The context of a file.
pub(super) fn object(kind: &str, level: &str) -> String {
    format!("system_u:object_r:{kind}:{level}")
}

/// Whether what a process makes in a hugetlbfs has the process's categories, or the file system's, which are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HugeLevels {
    of_process: bool,
}

impl HugeLevels {
    /// Asks the base policy.
    pub(super) fn of(database: &Database) -> Result<Self, LookupError> {
        let source = database.find_context(&process("container_t", "s0:c1,c2"))?;
        let target = database.find_context(&object("hugetlbfs_t", "s0"))?;
        let made = database.new_label(&source, &target, database.find_class("file")?, None);
        Ok(Self { of_process: made.is_ok_and(|made| made.range == source.range) })
    }
}

/// What is known of a domain on the base policy, in which its type need not exist.
struct Known<'a> {
    database: &'a Database,
    trial: &'a Trial,
    /// The type and the attributes of the base whose rules the domain has.
    members: Vec<u32>,
}

impl<'a> Known<'a> {
    fn new(database: &'a Database, trial: &'a Trial) -> Result<Self, LookupError> {
        let kind = database.find_type(&trial.inherits)?;
        Ok(Self { database, trial, members: database.attributes_of(kind).chain([kind]).collect() })
    }

    /// A context of the base: the domain's own type is replaced.
    fn context(&self, text: &str) -> Result<Context, LookupError> {
        let text = text.replace(&format!(":{}:", self.trial.kind), &format!(":{}:", self.trial.inherits));
        self.database.find_context(&text)
    }

    /// Whether a rule of the table is about this target.
    fn covers(&self, rule: &Rule, own: bool, target: u32) -> Result<bool, LookupError> {
        if rule.target == "self" || rule.target == self.trial.kind {
            return Ok(own);
        }
        let named = self.database.find_type(&rule.target)?;
        Ok(if own { self.members.contains(&named) } else { self.database.covers(named, target) })
    }

    /// Judges about one access: the rules of the table that it takes, or how it is refused.
    fn access(
        &self,
        source: &str,
        target: &str,
        access: &Access,
    ) -> Result<Result<Vec<Rule>, Refusal>, LookupError> {
        let own = matches!(access.target, Target::Own | Target::Other);
        let (from, to) = (self.context(source)?, self.context(target)?);
        let class = self.database.find_class(access.class)?;
        let targets: Vec<u32> = if own {
            self.members.clone()
        } else {
            self.database.attributes_of(to.kind).chain([to.kind]).collect()
        };
        let (mut base, mut audited) = (0, u32::MAX);
        for (one, other) in
            self.members.iter().flat_map(|one| targets.iter().map(move |other| (*one, *other)))
        {
            for number in self.database.rules_between(one, other) {
                let rule = self
                    .database
                    .rule(*number)
                    .filter(|rule| u32::from(rule.class) == class && self.database.in_force(*number));
                match rule.map(|rule| (rule.kind, rule.data)) {
                    Some((RuleKind::Allow, data)) => base |= data,
                    Some((RuleKind::DontAudit, data)) => audited &= data,
                    _ => {}
                }
            }
        }
        let (mut table, mut taken) = (0, Vec::new());
        for rule in self.trial.rules.iter().filter(|rule| rule.class == access.class) {
            if self.covers(rule, own, to.kind)? {
                let bit = self.database.find_permission(class, &rule.permission)?;
                table |= bit;
                if base & bit == 0 {
                    taken.push((bit, rule.clone()));
                }
            }
        }
        let mut allowed = base | table;
        let parties = Parties { source: &from, target: &to, third: None };
        let ruled = allowed;
        for constraint in self.database.class(class).into_iter().flat_map(|class| &class.constraints) {
            if constraint.permissions & allowed != 0 && !holds(self.database, constraint, &parties) {
                allowed &= !constraint.permissions;
            }
        }
        let mut missing = 0;
        let mut asked = 0;
        for permission in access.permissions {
            let bit = self.database.find_permission(class, permission)?;
            asked |= bit;
            missing |= bit & !allowed;
        }
        if missing == 0 {
            return Ok(Ok(taken
                .into_iter()
                .filter(|(bit, _)| asked & bit != 0)
                .map(|(_, rule)| rule)
                .collect()));
        }
        Ok(Err(Refusal {
            class: access.class.to_owned(),
            permissions: names(self.database, class, missing),
            recorded: names(self.database, class, missing & audited),
            target: target.to_owned(),
            constraint: missing & !ruled == 0,
            // The kernel's EPERM for a capability, EACCES for anything else.
            error: if access.class == "capability" { 1 } else { 13 },
        }))
    }
}

fn names(database: &Database, class: u32, vector: u32) -> Vec<String> {
    database.permission_names(class, vector).into_iter().map(str::to_owned).collect()
}

/// What the table and the base policy (with the plan's blank types) say. `own` and `other` are the levels of the two
/// machines.
///
/// # Errors
/// A name that the base policy does not have.
pub fn judge(
    database: &Database,
    trial: &Trial,
    experiment: &Experiment,
    (own, other): (&str, &str),
) -> Result<Expected, LookupError> {
    let known = Known::new(database, trial)?;
    let huge = HugeLevels::of(database)?;
    let place = Place { own: own.to_owned(), other: other.to_owned() };
    let source = process(&trial.kind, own);
    let mut rules = Vec::new();
    for access in experiment.accesses {
        match known.access(&source, &place.target(trial, access, &huge), access)? {
            Ok(taken) => rules.extend(taken),
            Err(refusal) => return Ok(Expected::Refused(refusal)),
        }
    }
    rules.sort();
    rules.dedup();
    Ok(Expected::Allowed(rules))
}
