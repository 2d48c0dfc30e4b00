//! What is known of a denial, computed once, and the rules that make its kind of it.

use super::{
    Allowed,
    kind::{Kind, Topic},
    types::{apart, categories, is_container, is_copy, is_everywhere, is_minimal, parts},
};
use ferrovirt_selinux::{
    Database, LookupError,
    avc::{Denial, Event, Judged},
    policy::Context,
};

/// What no feature needs of the memory's files and directories: other labels, other names, other programs.
const NEEDLESS: [&str; 8] =
    ["entrypoint", "execmod", "link", "mounton", "relabelfrom", "relabelto", "rename", "reparent"];

/// What is known of a denial.
pub(super) struct Facts<'a> {
    pub(super) denial: &'a Denial,
    /// The source's type.
    pub(super) source: &'a str,
    /// The target's type, `self` for the source itself.
    pub(super) target: &'a str,
    /// What the policy says, where one was given.
    pub(super) judged: Option<Judged>,
    /// What the denial is about.
    pub(super) topic: Topic,
    /// What the privilege table says about the first permission that it grants, where all of them fit.
    pub(super) granted: Option<String>,
    /// Whether a constraint denied it; without a policy, whether the levels are apart.
    pub(super) constraint: bool,
    /// Whether source or target are copies of container_t.
    pub(super) copy: bool,
    /// Whether the domain tries to leave its confinement.
    escape: bool,
    /// Whether the source is a container's.
    container: bool,
    /// Whether container_t may do it in the place of its copy, and the copy may not.
    lost: bool,
    /// Whether container_t may do it in each base that is known.
    everywhere: bool,
    /// Whether no feature needs it of the memory's files and directories.
    needless: bool,
}

/// The kinds in order of precedence: the first whose condition holds is the denial's.
pub(super) const RULES: [(Kind, fn(&Facts<'_>) -> bool); 11] = [
    (Kind::UnknownContext, |facts| facts.judged.as_ref().is_some_and(|judged| !judged.known)),
    (Kind::AllowedNow, |facts| facts.judged.as_ref().is_some_and(|judged| judged.allowed)),
    (Kind::EscapeAttempt, |facts| facts.escape),
    // Users, roles or bounds refuse it: neither a missing rule nor two machines.
    (Kind::Other, |facts| facts.judged.as_ref().is_some_and(|judged| judged.elsewhere)),
    (Kind::Isolation, |facts| facts.constraint),
    (Kind::ForeignTap, |facts| {
        facts.denial.class == "tun_socket" && facts.target != "self" && facts.granted.is_none()
    }),
    (Kind::Boolean, |facts| facts.judged.as_ref().is_some_and(|judged| judged.boolean)),
    (Kind::FeatureRule, |facts| facts.granted.is_some()),
    (Kind::LostFromBase, |facts| facts.lost),
    (Kind::NotGranted, |facts| facts.target == "sysfs_t" && facts.container && !facts.everywhere),
    (Kind::BaseGap, |facts| {
        let memory = matches!(facts.topic, Topic::HugePages | Topic::MemoryBacking);
        memory && facts.container && !facts.needless && !is_minimal(facts.source)
    }),
];

impl<'a> Facts<'a> {
    pub(super) fn new(
        event: &Event,
        denial: &'a Denial,
        database: Option<&Database>,
        allowed: Allowed<'_>,
    ) -> Self {
        let ((source, source_level), (kind, target_level)) = (parts(&denial.source), parts(&denial.target));
        let target = if source == kind { "self" } else { kind };
        let class = denial.class.as_str();
        let has = |names: &[&str]| denial.permissions.iter().any(|name| names.contains(&name.as_str()));
        let grant = |permission: &String| allowed(source, target, class, permission);
        let container = is_container(source, source_level);
        // What comes with it must be what every container may do.
        let fits =
            |permission: &String| grant(permission).is_some() || is_everywhere(target, class, permission);
        let fitting = container && denial.permissions.iter().all(fits);
        let granted = denial.permissions.iter().find_map(grant).filter(|_| fitting);
        let judged = database.map(|database| Judged::new(database, denial));
        let constraint = match judged.as_ref().filter(|judged| judged.known) {
            Some(judged) => judged.constraint,
            None => container && class != "tun_socket" && apart(source_level, target_level),
        };
        // Into a machine's type it is the runtime or the node's agent that starts the machine.
        let starts = kind.contains('.') && !container;
        let escape = class == "security"
            || kind == "security_t"
            || class == "process" && has(&["setcurrent", "setexec"])
            || class == "process" && has(&["dyntransition", "transition"]) && !starts
            || class == "process2" && has(&["nnp_transition", "nosuid_transition"]) && !starts;
        let everywhere = denial.permissions.iter().all(|name| is_everywhere(target, class, name));
        let copy = is_copy(source) || is_copy(kind);
        let lost = match database {
            Some(database) => copy && base_may(database, denial).unwrap_or(false),
            // Where new files of memory take their level from the file system (container-selinux), those of container_t
            // become container_file_t by a transition. One that is tmpfs_t was made without it.
            None => {
                let from_file_system =
                    !categories(source_level).is_empty() && categories(target_level).is_empty();
                let memory = target == "tmpfs_t" && matches!(class, "file" | "memfd_file");
                is_copy(source) && (everywhere || memory && from_file_system)
            }
        };
        let needless = has(&NEEDLESS)
            || class == "filesystem" && denial.permissions.iter().any(|name| name != "getattr");
        let topic = topic(event, class, kind, has(&["attach_queue"]), granted.is_some());
        Self {
            denial,
            source,
            target,
            judged,
            topic,
            granted,
            constraint,
            copy,
            escape,
            container,
            lost,
            everywhere,
            needless,
        }
    }

    /// The first kind whose condition holds.
    pub(super) fn kind(&self) -> Kind {
        RULES.iter().find(|(_, holds)| holds(self)).map_or(Kind::Other, |(kind, _)| *kind)
    }
}

fn topic(event: &Event, class: &str, target: &str, attaches: bool, granted: bool) -> Topic {
    match (class, target) {
        ("tun_socket", _) if attaches || event.tun_request() == Some("TUNSETQUEUE") => {
            Topic::NetworkMultiqueue
        }
        ("tun_socket", _) => Topic::NetworkTap,
        ("file" | "dir" | "filesystem", "hugetlbfs_t") => Topic::HugePages,
        ("file" | "memfd_file", "tmpfs_t") => Topic::MemoryBacking,
        ("file", "sysfs_t") if granted => Topic::Sriov,
        _ => Topic::None,
    }
}

/// Whether container_t may do all of it in the place of its copies.
fn base_may(database: &Database, denial: &Denial) -> Result<bool, LookupError> {
    let base = database.find_type(crate::installed::COPIED)?;
    let source = database.find_context(&denial.source)?;
    let target = database.find_context(&denial.target)?;
    let class = database.find_class(&denial.class)?;
    let copied = |context: &Context| is_copy(database.type_name(context.kind));
    let place = |context: &Context, copied: bool| match copied {
        true => Context { kind: base, ..context.clone() },
        false => context.clone(),
    };
    let of_target = copied(&target) && (source.kind == target.kind || !copied(&source));
    let allowed =
        database.decide(&place(&source, copied(&source)), &place(&target, of_target), class).allowed;
    for permission in &denial.permissions {
        if allowed & database.find_permission(class, permission)? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
