//! A cluster's SCCs, prepared once per change: sorted, indexed, with everything decided that needs no pod.

use std::collections::{BTreeMap, HashMap};

use crate::admit::candidates::Candidates;
use crate::constraint::order;
use crate::constraint::types::{GroupStrategy, SecurityContextConstraints};
use crate::namespace::NamespaceValues;
use crate::pod::volume;

/// SCCs that must exist before any pod is admitted, sorted.
pub const STANDARD_NAMES: [&str; 10] = [
    "anyuid",
    "hostaccess",
    "hostmount-anyuid",
    "hostnetwork",
    "hostnetwork-v2",
    "nonroot",
    "nonroot-v2",
    "privileged",
    "restricted",
    "restricted-v2",
];

/// Which user ids.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UserRule {
    Exactly(i64),
    Range(i64, i64),
    NamespaceRange,
    NonRoot,
    Any,
}

/// Which groups. The ranges themselves stay in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupRule {
    Ranges,
    Namespace,
    Any,
}

/// Which labels. The label itself stays in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LabelRule {
    Label,
    NamespaceLevel,
    Any,
}

/// One SCC, ready to check pods.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) name: String,
    pub(crate) scc: SecurityContextConstraints,
    pub(crate) user: UserRule,
    pub(crate) label: LabelRule,
    pub(crate) fs_group: GroupRule,
    pub(crate) supplemental: GroupRule,
    pub(crate) volumes: volume::Set,
    pub(crate) all_capabilities: bool,
    pub(crate) flex: bool,
    pub(crate) pod_user_namespace: bool,
    pub(crate) all_seccomp: bool,
    /// A setting that no pod can be checked under.
    fault: Option<String>,
}

impl Compiled {
    fn new(scc: SecurityContextConstraints) -> Compiled {
        let mut fault = None;
        let mut broken = |text: String| {
            fault.get_or_insert(text);
        };
        let user = user_rule(&scc, &mut broken);
        let options = scc.se_linux_context.se_linux_options.as_ref();
        let label = match scc.se_linux_context.kind.as_str() {
            "MustRunAs" if options.is_none_or(|o| o.level.is_empty()) => LabelRule::NamespaceLevel,
            "MustRunAs" => LabelRule::Label,
            "RunAsAny" => LabelRule::Any,
            other => {
                broken(format!("Unrecognized SELinuxContext strategy type {other}"));
                LabelRule::Label
            }
        };
        let fs_group = group_rule(&scc.fs_group, "FSGroup", &mut broken);
        let supplemental = group_rule(&scc.supplemental_groups, "SupplementalGroups", &mut broken);
        let volumes = volume::Set::of(scc.volume_types());
        Compiled {
            name: scc.name().to_owned(),
            user,
            label,
            fs_group,
            supplemental,
            volumes,
            all_capabilities: scc.allowed_capabilities.iter().any(|c| c == "*"),
            flex: !scc.allowed_flex_volumes.is_empty()
                && scc.volume_types().iter().any(|v| v == "*" || v == "flexVolume"),
            pod_user_namespace: scc.user_namespace_level.as_deref() == Some("RequirePodLevel"),
            all_seccomp: scc.seccomp_profiles.iter().any(|p| p == "*"),
            fault,
            scc,
        }
    }

    fn uses_uids(&self) -> bool {
        matches!(self.user, UserRule::NamespaceRange)
    }

    fn uses_groups(&self) -> bool {
        self.fs_group == GroupRule::Namespace || self.supplemental == GroupRule::Namespace
    }

    /// Why this SCC cannot be used in a namespace with these values, if so.
    pub(crate) fn build_error(&self, namespace: &str, values: &NamespaceValues<'_>) -> Option<String> {
        let unresolved = |what: &str, why: String| {
            let name = &self.name;
            format!(
                "unable to find pre-allocated {what} annotation for namespace {namespace} \
                 while trying to configure SCC {name}: {why}"
            )
        };
        let uid = self.uses_uids().then(|| values.uids().err()).flatten().map(|why| unresolved("uid", why));
        let level = || {
            let level = (self.label == LabelRule::NamespaceLevel).then(|| values.level().err()).flatten();
            level.map(|why| unresolved("mcs", why))
        };
        let groups = || {
            let groups = self.uses_groups().then(|| values.groups().err()).flatten();
            groups.map(|why| unresolved("group", why))
        };
        let fault = || {
            let name = &self.name;
            let why = self.fault.as_ref()?;
            Some(format!("error creating provider for SCC {name} in namespace {namespace}: {why}"))
        };
        uid.or_else(level).or_else(groups).or_else(fault)
    }
}

fn user_rule(scc: &SecurityContextConstraints, broken: &mut impl FnMut(String)) -> UserRule {
    let strategy = &scc.run_as_user;
    match strategy.kind.as_str() {
        "MustRunAs" => match strategy.uid {
            Some(uid) => UserRule::Exactly(uid),
            None => {
                broken("MustRunAs requires a UID".to_owned());
                UserRule::NonRoot
            }
        },
        "MustRunAsRange" => match (strategy.uid_range_min, strategy.uid_range_max) {
            (None, None) => UserRule::NamespaceRange,
            (Some(min), Some(max)) => UserRule::Range(min, max),
            (min, _) => {
                let missing = if min.is_none() { "Min" } else { "Max" };
                broken(format!("MustRunAsRange requires a UIDRange{missing}"));
                UserRule::NonRoot
            }
        },
        "MustRunAsNonRoot" => UserRule::NonRoot,
        "RunAsAny" => UserRule::Any,
        other => {
            broken(format!("Unrecognized RunAsUser strategy type {other}"));
            UserRule::NonRoot
        }
    }
}

