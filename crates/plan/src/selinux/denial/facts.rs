//! What is known of a denial, computed once, and the rules that make its kind of it.

use super::{
    Allowed,
    kind::{Kind, Topic},
    types::{
        apart, categories, is_container, is_copy, is_everywhere, is_minimal, is_named_container, low, parts,
    },
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
    /// Whether a container's target has categories that the source lacks, though not in its low level.
    pub(super) above: bool,
    /// Whether source or target are copies of container_t.
    pub(super) copy: bool,
    /// Whether a container's domain tries to leave its confinement.
    escape: bool,
    /// Whether the source is to change its domain.
    enters: bool,
    /// Whether a domain that is no container's starts a container that is no machine of ours.
    starts: bool,
    /// Whether the source is a container's.
    container: bool,
    /// Whether container_t may do it in the place of its copy, and the copy may not.
    lost: bool,
    /// Whether container_t may do it in each base that is known.
    everywhere: bool,
    /// Whether no feature needs it of the memory's files and directories.
    needless: bool,
}

/// When a denial is of a kind.
pub(super) struct Rule {
    pub(super) kind: Kind,
    holds: fn(&Facts<'_>) -> bool,
    /// The facts that the kind rests on, as the report gives them.
    pub(super) because: &'static str,
}

/// The kinds in order of precedence: the first whose condition holds is the denial's.
const RULES: [Rule; 13] = [
    Rule {
        kind: Kind::UnknownContext,
        holds: |facts| facts.judged.as_ref().is_some_and(|judged| !judged.known),
        because: "the policy does not know a context or the class",
    },
    Rule {
        kind: Kind::AllowedNow,
        holds: |facts| facts.judged.as_ref().is_some_and(|judged| judged.allowed),
        because: "the policy that was given allows all of it",
    },
    Rule {
        kind: Kind::Query,
        holds: |facts| {
            facts.denial.class == "security"
                && facts.denial.permissions.iter().all(|name| QUERIES.contains(&name.as_str()))
        },
        because: "the class is security, and the permission is one of asking",
    },
    Rule {
        kind: Kind::MislabelledRuntime,
        holds: |facts| facts.enters && facts.starts,
        because: "a domain that is no container's is to become a container's",
    },
    Rule {
        kind: Kind::EscapeAttempt,
        holds: |facts| facts.escape,
        because: "the source is a container's domain, and it is to change its own domain or the policy",
    },
    Rule {
        // Neither a missing rule nor two machines.
        kind: Kind::Other,
        holds: |facts| facts.judged.as_ref().is_some_and(|judged| judged.elsewhere),
        because: "users, roles or bounds of the policy refuse it",
    },
    Rule {
        kind: Kind::Isolation,
        holds: |facts| facts.constraint,
        because: "the target has categories that the source lacks",
    },
    Rule {
        kind: Kind::ForeignTap,
        holds: |facts| {
            facts.denial.class == "tun_socket" && facts.target != "self" && facts.granted.is_none()
        },
        because: "the class is tun_socket, and source and target are two domains",
    },
    Rule {
        kind: Kind::Boolean,
        holds: |facts| facts.judged.as_ref().is_some_and(|judged| judged.boolean),
        because: "the policy has the rule under a condition that is off",
    },
    Rule {
        kind: Kind::FeatureRule,
        holds: |facts| facts.granted.is_some(),
        because: "the privilege table has a row for it",
    },
    Rule {
        kind: Kind::LostFromBase,
        holds: |facts| facts.lost,
        because: "container_t may do it, and the type is a copy of container_t",
    },
    Rule {
        kind: Kind::NotGranted,
        holds: |facts| facts.target == "sysfs_t" && facts.container && !facts.everywhere,
        because: "the target is sysfs_t, of which the privilege table grants less",
    },
    Rule {
        kind: Kind::BaseGap,
        holds: |facts| {
            let memory = matches!(facts.topic, Topic::HugePages | Topic::MemoryBacking);
            memory && facts.container && !facts.needless && !is_minimal(facts.source)
        },
        because: "the target is guest memory, and no row of the privilege table grants it",
    },
];

/// Permissions of the class `security` with which a program asks what the policy says. They change nothing
/// (`sel_write_access` and its siblings in the kernel's security/selinux/selinuxfs.c).
const QUERIES: [&str; 7] = [
    "check_context",
    "compute_av",
    "compute_create",
    "compute_member",
    "compute_relabel",
    "compute_user",
    "validate_trans",
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
            // Categories in the low level are those of one container; a node's service has all of them above its low one.
            None => {
                let of_one = !categories(low(target_level)).is_empty();
                container && class != "tun_socket" && of_one && apart(source_level, target_level)
            }
        };
        let above = container && class != "tun_socket" && !constraint && apart(source_level, target_level);
        let named = is_named_container(source);
        let enters = class == "process" && has(&["dyntransition", "transition"])
            || class == "process2" && has(&["nnp_transition", "nosuid_transition"]);
        // Into a machine's type it is the runtime or the node's agent that starts the machine.
        let starts = !named && is_named_container(kind) && !is_minimal(kind) && !is_copy(kind);
        let escape = named
            && (class == "security"
                || kind == "security_t"
                || enters
                || class == "process" && has(&["setcurrent", "setexec"]));
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
            above,
            copy,
            escape,
            enters,
            starts,
            container,
            lost,
            everywhere,
            needless,
        }
    }

    /// The first rule whose condition holds.
    pub(super) fn rule(&self) -> Option<&'static Rule> {
        const { &RULES }.iter().find(|rule| (rule.holds)(self))
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
    let base = database.find_type(crate::selinux::module::COPIED)?;
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
