//! What a denial means, and what to do.

use super::{event::Event, record::Denial};
use crate::{database::Database, decide::Verdict, policy::Context};

/// The part of a machine that a denial is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Opening a TAP device that exists, or a further queue.
    NetworkTap,
    /// Enabling a queue again.
    NetworkMultiqueue,
    /// Huge pages.
    HugePages,
    /// Memory that is shared through a file.
    MemoryBacking,
    /// Host devices.
    Sriov,
    /// None of them.
    None,
}

impl Topic {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkTap => "network-tap",
            Self::NetworkMultiqueue => "network-multiqueue",
            Self::HugePages => "hugepages",
            Self::MemoryBacking => "memory-backing",
            Self::Sriov => "sriov",
            Self::None => "none",
        }
    }
}

/// What a denial means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The privilege table grants this with a feature.
    FeatureRule,
    /// The TAP device was made by another domain.
    ForeignTap,
    /// The type that was copied may do this, the copy may not.
    LostFromBase,
    /// The feature needs this, and neither the base policy nor the table gives it.
    BaseGap,
    /// A rule allows it, a constraint keeps machines apart.
    Isolation,
    /// The domain tries to leave its confinement.
    EscapeAttempt,
    /// More access than the table grants to something that it grants a part of.
    NotGranted,
    /// A rule exists, but its boolean is off.
    Boolean,
    /// The policy allows it.
    AllowedNow,
    /// A context that the policy does not know.
    UnknownContext,
    /// Nothing of the above.
    Other,
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::FeatureRule => "feature-rule",
            Self::ForeignTap => "foreign-tap",
            Self::LostFromBase => "lost-from-container_t",
            Self::BaseGap => "base-gap",
            Self::Isolation => "isolation",
            Self::EscapeAttempt => "escape-attempt",
            Self::NotGranted => "not-granted",
            Self::Boolean => "boolean",
            Self::AllowedNow => "allowed-now",
            Self::UnknownContext => "unknown-context",
            Self::Other => "other",
        }
    }

    /// What to do.
    pub fn advice(self) -> &'static str {
        match self {
            Self::FeatureRule => {
                "if the machine has this feature, install the module that is made for it; otherwise the denial is right"
            }
            Self::ForeignTap => {
                "make the TAP device in the launcher's own context (or pass its open queues); do not widen the policy"
            }
            Self::LostFromBase => {
                "the module was made from attributes alone or is stale: make it anew from this node's policy"
            }
            Self::BaseGap => {
                "this base policy lacks what the feature needs; the documented rules do not add it: use a base that has \
                 it, or the minimal profile, which needs no such access"
            }
            Self::Isolation => "two machines are kept apart, as they should be; never add a rule for this",
            Self::EscapeAttempt => {
                "treat it as an attack or a misconfigured program; never add a rule for this"
            }
            Self::NotGranted => "change the program: only plain writing is granted; do not widen the policy",
            Self::Boolean => {
                "switch the boolean on if its whole meaning is wanted on this node (setsebool -P)"
            }
            Self::AllowedNow => {
                "this policy allows it: the denial is older than the policy, or of another node; nothing is missing"
            }
            Self::UnknownContext => {
                "the log and the policy do not belong together: explain with the node's own policy"
            }
            Self::Other => "no feature of a machine needs this; find out which program asks for it",
        }
    }
}

/// What is granted: source type, target type (`self` for the domain itself), class and permission in, the feature and its
/// reason out.
pub type Allowed<'a> = &'a dyn Fn(&str, &str, &str, &str) -> Option<String>;

/// Whether it is a type of the minimal profile, as the module or the Security Profiles Operator names them. They are no
/// copies of another type.
pub fn is_minimal(kind: &str) -> bool {
    kind.starts_with("virt_machine.") || kind.starts_with("virt-machine.")
}

/// Whether a type is a copy of container_t: only types of blocks are, as modules for pods make them.
fn is_copy(kind: &str) -> bool {
    kind.contains('.') && !is_minimal(kind)
}

