//! The smallest SCC for one pod.

use std::collections::BTreeSet;

use ferrovirt_kubernetes::json;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::admit::checks::SAFE_SYSCTLS;
use crate::admit::decision::Cause;
use crate::constraint::types::{
    FlexVolume, GroupStrategy, IdRange, RunAsUserStrategy, SELinuxOptions, SELinuxStrategy,
    SecurityContextConstraints,
};
use crate::names::SECCOMP_POD;
use crate::pod::seccomp::Name;
use crate::pod::volume;
use crate::pod::{Container, Label, Pod};

/// The SCC that admits this pod and as little else as can be said: it takes nothing from the pod that the pod has, and
/// leaves to the namespace what the pod leaves open (SELinux level and groups).
///
/// # Errors
/// [`Cause::NotAPod`] when the pod cannot be read.
pub fn minimal(name: &str, pod: &Value) -> Result<SecurityContextConstraints, Cause> {
    let pod = Pod::read(pod).map_err(|e| Cause::NotAPod(e.to_string()))?;
    let all =
        |test: &dyn Fn(&Container<'_>) -> bool| !pod.containers.is_empty() && pod.containers.iter().all(test);
    let kinds: BTreeSet<&str> = pod.volumes.iter().filter_map(|v| v.kind).map(volume::name).collect();
    let host_path = kinds.contains("hostPath");
    let mut volumes: Vec<String> = kinds.into_iter().map(str::to_owned).collect();
    if volumes.is_empty() {
        volumes.push("none".to_owned());
    }
    let drivers: BTreeSet<&str> = pod.volumes.iter().filter_map(|v| v.driver).collect();
    let (allowed_capabilities, required_drop_capabilities) = capabilities(&pod);
    let mut scc = SecurityContextConstraints {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        allow_privileged_container: pod.containers.iter().any(|c| c.privileged),
        allow_privilege_escalation: Some(!all(&|c| c.escalation == Some(false))),
        allowed_capabilities,
        required_drop_capabilities,
        allow_host_dir_volume_plugin: host_path,
        volumes: Some(volumes),
        allowed_flex_volumes: drivers.into_iter().map(|d| FlexVolume { driver: d.to_owned() }).collect(),
        allow_host_network: pod.host_network,
        allow_host_ports: !pod.host_ports.is_empty(),
        allow_host_pid: pod.host_pid,
        allow_host_ipc: pod.host_ipc,
        user_namespace_level: Some(
            if pod.host_users == Some(false) { "RequirePodLevel" } else { "AllowHostLevel" }.to_owned(),
        ),
        read_only_root_filesystem: all(&|c| c.read_only_root == Some(true)),
        run_as_user: user(&pod),
        se_linux_context: label(&pod),
        fs_group: groups(pod.fs_group.as_slice()),
        supplemental_groups: supplemental(&pod),
        seccomp_profiles: profiles(&pod),
        allowed_unsafe_sysctls: sysctls(&pod),
        ..SecurityContextConstraints::default()
    };
    scc.api_version = <SecurityContextConstraints as k8s_openapi::Resource>::API_VERSION.to_owned();
    scc.kind = <SecurityContextConstraints as k8s_openapi::Resource>::KIND.to_owned();
    Ok(scc)
}

fn names(list: &[Value]) -> BTreeSet<&str> {
    list.iter().filter_map(Value::as_str).collect()
}

/// Every capability that some container adds, and those that all of them drop.
fn capabilities(pod: &Pod<'_>) -> (Vec<String>, Vec<String>) {
    let add: BTreeSet<&str> = pod.containers.iter().flat_map(|c| names(c.add)).collect();
    let mut drops = pod.containers.iter().map(|c| names(c.drop));
    let first = drops.next().unwrap_or_default();
    let mut drop = drops.fold(first, |all, one| all.intersection(&one).copied().collect());
    // An SCC cannot demand the dropping of what it lets containers add.
    drop.retain(|c| !add.contains(c) && !add.contains("*"));
    let owned = |set: BTreeSet<&str>| set.into_iter().map(str::to_owned).collect();
    (owned(add), owned(drop))
}

fn user(pod: &Pod<'_>) -> RunAsUserStrategy {
    let strategy = |kind: &str| RunAsUserStrategy { kind: kind.to_owned(), ..RunAsUserStrategy::default() };
    let uids: Vec<Option<i64>> = pod.containers.iter().map(|c| c.run_as_user.or(pod.run_as_user)).collect();
    let known: Vec<i64> = uids.iter().copied().flatten().collect();
    let non_root =
        pod.containers.iter().map(|c| c.run_as_non_root.or(pod.run_as_non_root)).zip(&uids).all(
            |(flag, uid)| flag != Some(false) && *uid != Some(0) && (flag == Some(true) || uid.is_some()),
        );
    match (known.iter().min(), known.iter().max()) {
        (Some(min), Some(max)) if known.len() == uids.len() && min == max => {
            RunAsUserStrategy { uid: Some(*min), ..strategy("MustRunAs") }
        }
        (Some(min), Some(max)) if known.len() == uids.len() => {
            let (uid_range_min, uid_range_max) = (Some(*min), Some(*max));
            RunAsUserStrategy { uid_range_min, uid_range_max, ..strategy("MustRunAsRange") }
        }
        _ if non_root => strategy("MustRunAsNonRoot"),
        _ => strategy("RunAsAny"),
    }
}

/// One label for all is demanded; none at all is left to the namespace; anything else needs freedom.
fn label(pod: &Pod<'_>) -> SELinuxStrategy {
    let strategy = |kind: &str, se_linux_options| SELinuxStrategy { kind: kind.to_owned(), se_linux_options };
    let containers = pod.containers.iter().map(|c| c.label.or(pod.label));
    let labels: Vec<Option<Label<'_>>> = std::iter::once(pod.label).chain(containers).collect();
    match labels.first().copied().flatten() {
        None if labels.iter().all(Option::is_none) => strategy("MustRunAs", None),
        Some(label) if !label.level.is_empty() && labels.iter().all(|l| *l == Some(label)) => {
            let text = str::to_owned;
            let (user, role, kind, level) =
                (text(label.user), text(label.role), text(label.kind), text(label.level));
            strategy("MustRunAs", Some(SELinuxOptions { user, role, kind, level }))
        }
        _ => strategy("RunAsAny", None),
    }
}

fn groups(ids: &[i64]) -> GroupStrategy {
    let ids: BTreeSet<i64> = ids.iter().copied().collect();
    let ranges = ids.into_iter().map(|id| IdRange { min: id, max: id }).collect();
    GroupStrategy { kind: "MustRunAs".to_owned(), ranges }
}

fn supplemental(pod: &Pod<'_>) -> GroupStrategy {
    match pod.supplemental_groups {
        // A list that is there and empty satisfies no demand.
        Some([]) => GroupStrategy { kind: "RunAsAny".to_owned(), ranges: Vec::new() },
        Some(list) => groups(&list.iter().filter_map(Value::as_i64).collect::<Vec<_>>()),
        None => groups(&[]),
    }
}

/// Every profile in use, the pod's own first, since the first one is the default.
fn profiles(pod: &Pod<'_>) -> Vec<String> {
    let annotation = pod.annotation(SECCOMP_POD).filter(|a| !a.is_empty()).map(Name::Plain);
    let own = annotation.or(pod.seccomp.map(|f| f.name()));
    let of = |c: &Container<'_>| match c.seccomp_annotation {
        Some(annotation) => Some(annotation.to_owned()),
        None => c.seccomp.map(|f| f.name().to_string()),
    };
    let mut list: Vec<String> = own.map(|n| n.to_string()).into_iter().collect();
    list.extend(pod.containers.iter().filter_map(of));
    let mut seen = BTreeSet::new();
    list.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    list
}

fn sysctls(pod: &Pod<'_>) -> Vec<String> {
    let names: BTreeSet<&str> = pod.sysctls.iter().filter_map(|s| json::string(s, "name")).collect();
    names.into_iter().filter(|n| !SAFE_SYSCTLS.contains(n)).map(str::to_owned).collect()
}