fn group_rule(strategy: &GroupStrategy, what: &str, broken: &mut impl FnMut(String)) -> GroupRule {
    match strategy.kind.as_str() {
        "MustRunAs" if strategy.ranges.is_empty() => GroupRule::Namespace,
        "MustRunAs" => GroupRule::Ranges,
        "RunAsAny" => GroupRule::Any,
        other => {
            broken(format!("Unrecognized {what} strategy type {other}"));
            GroupRule::Ranges
        }
    }
}

/// All SCCs of a cluster in the order in which they are tried. Make a new one when an SCC changes.
#[derive(Clone, Debug)]
pub struct Constraints {
    pub(crate) list: Vec<Compiled>,
    pub(crate) by_name: HashMap<String, usize>,
    /// Positions of the SCCs that name a user, or a group, themselves.
    pub(crate) by_user: HashMap<String, Vec<u32>>,
    pub(crate) by_group: HashMap<String, Vec<u32>>,
    /// Standard SCCs that do not exist, sorted.
    pub(crate) missing: Vec<&'static str>,
    faults: bool,
    uses_uids: bool,
    uses_level: bool,
    uses_groups: bool,
}

impl Constraints {
    /// Prepares SCCs exactly as given (no defaulting is done). Of two with the same name the later one counts.
    pub fn compile(sccs: impl IntoIterator<Item = SecurityContextConstraints>) -> Constraints {
        let unique: BTreeMap<String, SecurityContextConstraints> =
            sccs.into_iter().map(|s| (s.name().to_owned(), s)).collect();
        let mut sorted: Vec<(u32, SecurityContextConstraints)> =
            unique.into_values().map(|s| (order::points(&s), s)).collect();
        sorted.sort_by(|a, b| order::compare((&a.1, a.0), (&b.1, b.0)));
        let list: Vec<Compiled> = sorted.into_iter().map(|(_, scc)| Compiled::new(scc)).collect();
        let by_name: HashMap<String, usize> =
            list.iter().enumerate().map(|(n, c)| (c.name.clone(), n)).collect();
        let missing = STANDARD_NAMES.into_iter().filter(|n| !by_name.contains_key(*n)).collect();
        Constraints {
            by_user: index(&list, |c| &c.scc.users),
            by_group: index(&list, |c| &c.scc.groups),
            missing,
            faults: list.iter().any(|c| c.fault.is_some()),
            uses_uids: list.iter().any(Compiled::uses_uids),
            uses_level: list.iter().any(|c| c.label == LabelRule::NamespaceLevel),
            uses_groups: list.iter().any(Compiled::uses_groups),
            by_name,
            list,
        }
    }

    /// The SCCs in the order in which they are tried.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SecurityContextConstraints> {
        self.list.iter().map(|c| &c.scc)
    }

    /// The SCC of this name.
    pub fn get(&self, name: &str) -> Option<&SecurityContextConstraints> {
        self.compiled(name).map(|c| &c.scc)
    }

    /// Standard SCCs that do not exist; while there is one, no pod is admitted.
    pub fn missing_standard(&self) -> &[&'static str] {
        &self.missing
    }

    pub(crate) fn compiled(&self, name: &str) -> Option<&Compiled> {
        self.by_name.get(name).and_then(|n| self.list.get(*n))
    }

    /// Why candidates cannot be used in this namespace, in the order in which they are tried. The usual answer, none, is
    /// found without looking at each.
    pub(crate) fn build_errors(
        &self,
        candidates: Candidates,
        namespace: &str,
        values: &NamespaceValues<'_>,
    ) -> Vec<String> {
        let fine = !self.faults
            && (!self.uses_uids || values.uids().is_ok())
            && (!self.uses_level || values.level().is_ok())
            && (!self.uses_groups || groups_parse(values));
        if fine {
            return Vec::new();
        }
        let candidates = candidates.iter(self.list.len()).filter_map(|at| self.list.get(at));
        candidates.filter_map(|c| c.build_error(namespace, values)).collect()
    }
}

/// As [`NamespaceValues::groups`], without making the list.
fn groups_parse(values: &NamespaceValues<'_>) -> bool {
    let parses = |text: &str| text.split(',').all(|b| crate::namespace::Block::parse(b).is_ok());
    values.groups_text().is_ok_and(parses)
}

fn index(list: &[Compiled], names: impl Fn(&Compiled) -> &Vec<String>) -> HashMap<String, Vec<u32>> {
    let mut map: HashMap<String, Vec<u32>> = HashMap::new();
    for (n, compiled) in list.iter().enumerate() {
        for name in names(compiled) {
            map.entry(name.clone()).or_default().push(u32::try_from(n).unwrap_or(u32::MAX));
        }
    }
    map
}