/// A denial with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What it means.
    pub kind: Kind,
    /// What it may mean as well, as long as the policy that was loaded is not known.
    pub unless_known: Vec<Kind>,
    /// What it is about.
    pub topic: Topic,
    /// Whether a constraint denied it, not the lack of a rule.
    pub constraint: bool,
    /// The rule that is missing; none where no rule should be added or none is missing.
    pub rule: Option<String>,
    /// What the privilege table says about it.
    pub granted: Option<String>,
    /// What the policy says, where one was given.
    pub details: Vec<String>,
}

/// What `container_t` may do in each base that is known: Debian's, and container-selinux since April 2020.
const EVERYWHERE: [(&str, &str, &[&str]); 8] = [
    ("self", "tun_socket", &["create"]),
    ("container_file_t", "file", &["entrypoint"]),
    ("hugetlbfs_t", "dir", &["getattr", "open", "search"]),
    ("proc_t", "dir", &["getattr", "open", "search"]),
    ("proc_t", "file", &["getattr", "open", "read"]),
    ("sysfs_t", "dir", &["getattr", "open", "read", "search"]),
    ("sysfs_t", "file", &["getattr", "open", "read"]),
    ("sysfs_t", "lnk_file", &["getattr", "read"]),
];

/// Whether a permission is one of `EVERYWHERE`.
fn everywhere(target: &str, class: &str, permission: &str) -> bool {
    EVERYWHERE.iter().any(|one| (one.0, one.1) == (target, class) && one.2.contains(&permission))
}

/// What no feature needs of the memory's files and directories: other labels, other names, other programs.
const NEEDLESS: [&str; 8] =
    ["entrypoint", "execmod", "link", "mounton", "relabelfrom", "relabelto", "rename", "reparent"];

/// Whether the log alone shows that `container_t` may do what its copy may not.
fn lost(denial: &Denial, target: &str, levels: (&str, &str)) -> bool {
    let class = denial.class.as_str();
    let everywhere = denial.permissions.iter().all(|one| everywhere(target, class, one));
    // Where new files of memory take their level from the file system (container-selinux), those of container_t become
    // container_file_t by a transition. One that is tmpfs_t was made without it.
    let from_file_system = !categories(levels.0).is_empty() && categories(levels.1).is_empty();
    everywhere || target == "tmpfs_t" && matches!(class, "file" | "memfd_file") && from_file_system
}

/// Type and level of a context.
fn parts(context: &str) -> (&str, &str) {
    let mut parts = context.splitn(4, ':').skip(2);
    (parts.next().unwrap_or(""), parts.next().unwrap_or(""))
}

/// The categories of the high level as text; without a policy only the usual `c1,c2` and `c1.c3` are understood.
fn categories(level: &str) -> Vec<(u32, u32)> {
    let high = level.rsplit_once('-').map_or(level, |(_, high)| high);
    let Some((_, list)) = high.split_once(':') else { return Vec::new() };
    let number = |text: &str| text.strip_prefix('c').and_then(|number| number.parse().ok());
    let runs = list.split(',').filter_map(|part| {
        let (low, high) = part.split_once('.').unwrap_or((part, part));
        Some((number(low)?, number(high)?))
    });
    runs.collect()
}

/// Whether the target has a category that the source lacks.
fn apart(source: &str, target: &str) -> bool {
    let source = categories(source);
    categories(target).iter().any(|(low, high)| !source.iter().any(|(from, to)| from <= low && high <= to))
}

/// Whether the source is a container's, by its name or because containers have categories, and the node's own services none.
fn is_container(source: &str, level: &str) -> bool {
    let low = level.split('-').next().unwrap_or(level);
    let runtime = ["container_runtime", "container_engine"].iter().any(|one| source.starts_with(one));
    let named = source.contains('.') || source.starts_with("container_") || source.starts_with("svirt");
    named && !runtime || !categories(low).is_empty()
}

