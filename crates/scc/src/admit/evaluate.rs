//! Defaulting and checking of one pod under one SCC. Nothing is copied: what would be set is noted in a small
//! record, what is wrong in a list of findings.

use crate::constraint::compiled::{Compiled, GroupRule, LabelRule, UserRule};
use crate::constraint::types::IdRange;
use crate::names::SECCOMP_POD;
use crate::namespace::{Block, NamespaceValues};
use crate::pod::seccomp::{Field, Name};
use crate::pod::{Container, Label, Pod};
use crate::report::refusal::Finding;

/// A pod can break so many rules (each container is reported for each host port of all containers) that a hostile
/// one could fill the memory; no person reads more than this.
const MOST_FINDINGS: usize = 20_000;

/// A namespace's values, read as far as they can be read.
#[derive(Debug, Default)]
pub(crate) struct Resolved<'a> {
    pub(super) uids: Option<Block>,
    level: &'a str,
    groups: Vec<Block>,
}

impl<'a> Resolved<'a> {
    pub(crate) fn of(values: &NamespaceValues<'a>) -> Resolved<'a> {
        Resolved {
            uids: values.uids().ok(),
            level: values.mcs.unwrap_or_default(),
            groups: values.groups().unwrap_or_default(),
        }
    }
}

/// What would be set on the pod itself.
#[derive(Debug, Default)]
pub(crate) struct PodChange<'a> {
    pub(crate) supplemental_group: Option<i64>,
    pub(crate) fs_group: Option<i64>,
    pub(crate) label: bool,
    pub(crate) annotation: Option<Name<'a>>,
    /// The new value of the field, which may be "no field".
    pub(crate) seccomp: Option<Option<Field<'a>>>,
}

impl PodChange<'_> {
    /// How many fields of the security context change.
    pub(crate) fn settings(&self) -> usize {
        usize::from(self.supplemental_group.is_some())
            + usize::from(self.fs_group.is_some())
            + usize::from(self.label)
            + usize::from(self.seccomp.is_some())
    }
}

/// What would be set on one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerChange<'a> {
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_non_root: bool,
    /// Both lists are replaced by the merged ones.
    pub(crate) capabilities: bool,
    pub(crate) read_only_root: bool,
    pub(crate) seccomp: Option<Option<Field<'a>>>,
    pub(crate) escalation: Option<bool>,
}

impl ContainerChange<'_> {
    /// How many fields of the security context change, not counting the capabilities.
    pub(crate) fn settings(&self) -> usize {
        usize::from(self.run_as_user.is_some())
            + usize::from(self.run_as_non_root)
            + usize::from(self.read_only_root)
            + usize::from(self.seccomp.is_some())
            + usize::from(self.escalation.is_some())
    }
}

/// The record of evaluations; one serves for many SCCs in turn.
#[derive(Debug, Default)]
pub(crate) struct Record<'a> {
    pub(crate) findings: Vec<Finding<'a>>,
    pub(crate) pod: PodChange<'a>,
    pub(crate) containers: Vec<ContainerChange<'a>>,
    failed: bool,
}

impl<'a> Record<'a> {
    /// Notes a violation; `false` when the list is full.
    pub(super) fn push(&mut self, finding: Finding<'a>) -> bool {
        self.failed = true;
        let room = self.findings.len() < MOST_FINDINGS;
        if room {
            self.findings.push(finding);
        }
        room
    }

    /// Whether the pod itself would be changed.
    fn pod_changed(&self) -> bool {
        let c = &self.pod;
        c.supplemental_group.is_some()
            || c.fs_group.is_some()
            || c.label
            || c.annotation.is_some()
            || c.seccomp.is_some()
    }

    /// Whether anything would be changed, or anything outside of the ephemeral containers.
    pub(crate) fn changed(&self, pod: &Pod<'_>, ephemeral_may: bool) -> bool {
        let counts = |c: &Container<'_>| !(ephemeral_may && c.kind == crate::pod::Kind::Ephemeral);
        let none = ContainerChange::default();
        self.pod_changed()
            || self.containers.iter().zip(&pod.containers).any(|(change, c)| *change != none && counts(c))
    }
}

/// One pod under one SCC in one namespace.
pub(crate) struct Evaluation<'a, 'r> {
    pub(crate) scc: &'a Compiled,
    pub(crate) pod: &'r Pod<'a>,
    pub(crate) values: &'r Resolved<'a>,
}

