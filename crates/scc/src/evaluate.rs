//! Defaulting and checking of one pod under one SCC. Nothing is copied: what would be set is noted in a small
//! record, what is wrong in a list of findings.

use crate::compiled::{Compiled, GroupRule, LabelRule, UserRule};
use crate::names::SECCOMP_POD;
use crate::namespace::{Block, NamespaceValues};
use crate::pod::{Container, Label, Pod};
use crate::refusal::{Finding, Host, Part};
use crate::seccomp::{self, Field, Name};
use crate::types::IdRange;

/// A pod can break so many rules (each container is told about each host port of all containers) that a hostile
/// one could fill the memory; no person reads more than this.
const MOST_FINDINGS: usize = 20_000;

/// A namespace's values, read as far as they can be read.
#[derive(Debug, Default)]
pub(crate) struct Resolved<'a> {
    uids: Option<Block>,
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
    fn push(&mut self, finding: Finding<'a>) -> bool {
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

    fn fs_groups(&self) -> Option<FsGroups<'_>> {
        match self.scc.fs_group {
            GroupRule::Any => None,
            GroupRule::Ranges => Some(FsGroups::Ranges(&self.scc.scc.fs_group.ranges)),
            // Only the first id of the first block, not the block.
            GroupRule::Namespace => Some(FsGroups::Only(self.values.groups.first().map(|b| b.start.into()))),
        }
    }

    fn supplemental_groups(&self) -> Option<FsGroups<'_>> {
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
    fn uid(&self, container: &Container<'_>, change: &ContainerChange<'_>) -> Option<i64> {
        change.run_as_user.or(container.run_as_user).or(self.pod.run_as_user)
    }

    fn check_pod(&self, record: &mut Record<'a>) {
        let (pod, scc) = (self.pod, &self.scc.scc);
        if let Some(groups) = self.fs_groups() {
            let have = record.pod.fs_group.or(pod.fs_group);
            if !have.is_some_and(|g| groups.has(g)) {
                record.push(Finding::FsGroup(have));
            }
        }
        self.check_supplemental(record);
        self.check_pod_seccomp(record);
        if let Some(want) = self.label() {
            // An absent label has just been defaulted to the wanted one.
            check_label(None, pod.label.unwrap_or(want), want, record);
        }
        self.check_host(None, record);
        if self.scc.pod_user_namespace && pod.host_users != Some(false) {
            record.push(Finding::HostUsers(pod.host_users));
        }
        for (index, sysctl) in pod.sysctls.iter().enumerate() {
            let name = sysctl.get("name").and_then(|n| n.as_str()).unwrap_or_default();
            let forbidden = matches_sysctl(&scc.forbidden_sysctls, name);
            let fine = SAFE_SYSCTLS.contains(&name) || matches_sysctl(&scc.allowed_unsafe_sysctls, name);
            if (forbidden || !fine) && !record.push(Finding::Sysctl { index, name, forbidden }) {
                break;
            }
        }
        if !self.scc.volumes.all() {
            for (index, volume) in pod.volumes.iter().enumerate() {
                if !volume.kind.is_some_and(|kind| self.scc.volumes.permits(kind, volume.map)) {
                    record.push(Finding::Volume { index, kind: volume.kind });
                }
            }
        }
        if self.scc.flex {
            for (index, driver) in pod.volumes.iter().enumerate().filter_map(|(i, v)| Some((i, v.driver?))) {
                if !scc.allowed_flex_volumes.iter().any(|f| f.driver == driver) {
                    record.push(Finding::FlexDriver { index, driver });
                }
            }
        }
    }

    fn check_supplemental(&self, record: &mut Record<'a>) {
        let Some(groups) = self.supplemental_groups() else { return };
        match self.pod.supplemental_groups {
            Some([]) => {
                record.push(Finding::SupplementalGroup(None));
            }
            Some(list) => {
                for group in list.iter().filter_map(serde_json::Value::as_i64).filter(|g| !groups.has(*g)) {
                    if !record.push(Finding::SupplementalGroup(Some(group))) {
                        break;
                    }
                }
            }
            None => {
                if !record.pod.supplemental_group.is_some_and(|g| groups.has(g)) {
                    let group = record.pod.supplemental_group;
                    record.push(Finding::SupplementalGroup(group));
                }
            }
        }
    }

    /// The pod's seccomp field after defaulting.
    fn pod_seccomp(&self, record: &Record<'a>) -> Option<Field<'a>> {
        record.pod.seccomp.unwrap_or(self.pod.seccomp)
    }

    /// The pod's seccomp annotation after defaulting; an absent one is empty.
    fn pod_annotation(&self, record: &Record<'a>) -> Name<'a> {
        record
            .pod
            .annotation
            .unwrap_or_else(|| Name::Plain(self.pod.annotation(SECCOMP_POD).unwrap_or_default()))
    }

    fn check_pod_seccomp(&self, record: &mut Record<'a>) {
        if self.scc.all_seccomp {
            return;
        }
        let annotation = self.pod_annotation(record);
        let name = match self.pod_seccomp(record) {
            Some(field) if annotation.is_empty() => field.name(),
            _ => annotation,
        };
        if !seccomp::permits(&self.scc.scc.seccomp_profiles, name) {
            record.push(Finding::Seccomp { at: None, name });
        }
    }

    fn check_host(&self, at: Option<usize>, record: &mut Record<'a>) {
        let (pod, scc) = (self.pod, &self.scc.scc);
        if pod.host_network && !scc.allow_host_network {
            record.push(Finding::Host { at, which: Host::Network });
        }
        if let Some(at) = at.filter(|_| !scc.allow_host_ports) {
            for port in 0..pod.host_ports.len() {
                if !record.push(Finding::HostPort { at, port }) {
                    break;
                }
            }
        }
        if pod.host_pid && !scc.allow_host_pid {
            record.push(Finding::Host { at, which: Host::Pid });
        }
        if pod.host_ipc && !scc.allow_host_ipc {
            record.push(Finding::Host { at, which: Host::Ipc });
        }
    }

    fn check_container(
        &self,
        at: usize,
        container: &Container<'a>,
        change: &ContainerChange<'a>,
        record: &mut Record<'a>,
    ) {
        let scc = &self.scc.scc;
        self.check_user(at, container, change, record);
        if let Some(want) = self.label() {
            check_label(Some(at), container.label.or(self.pod.label).unwrap_or(want), want, record);
        }
        self.check_container_seccomp(at, container, change, record);
        if container.privileged && !scc.allow_privileged_container {
            record.push(Finding::Privileged { at });
        }
        self.check_capabilities(at, container, change, record);
        self.check_host(Some(at), record);
        let read_only = change.read_only_root || container.read_only_root == Some(true);
        if scc.read_only_root_filesystem && !read_only {
            record.push(Finding::ReadOnlyRoot { at });
        }
        let escalation = change.escalation.or(container.escalation);
        if scc.allow_privilege_escalation == Some(false) && escalation != Some(false) {
            record.push(Finding::Escalation { at });
        }
    }

    fn check_user(
        &self,
        at: usize,
        container: &Container<'a>,
        change: &ContainerChange<'a>,
        record: &mut Record<'a>,
    ) {
        let have = self.uid(container, change);
        let mut range = |min: i64, max: i64| {
            if !have.is_some_and(|uid| min <= uid && uid <= max) {
                record.push(Finding::NotInRange { at, have, min, max });
            }
        };
        match self.scc.user {
            UserRule::Any => {}
            UserRule::Exactly(want) => {
                if have != Some(want) {
                    record.push(Finding::NotUid { at, have, want });
                }
            }
            UserRule::Range(min, max) => range(min, max),
            UserRule::NamespaceRange => match self.values.uids {
                Some(block) => range(block.start.into(), block.end.into()),
                None => range(1, 0),
            },
            UserRule::NonRoot => {
                if container.run_as_non_root.or(self.pod.run_as_non_root) == Some(false) {
                    record.push(Finding::NonRootFalse { at });
                } else if have == Some(0) {
                    record.push(Finding::Root { at });
                }
            }
        }
    }

    fn check_container_seccomp(
        &self,
        at: usize,
        container: &Container<'a>,
        change: &ContainerChange<'a>,
        record: &mut Record<'a>,
    ) {
        if self.scc.all_seccomp {
            return;
        }
        let name = match (change.seccomp.unwrap_or(container.seccomp), container.seccomp_annotation) {
            (Some(field), _) => field.name(),
            (None, Some(annotation)) => Name::Plain(annotation),
            (None, None) => {
                self.pod_seccomp(record).map_or_else(|| self.pod_annotation(record), |f| f.name())
            }
        };
        if !seccomp::permits(&self.scc.scc.seccomp_profiles, name) {
            record.push(Finding::Seccomp { at: Some(at), name });
        }
    }

    fn check_capabilities(
        &self,
        at: usize,
        container: &Container<'a>,
        change: &ContainerChange<'a>,
        record: &mut Record<'a>,
    ) {
        if self.scc.all_capabilities {
            return;
        }
        let scc = &self.scc.scc;
        let permitted = |name: &str| {
            let listed = |list: &[String]| list.iter().any(|c| c == name);
            listed(&scc.default_add_capabilities) || listed(&scc.allowed_capabilities)
        };
        let bad = container.add.iter().filter_map(|c| c.as_str()).filter(|name| !permitted(name));
        let mut push = |name| record.push(Finding::Capability { at, name });
        if change.capabilities {
            // The merged lists are sorted and hold each name once.
            let mut bad: Vec<&'a str> = bad.collect();
            bad.sort_unstable();
            bad.dedup();
            for name in bad {
                push(name);
            }
        } else {
            for name in bad {
                push(name);
            }
        }
    }
}

/// Sysctls that cannot disturb anybody outside of the pod.
pub(crate) const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    // Since kernels 3.16 and 4.15, which every kernel that can run the node agent is newer than.
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn matches_sysctl(list: &[String], name: &str) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => entry == name,
    })
}