/// Explains a denial, with the node's policy if there is one.
pub fn explain(
    event: &Event,
    denial: &Denial,
    database: Option<&Database>,
    allowed: Allowed<'_>,
) -> Explanation {
    let ((source, source_level), (target, target_level)) = (parts(&denial.source), parts(&denial.target));
    let own = source == target;
    let name = if own { "self" } else { target };
    let grant = |permission: &String| allowed(source, name, &denial.class, permission);
    // What comes with it must be what every container may do.
    let fits = |one: &String| grant(one).is_some() || everywhere(name, &denial.class, one);
    let container = is_container(source, source_level);
    let fitting = container && denial.permissions.iter().all(fits);
    let granted = denial.permissions.iter().find_map(grant).filter(|_| fitting);
    let judged = database.map(|database| Judged::new(database, denial));
    let constraint = match judged.as_ref().filter(|judged| judged.known) {
        Some(judged) => judged.constraint,
        None => container && denial.class != "tun_socket" && apart(source_level, target_level),
    };
    let has =
        |names: &[&str]| denial.permissions.iter().any(|permission| names.contains(&permission.as_str()));
    let topic = match (denial.class.as_str(), target) {
        ("tun_socket", _) if has(&["attach_queue"]) || event.tun_request() == Some("TUNSETQUEUE") => {
            Topic::NetworkMultiqueue
        }
        ("tun_socket", _) => Topic::NetworkTap,
        ("file" | "dir" | "filesystem", "hugetlbfs_t") => Topic::HugePages,
        ("file" | "memfd_file", "tmpfs_t") => Topic::MemoryBacking,
        ("file", "sysfs_t") if granted.is_some() => Topic::Sriov,
        _ => Topic::None,
    };
    // Into a machine's type it is the runtime or the node's agent that starts the machine.
    let starts = target.contains('.') && !container;
    let escape = denial.class == "security"
        || target == "security_t"
        || denial.class == "process" && has(&["setcurrent", "setexec"])
        || denial.class == "process" && has(&["dyntransition", "transition"]) && !starts
        || denial.class == "process2" && has(&["nnp_transition", "nosuid_transition"]) && !starts;
    let judged = judged.as_ref();
    let minimal = is_minimal(source);
    let needless = has(&NEEDLESS)
        || denial.class == "filesystem" && denial.permissions.iter().any(|one| one != "getattr");
    let copy = is_copy(source) || is_copy(target);
    let kind = if judged.is_some_and(|judged| !judged.known && judged.bad_context) {
        Kind::UnknownContext
    } else if judged.is_some_and(|judged| judged.known && judged.allowed) {
        Kind::AllowedNow
    } else if escape {
        Kind::EscapeAttempt
    } else if judged.is_some_and(|judged| judged.elsewhere) {
        Kind::Other
    } else if constraint {
        Kind::Isolation
    } else if denial.class == "tun_socket" && !own && granted.is_none() {
        Kind::ForeignTap
    } else if judged.is_some_and(|judged| judged.boolean) {
        Kind::Boolean
    } else if granted.is_some() {
        Kind::FeatureRule
    } else if copy
        && judged.map_or_else(
            || is_copy(source) && lost(denial, name, (source_level, target_level)),
            |one| one.base_may,
        )
    {
        Kind::LostFromBase
    } else if target == "sysfs_t"
        && container
        && !denial.permissions.iter().all(|one| everywhere(name, &denial.class, one))
    {
        Kind::NotGranted
    } else if matches!(topic, Topic::HugePages | Topic::MemoryBacking) && container && !needless && !minimal {
        Kind::BaseGap
    } else {
        Kind::Other
    };
    let unless_known = match kind {
        _ if judged.is_some() => Vec::new(),
        // Whether there is a rule at all that the constraint takes away.
        Kind::Isolation => vec![Kind::Other],
        Kind::BaseGap | Kind::Other if copy => vec![Kind::LostFromBase],
        _ => Vec::new(),
    };
    let missing: Vec<&str> = match kind {
        Kind::FeatureRule => {
            denial.permissions.iter().filter(|one| grant(one).is_some()).map(|one| &**one).collect()
        }
        Kind::LostFromBase => denial.permissions.iter().map(|one| &**one).collect(),
        _ => Vec::new(),
    };
    let rule = (!missing.is_empty())
        .then(|| format!("(allow {source} {name} ({} ({})))", denial.class, missing.join(" ")));
    let details = judged.map_or(Vec::new(), |judged| judged.details.clone());
    Explanation { kind, unless_known, topic, constraint, rule, granted, details }
}

