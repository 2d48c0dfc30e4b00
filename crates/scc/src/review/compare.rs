//! What one SCC allows that another one does not.

use crate::constraint::types::{GroupStrategy, IdRange, RunAsUserStrategy, SecurityContextConstraints};

/// One thing that an SCC allows beyond another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// The field of the SCC that allows it.
    pub field: &'static str,
    /// The value that allows it: `true`, one element of a list, or the type of a strategy.
    pub value: String,
    /// What is allowed, in words.
    pub what: String,
}

/// Everything that `a` allows and `b` does not. Who may use them, and priorities, are no part of the comparison.
pub fn beyond(a: &SecurityContextConstraints, b: &SecurityContextConstraints) -> Vec<Beyond> {
    let mut found = Vec::new();
    let mut add = |field, more: bool, value: &str, what: &str| {
        if more {
            found.push(Beyond { field, value: value.to_owned(), what: what.to_owned() });
        }
    };
    let flags = [
        (
            "allowPrivilegedContainer",
            a.allow_privileged_container,
            b.allow_privileged_container,
            "privileged containers",
        ),
        (
            "allowHostDirVolumePlugin",
            a.allow_host_dir_volume_plugin,
            b.allow_host_dir_volume_plugin,
            "the hostPath volume plug-in",
        ),
        ("allowHostNetwork", a.allow_host_network, b.allow_host_network, "the host's network"),
        ("allowHostPorts", a.allow_host_ports, b.allow_host_ports, "ports of the host"),
        ("allowHostPID", a.allow_host_pid, b.allow_host_pid, "the host's processes"),
        ("allowHostIPC", a.allow_host_ipc, b.allow_host_ipc, "the host's IPC"),
    ];
    for (field, ours, theirs, what) in flags {
        add(field, ours && !theirs, "true", what);
    }
    let escalation = |s: &SecurityContextConstraints| s.allow_privilege_escalation != Some(false);
    add("allowPrivilegeEscalation", escalation(a) && !escalation(b), "true", "privilege escalation");
    let host_users =
        |s: &SecurityContextConstraints| s.user_namespace_level.as_deref() != Some("RequirePodLevel");
    let users = host_users(a) && !host_users(b);
    add("userNamespaceLevel", users, "AllowHostLevel", "the host's user namespace");
    let writable = !a.read_only_root_filesystem && b.read_only_root_filesystem;
    add("readOnlyRootFilesystem", writable, "false", "a writable root file system");
    let user = &a.run_as_user;
    add("runAsUser", !uids_within(user, &b.run_as_user), &user.kind, &uid_words(user));
    let label = |s: &SecurityContextConstraints| s.se_linux_context.kind == "MustRunAs";
    let same = a.se_linux_context.se_linux_options == b.se_linux_context.se_linux_options;
    let words = if label(a) { "another SELinux label" } else { "any SELinux label" };
    add("seLinuxContext", label(b) && !(label(a) && same), &a.se_linux_context.kind, words);
    for (field, ours, theirs) in [
        ("fsGroup", &a.fs_group, &b.fs_group),
        ("supplementalGroups", &a.supplemental_groups, &b.supplemental_groups),
    ] {
        add(field, !groups_within(ours, theirs), &ours.kind, &group_words(ours));
    }
    lists(a, b, &mut found);
    found
}

fn lists(a: &SecurityContextConstraints, b: &SecurityContextConstraints, found: &mut Vec<Beyond>) {
    let mut push =
        |field, value: &str, what: String| found.push(Beyond { field, value: value.to_owned(), what });
    let mut more = |field, ours: &[String], theirs: &[String], what: &str| {
        if theirs.iter().any(|t| t == "*") {
            return;
        }
        if ours.iter().any(|o| o == "*") {
            push(field, "*", format!("every {what}"));
            return;
        }
        for item in ours.iter().filter(|o| !theirs.contains(o)) {
            push(field, item, format!("{what} {item}"));
        }
    };
    let addable = |s: &SecurityContextConstraints| {
        [s.allowed_capabilities.as_slice(), s.default_add_capabilities.as_slice()].concat()
    };
    more("allowedCapabilities", &addable(a), &addable(b), "capability");
    let volumes = |s: &SecurityContextConstraints| -> Vec<String> {
        s.volume_types().iter().filter(|v| *v != "none").cloned().collect()
    };
    more("volumes", &volumes(a), &volumes(b), "volume type");
    more("seccompProfiles", &a.seccomp_profiles, &b.seccomp_profiles, "seccomp profile");
    more("allowedUnsafeSysctls", &a.allowed_unsafe_sysctls, &b.allowed_unsafe_sysctls, "sysctl");
    more("forbiddenSysctls", &b.forbidden_sysctls, &a.forbidden_sysctls, "sysctl");
    // Without a list a pod has no profile; with one it gets the first of the list.
    if a.seccomp_profiles.is_empty() && b.seccomp_profiles.iter().any(|p| p != "*") {
        push("seccompProfiles", "", "pods without a seccomp profile".to_owned());
    }
    for name in &b.required_drop_capabilities {
        let dropped = &a.required_drop_capabilities;
        if dropped.contains(name) || dropped.iter().any(|d| d == "ALL") {
            continue;
        }
        let what = match name.as_str() {
            "ALL" => "the capabilities that the container runtime gives".to_owned(),
            _ => format!("capability {name}, where the container runtime gives it"),
        };
        push("requiredDropCapabilities", name, what);
    }
    let drivers = |s: &SecurityContextConstraints| -> Vec<String> {
        let flex = s.volume_types().iter().any(|v| v == "*" || v == "flexVolume");
        match (flex, s.allowed_flex_volumes.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => vec!["*".to_owned()],
            (true, false) => s.allowed_flex_volumes.iter().map(|f| f.driver.clone()).collect(),
        }
    };
    let (ours, theirs) = (drivers(a), drivers(b));
    if !theirs.iter().any(|t| t == "*") {
        for driver in ours.iter().filter(|d| !theirs.contains(d)) {
            let what =
                if driver == "*" { "every FlexVolume driver".to_owned() } else { format!("driver {driver}") };
            push("allowedFlexVolumes", driver, what);
        }
    }
}