/// Permitted groups, wherever they come from.
enum FsGroups<'a> {
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

    fn has(&self, group: i64) -> bool {
        match self {
            Self::Ranges(ranges) => ranges.iter().any(|r| r.min <= group && group <= r.max),
            Self::Blocks(blocks) => {
                blocks.iter().any(|b| i64::from(b.start) <= group && group <= i64::from(b.end))
            }
            Self::Only(only) => *only == Some(group),
        }
    }
}

fn check_label<'a>(at: Option<usize>, have: Label<'a>, want: Label<'a>, record: &mut Record<'a>) {
    let mut part = |part, fits: bool, have, want| {
        if !fits {
            record.push(Finding::Label { at, part, have, want });
        }
    };
    part(Part::Level, levels_equal(have.level, want.level), have.level, want.level);
    part(Part::Role, have.role == want.role, have.role, want.role);
    part(Part::Type, have.kind == want.kind, have.kind, want.kind);
    part(Part::User, have.user == want.user, have.user, want.user);
}

/// Levels are equal when their categories are the same in any order; ranges of categories are not expanded.
fn levels_equal(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let (Some((left_a, right_a)), Some((left_b, right_b))) = (a.split_once(':'), b.split_once(':')) else {
        return false;
    };
    if left_a != left_b || right_a.len() != right_b.len() {
        return false;
    }
    let sorted = |text: &'_ str| {
        let mut items: Vec<String> = text.split(',').map(str::to_owned).collect();
        items.sort_unstable();
        items
    };
    sorted(right_a) == sorted(right_b)
}

fn lists(list: &[serde_json::Value], name: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_compare_their_categories_as_a_multiset() {
        assert!(levels_equal("s0:c1,c2", "s0:c2,c1"));
        assert!(!levels_equal("s0:c1,c2", "s0:c1.c2"));
        assert!(!levels_equal("s0:c1,c1,c2", "s0:c1,c2,c2"));
        assert!(!levels_equal("s0", "s0:"));
        assert!(levels_equal("", ""));
        assert!(!levels_equal("s0:c1,c2", "s0: c2,c1"));
    }

    #[test]
    fn sysctl_prefixes() {
        let list = ["net.*".to_owned(), "kernel.sem".to_owned()];
        assert!(matches_sysctl(&list, "net.core"));
        assert!(!matches_sysctl(&list, "kernel.sem2"));
        assert!(matches_sysctl(&["*".to_owned()], ""));
    }
}