/// What a policy says about a denial.
#[derive(Default)]
struct Judged {
    /// Whether it could be judged.
    known: bool,
    bad_context: bool,
    constraint: bool,
    boolean: bool,
    /// Whether a rule is there, and something else than levels or a boolean refuses it.
    elsewhere: bool,
    /// Whether all of it is allowed.
    allowed: bool,
    /// Whether container_t may do it in the same place.
    base_may: bool,
    details: Vec<String>,
}

impl Judged {
    fn new(database: &Database, denial: &Denial) -> Self {
        let mut judged = Self::default();
        if let Err(error) = judged.judge(database, denial) {
            judged.bad_context = true;
            judged.details.push(error.to_string());
        }
        judged
    }

    fn judge(&mut self, database: &Database, denial: &Denial) -> Result<(), crate::error::LookupError> {
        let source = database.find_context(&denial.source)?;
        let target = database.find_context(&denial.target)?;
        let class = database.find_class(&denial.class)?;
        self.known = true;
        let (mut base_may, mut allowed) = (true, true);
        for permission in &denial.permissions {
            let bit = database.find_permission(class, permission)?;
            let verdict = database.judge(&source, &target, class, bit).verdict;
            allowed &= matches!(verdict, Verdict::Allowed(_));
            match verdict {
                Verdict::Allowed(rules) => {
                    let rule = rules.first().map_or(String::new(), |rule| database.rule_text(*rule));
                    self.details.push(format!("{permission}: this policy allows it: {rule}"));
                }
                Verdict::Invalid(problem) => {
                    self.elsewhere = true;
                    self.details.push(format!("{permission}: {problem}"));
                }
                Verdict::Constraint(places) => {
                    self.constraint = true;
                    let class_entry = database.class(class);
                    // Without levels it is about users, roles or types, and not about machines.
                    let mut levels = false;
                    for place in places {
                        if let Some(one) = class_entry.and_then(|entry| entry.constraints.get(place)) {
                            levels |= one.compares_levels();
                            let text = crate::decide::text(database, class, one, false);
                            self.details.push(format!(
                                "{permission}: a rule allows it, this constraint does not: {text}"
                            ));
                        }
                    }
                    self.elsewhere |= !levels;
                }
                Verdict::Boolean(rules) => {
                    self.boolean = true;
                    for rule in rules {
                        self.details
                            .push(format!("{permission}: this rule is off: {}", database.rule_text(rule)));
                    }
                }
                Verdict::Bounds(parent) => {
                    self.elsewhere = true;
                    let parent = database.type_name(parent);
                    self.details.push(format!("{permission}: the bounding type {parent} may not"));
                }
                Verdict::Role => {
                    self.elsewhere = true;
                    self.details.push(format!("{permission}: no rule allows the change of role"))
                }
                Verdict::NoRule => self.details.push(format!("{permission}: no rule allows it")),
            }
            base_may &= Self::base(database, &source, &target, class, bit);
        }
        self.base_may = base_may;
        self.allowed = allowed;
        Ok(())
    }

    /// Whether container_t may do it in the place of its copy.
    fn base(database: &Database, source: &Context, target: &Context, class: u32, bit: u32) -> bool {
        let Ok(base) = database.find_type("container_t") else { return false };
        let copied = |context: &Context| is_copy(database.type_name(context.kind));
        let place = |context: &Context, copied: bool| match copied {
            true => Context { kind: base, ..context.clone() },
            false => context.clone(),
        };
        let of_target = copied(target) && (source.kind == target.kind || !copied(source));
        let (source, target) = (place(source, copied(source)), place(target, of_target));
        database.decide(&source, &target, class).allowed & bit != 0
    }
}
