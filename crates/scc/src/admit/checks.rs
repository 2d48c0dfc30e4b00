//! What is wrong with a pod under one SCC, once its defaults are known.

use crate::admit::evaluate::{ContainerChange, Evaluation, Record};
use crate::constraint::compiled::UserRule;
use crate::names::SECCOMP_POD;
use crate::pod::seccomp::{self, Field, Name};
use crate::pod::{Container, Label};
use crate::report::refusal::{Finding, Host, Part};

impl<'a> Evaluation<'a, '_> {
    pub(super) fn check_pod(&self, record: &mut Record<'a>) {
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

    pub(super) fn check_container(
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