/// Whether every id of these ranges is in those.
fn within(ours: &[IdRange], theirs: &[IdRange]) -> bool {
    ours.iter().filter(|o| o.min <= o.max).all(|o| theirs.iter().any(|t| t.min <= o.min && o.max <= t.max))
}

fn groups_within(a: &GroupStrategy, b: &GroupStrategy) -> bool {
    match (a.kind.as_str(), b.kind.as_str()) {
        (_, "RunAsAny") => true,
        ("RunAsAny", _) => false,
        // Without ranges the namespace's are meant.
        _ if b.ranges.is_empty() => a.ranges.is_empty(),
        _ => !a.ranges.is_empty() && within(&a.ranges, &b.ranges),
    }
}

fn group_words(a: &GroupStrategy) -> String {
    match a.kind.as_str() {
        "RunAsAny" => "any group".to_owned(),
        _ if a.ranges.is_empty() => "the namespace's groups".to_owned(),
        _ => {
            let ranges: Vec<String> = a.ranges.iter().map(|r| format!("{} to {}", r.min, r.max)).collect();
            format!("groups {}", ranges.join(", "))
        }
    }
}

/// The ids of a strategy that names them.
fn uid_range(a: &RunAsUserStrategy) -> Option<IdRange> {
    match a.kind.as_str() {
        "MustRunAs" => a.uid.map(|uid| IdRange { min: uid, max: uid }),
        "MustRunAsRange" => Some(IdRange { min: a.uid_range_min?, max: a.uid_range_max? }),
        _ => None,
    }
}

fn uids_within(a: &RunAsUserStrategy, b: &RunAsUserStrategy) -> bool {
    match (a.kind.as_str(), b.kind.as_str()) {
        (_, "RunAsAny") | ("MustRunAsNonRoot", "MustRunAsNonRoot") => true,
        ("RunAsAny", _) | ("MustRunAsNonRoot", _) => false,
        // The namespace's range never holds 0 when it was allocated.
        (_, "MustRunAsNonRoot") => uid_range(a).is_none_or(|r| r.min > 0 || r.max < 0),
        _ => match (uid_range(a), uid_range(b)) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => within(&[ours], &[theirs]),
            _ => false,
        },
    }
}

fn uid_words(a: &RunAsUserStrategy) -> String {
    match (a.kind.as_str(), uid_range(a)) {
        ("RunAsAny", _) => "any user id, root too".to_owned(),
        ("MustRunAsNonRoot", _) => "any user id but root".to_owned(),
        (_, Some(r)) if r.min == r.max => format!("user id {}", r.min),
        (_, Some(r)) => format!("user ids {} to {}", r.min, r.max),
        _ => "the namespace's user ids".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Constraints;

    fn default(name: &str) -> SecurityContextConstraints {
        Constraints::compile(crate::constraint::defaults::all()).get(name).cloned().unwrap()
    }

    #[test]
    fn nothing_beyond_itself_and_everything_within_privileged() {
        let privileged = default("privileged");
        for scc in crate::constraint::defaults::all() {
            assert_eq!(beyond(&scc, &scc), [], "{}", scc.name());
            let more: Vec<&str> = beyond(&scc, &privileged).iter().map(|b| b.field).collect();
            assert_eq!(more, [""; 0], "{}", scc.name());
        }
    }

    #[test]
    fn hostmount_grants_beyond_restricted() {
        let found = beyond(&default("hostmount-anyuid"), &default("restricted-v2"));
        let has = |field: &str, what: &str| found.iter().any(|b| b.field == field && b.what == what);
        assert!(has("volumes", "volume type hostPath"), "{found:?}");
        assert!(has("runAsUser", "any user id, root too"));
        assert!(has("allowPrivilegeEscalation", "privilege escalation"));
        assert!(has("fsGroup", "any group"));
        assert!(has("seccompProfiles", "pods without a seccomp profile"));
        assert!(found.iter().any(|b| b.field == "allowHostDirVolumePlugin" && b.value == "true"));
        assert!(!found.iter().any(|b| b.field == "seLinuxContext" || b.field == "supplementalGroups"));
    }
}
