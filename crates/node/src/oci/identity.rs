//! The identity of a container's process: exactly its security context.

use super::bundle::Error;
use crate::selinux::Label;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::BTreeSet;

/// What a container has that neither drops nor adds: the set that container engines agree on.
const USUAL: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Users, groups and rights of the container's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Group that owns volumes.
    pub fs_group: Option<u32>,
    /// Supplementary groups, with `fs_group`.
    pub groups: Vec<u32>,
    /// What the process has: in all five sets.
    pub capabilities: BTreeSet<String>,
    /// What it may gain, only ever more than `capabilities` when privilege escalation is allowed.
    pub bounding: BTreeSet<String>,
    /// No privilege can be gained through execve.
    pub no_new_privileges: bool,
    /// The seccomp profile is the runtime's default.
    pub runtime_default_seccomp: bool,
    /// SELinux label of its processes and files, where the node has SELinux.
    pub label: Option<Label>,
}

impl Identity {
    /// Reads pod and container security contexts; the container's win. `image` is the user of a pod that names none: that of
    /// its image.
    ///
    /// # Errors
    /// For what no pod of this node has, and impossible numbers.
    pub fn of(pod: &Pod, container: &Container, image: u32) -> Result<Self, Error> {
        let spec = pod.spec.clone().unwrap_or_default();
        for (field, set) in [
            ("spec.hostNetwork", spec.host_network),
            ("spec.hostPID", spec.host_pid),
            ("spec.hostIPC", spec.host_ipc),
            ("spec.shareProcessNamespace", spec.share_process_namespace),
        ] {
            if set == Some(true) {
                return Err(Error::Refused { field });
            }
        }
        // Without users of its own it would have more rights than it says.
        if spec.host_users == Some(false) {
            return Err(Error::Refused { field: "spec.hostUsers: false" });
        }
        let pod = spec.security_context.unwrap_or_default();
        let own = container.security_context.clone().unwrap_or_default();
        if own.privileged == Some(true) {
            return Err(Error::Refused { field: "securityContext.privileged" });
        }
        let uid = id("runAsUser", own.run_as_user.or(pod.run_as_user))?.unwrap_or(image);
        // Of the user's own number: pods of different users share no group.
        let gid = id("runAsGroup", own.run_as_group.or(pod.run_as_group))?.unwrap_or(uid);
        if uid == 0 && own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
            return Err(Error::Root);
        }
        let fs_group = id("fsGroup", pod.fs_group)?;
        let mut groups = Vec::new();
        for group in pod.supplemental_groups.into_iter().flatten() {
            groups.extend(id("supplementalGroups", Some(group))?);
        }
        groups.extend(fs_group);

        let changes = own.capabilities.unwrap_or_default();
        let name = |text: &String| text.to_uppercase().trim_start_matches("CAP_").to_owned();
        let drop: BTreeSet<String> = changes.drop.iter().flatten().map(name).collect();
        let add: BTreeSet<String> = changes.add.iter().flatten().map(name).collect();
        let mut bounding = BTreeSet::new();
        if !drop.contains("ALL") {
            bounding.extend(USUAL.iter().map(|c| (*c).to_owned()).filter(|c| !drop.contains(c)));
        }
        bounding.extend(add.iter().cloned());
        let capabilities = if uid == 0 { bounding.clone() } else { add };

        let profile = own.seccomp_profile.or(pod.seccomp_profile).map(|profile| profile.type_);
        if profile.as_deref() == Some("Localhost") {
            return Err(Error::Localhost);
        }
        Ok(Self {
            uid,
            gid,
            fs_group,
            groups,
            capabilities,
            bounding,
            no_new_privileges: own.allow_privilege_escalation == Some(false),
            runtime_default_seccomp: profile.as_deref() == Some("RuntimeDefault"),
            label: None,
        })
    }
}

fn id(field: &'static str, value: Option<i64>) -> Result<Option<u32>, Error> {
    match value {
        None => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(id) if id != u32::MAX => Ok(Some(id)),
            _ => Err(Error::Id { field, value }),
        },
    }
}