impl<'a> Evaluation<'a, '_> {
    /// Fills the record; `true` when the pod fits. Findings are added to those that are there.
    pub(crate) fn run(&self, record: &mut Record<'a>) -> bool {
        record.failed = false;
        record.pod = self.pod_defaults();
        record.containers.clear();
        record.containers.reserve_exact(self.pod.containers.len());
        self.check_pod(record);
        for (at, container) in self.pod.containers.iter().enumerate() {
            let change = self.container_defaults(container);
            self.check_container(at, container, &change, record);
            record.containers.push(change);
        }
        !record.failed
    }

    /// The label that `MustRunAs` demands.
    pub(crate) fn label(&self) -> Option<Label<'a>> {
        let level = match self.scc.label {
            LabelRule::Any => return None,
            LabelRule::NamespaceLevel => Some(self.values.level),
            LabelRule::Label => None,
        };
        let options = self.scc.scc.se_linux_context.se_linux_options.as_ref();
        let mut label = options.map_or_else(Label::default, |o| Label {
            user: &o.user,
            role: &o.role,
            kind: &o.kind,
            level: &o.level,
        });
        if let Some(level) = level {
            label.level = level;
        }
        Some(label)
    }

    pub(super) fn fs_groups(&self) -> Option<FsGroups<'_>> {
        match self.scc.fs_group {
            GroupRule::Any => None,
            GroupRule::Ranges => Some(FsGroups::Ranges(&self.scc.scc.fs_group.ranges)),
            // Only the first id of the first block, not the block.
            GroupRule::Namespace => Some(FsGroups::Only(self.values.groups.first().map(|b| b.start.into()))),
        }
    }

    pub(super) fn supplemental_groups(&self) -> Option<FsGroups<'_>> {
        match self.scc.supplemental {
            GroupRule::Any => None,
            GroupRule::Ranges => Some(FsGroups::Ranges(&self.scc.scc.supplemental_groups.ranges)),
            GroupRule::Namespace => Some(FsGroups::Blocks(&self.values.groups)),
        }
    }

    /// The pod's supplemental groups after defaulting.
    pub(crate) fn groups_after(&self) -> Vec<i64> {
        match self.pod.supplemental_groups {
            Some(list) => list.iter().filter_map(serde_json::Value::as_i64).collect(),
            None => self.supplemental_groups().and_then(|g| g.first()).into_iter().collect(),
        }
    }

    fn pod_defaults(&self) -> PodChange<'a> {
        let pod = self.pod;
        let mut change = PodChange::default();
        if pod.supplemental_groups.is_none() {
            change.supplemental_group = self.supplemental_groups().and_then(|g| g.first());
        }
        if pod.fs_group.is_none() {
            change.fs_group = self.fs_groups().and_then(|g| g.first());
        }
        change.label = pod.label.is_none() && self.scc.label != LabelRule::Any;
        let annotation = pod.annotation(SECCOMP_POD).filter(|a| !a.is_empty());
        let first = || self.scc.scc.seccomp_profiles.iter().find(|p| *p != "*");
        let name = match (annotation, pod.seccomp) {
            (Some(name), _) => Name::Plain(name),
            (None, Some(field)) => field.name(),
            (None, None) => Name::Plain(first().map_or("", String::as_str)),
        };
        if !name.is_empty() {
            if annotation.is_none() {
                change.annotation = Some(name);
            }
            if name.field() != pod.seccomp {
                change.seccomp = Some(name.field());
            }
        }
        change
    }

    fn container_defaults(&self, container: &Container<'a>) -> ContainerChange<'a> {
        let mut change = ContainerChange::default();
        let scc = &self.scc.scc;
        if container.run_as_user.or(self.pod.run_as_user).is_none() {
            change.run_as_user = match self.scc.user {
                UserRule::Exactly(uid) => Some(uid),
                UserRule::Range(min, _) => Some(min),
                UserRule::NamespaceRange => self.values.uids.map(|b| b.start.into()),
                UserRule::NonRoot | UserRule::Any => None,
            };
        }
        if container.run_as_non_root.or(self.pod.run_as_non_root).is_none() {
            change.run_as_non_root = match self.uid(container, &change) {
                Some(uid) => uid > 0,
                None => matches!(self.scc.user, UserRule::NonRoot),
            };
        }
        change.capabilities = capabilities_grow(self.scc, container);
        change.read_only_root = container.read_only_root.is_none() && scc.read_only_root_filesystem;
        if let Some(annotation) = container.seccomp_annotation {
            let field = Name::Plain(annotation).field();
            if field != container.seccomp {
                change.seccomp = Some(field);
            }
        }
        if container.escalation.is_none() {
            let default = scc.default_allow_privilege_escalation;
            if default.is_some() && !container.privileged && !adds_sys_admin(self.scc, container) {
                change.escalation = default;
            } else if scc.allow_privilege_escalation == Some(false) {
                change.escalation = Some(false);
            }
        }
        change
    }

    /// The effective user id after defaulting.
    pub(super) fn uid(&self, container: &Container<'_>, change: &ContainerChange<'_>) -> Option<i64> {
        change.run_as_user.or(container.run_as_user).or(self.pod.run_as_user)
    }
}

/// Permitted groups, wherever they come from.
pub(super) enum FsGroups<'a> {
    Ranges(&'a [IdRange]),
    Blocks(&'a [Block]),
    Only(Option<i64>),
}

impl FsGroups<'_> {
    fn first(&self) -> Option<i64> {
        match self {
            Self::Ranges(ranges) => ranges.first().map(|r| r.min),
            Self::Blocks(blocks) => blocks.first().map(|b| b.start.into()),
            Self::Only(group) => *group,
        }
    }

    pub(super) fn has(&self, group: i64) -> bool {
        match self {
            Self::Ranges(ranges) => ranges.iter().any(|r| r.min <= group && group <= r.max),
            Self::Blocks(blocks) => {
                blocks.iter().any(|b| i64::from(b.start) <= group && group <= i64::from(b.end))
            }
            Self::Only(only) => *only == Some(group),
        }
    }
}

pub(super) fn lists(list: &[serde_json::Value], name: &str) -> bool {
    list.iter().any(|c| c.as_str() == Some(name))
}

/// Default additions that the container does not drop by their own name.
pub(crate) fn default_adds<'s>(
    scc: &'s Compiled,
    container: &Container<'_>,
) -> impl Iterator<Item = &'s String> {
    let drop = container.drop;
    scc.scc.default_add_capabilities.iter().filter(move |c| !lists(drop, c))
}

fn capabilities_grow(scc: &Compiled, container: &Container<'_>) -> bool {
    default_adds(scc, container).any(|c| !lists(container.add, c))
        || scc.scc.required_drop_capabilities.iter().any(|c| !lists(container.drop, c))
}

fn adds_sys_admin(scc: &Compiled, container: &Container<'_>) -> bool {
    lists(container.add, "CAP_SYS_ADMIN") || default_adds(scc, container).any(|c| c == "CAP_SYS_ADMIN")
}
