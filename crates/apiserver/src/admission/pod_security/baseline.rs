//! The controls of level `baseline`.

use std::collections::BTreeSet;

use ferrovirt_kubernetes::json;
use serde_json::Value;

use super::{
    Violation, containers, context, name, named, plural, pod_context, quoted, setters, user_namespace,
    violation, which,
};

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SELINUX_TYPES: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The violations, in the standard's order. For `restricted`, controls that it has a stronger form of are left out.
pub(super) fn check(pod: &Value, for_restricted: bool) -> Vec<Violation> {
    let here = !for_restricted;
    [
        apparmor(pod),
        here.then(|| capabilities(pod)).flatten(),
        host_namespaces(pod),
        here.then(|| host_path(pod)).flatten(),
        host_ports(pod),
        probe_hosts(pod),
        privileged(pod),
        here.then(|| if user_namespace(pod) { None } else { proc_mount(pod) }).flatten(),
        selinux(pod),
        here.then(|| seccomp(pod)).flatten(),
        sysctls(pod),
        host_process(pod),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn apparmor(pod: &Value) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |profile: Option<&Value>| {
        let Some(kind) = profile.map(|p| json::text(p, "type")) else { return false };
        let bad = kind != "RuntimeDefault" && kind != "Localhost";
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(pod_context(pod, "appArmorProfile"));
    let by_containers = which(pod, |c| bad(context(c, "appArmorProfile")));
    let mut annotations: Vec<String> = json::entries(pod, "/metadata/annotations")
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            let fine = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APPARMOR) && !fine
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    let mut who: Vec<String> = setters(by_pod, &by_containers).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).into());
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    if who.is_empty() {
        return None;
    }
    violation(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)),
    )
}

fn capabilities(pod: &Value) -> Option<Violation> {
    let mut found = BTreeSet::new();
    let bad = which(pod, |c| {
        let before = found.len();
        let mut any = false;
        for capability in added(c).filter(|capability| !CAPABILITIES.contains(capability)) {
            found.insert(capability);
            any = true;
        }
        any || found.len() > before
    });
    if bad.is_empty() {
        return None;
    }
    let found: Vec<&str> = found.into_iter().collect();
    violation(
        "non-default capabilities",
        format!("{} must not include {} in securityContext.capabilities.add", named(&bad), quoted(&found)),
    )
}

/// Capabilities that a container adds.
pub(super) fn added(container: &Value) -> impl Iterator<Item = &str> {
    json::texts(container, "/securityContext/capabilities/add")
}

fn host_namespaces(pod: &Value) -> Option<Violation> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.pointer(&format!("/spec/{field}")) == Some(&Value::Bool(true)))
        .map(|field| format!("{field}=true"))
        .collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

fn host_path(pod: &Value) -> Option<Violation> {
    let bad: Vec<&str> = json::list(pod, "/spec/volumes")
        .filter(|volume| json::at(volume, "hostPath").is_some())
        .map(name)
        .collect();
    if bad.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

fn host_ports(pod: &Value) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = which(pod, |c| {
        let list = json::list(c, "ports");
        let used: Vec<i64> = list.filter_map(|p| p.get("hostPort")?.as_i64()).filter(|p| *p != 0).collect();
        ports.extend(used.iter().map(ToString::to_string));
        !used.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let ports: Vec<String> = ports.into_iter().collect();
    violation(
        "hostPort",
        format!(
            "{} {} {} {}",
            named(&bad),
            plural("uses", "use", bad.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.join(", ")
        ),
    )
}

fn probe_hosts(pod: &Value) -> Option<Violation> {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let mut hosts = BTreeSet::new();
    let mut bad: Vec<&str> = which(pod, |c| {
        let mut any = false;
        for handler in HANDLERS {
            for action in ["httpGet", "tcpSocket"] {
                match json::string(c, &format!("{handler}/{action}/host")) {
                    None | Some("") => {}
                    Some(host) => {
                        hosts.insert(host);
                        any = true;
                    }
                }
            }
        }
        any
    });
    if bad.is_empty() {
        return None;
    }
    bad.sort_unstable();
    bad.dedup();
    let hosts: Vec<&str> = hosts.into_iter().collect();
    violation(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            named(&bad),
            plural("uses", "use", bad.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(&hosts)
        ),
    )
}

fn privileged(pod: &Value) -> Option<Violation> {
    let bad = which(pod, |c| context(c, "privileged") == Some(&Value::Bool(true)));
    if bad.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", named(&bad)))
}

pub(super) fn proc_mount(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = which(pod, |c| match context(c, "procMount").and_then(Value::as_str) {
        None | Some("Default") => false,
        Some(kind) => {
            kinds.insert(kind);
            true
        }
    });
    if bad.is_empty() {
        return None;
    }
    let kinds: Vec<&str> = kinds.into_iter().collect();
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(&kinds)),
    )
}

fn selinux(pod: &Value) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut bad = |options: Option<&Value>| {
        let Some(options) = options else { return false };
        let field = |key: &str| json::text(options, key);
        let wrong_type = !SELINUX_TYPES.contains(&field("type"));
        if wrong_type {
            types.insert(field("type").to_owned());
        }
        let (has_user, has_role) = (!field("user").is_empty(), !field("role").is_empty());
        user |= has_user;
        role |= has_role;
        wrong_type || has_user || has_role
    };
    let by_pod = bad(pod_context(pod, "seLinuxOptions"));
    let by_containers = which(pod, |c| bad(context(c, "seLinuxOptions")));
    let who = setters(by_pod, &by_containers)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        let types: Vec<String> = types.into_iter().collect();
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    if user {
        what.push("user may not be set".into());
    }
    if role {
        what.push("role may not be set".into());
    }
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    )
}

fn seccomp(pod: &Value) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |profile: Option<&Value>| {
        let Some(kind) = profile.map(|p| json::text(p, "type")) else { return false };
        let bad = !allowed_seccomp(kind);
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(pod_context(pod, "seccompProfile"));
    let by_containers = which(pod, |c| bad(context(c, "seccompProfile")));
    let who = setters(by_pod, &by_containers)?;
    let values: Vec<String> = values.into_iter().collect();
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values)),
    )
}

pub(super) fn allowed_seccomp(kind: &str) -> bool {
    kind == "RuntimeDefault" || kind == "Localhost"
}

fn sysctls(pod: &Value) -> Option<Violation> {
    let set = json::list(pod, "/spec/securityContext/sysctls");
    let bad: Vec<&str> = set.map(name).filter(|n| !SYSCTLS.contains(n)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Value) -> Option<Violation> {
    let set =
        |options: Option<&Value>| options.and_then(|o| o.get("hostProcess")) == Some(&Value::Bool(true));
    let by_pod = set(pod_context(pod, "windowsOptions"));
    let bad: Vec<&str> = containers(pod).filter(|c| set(context(c, "windowsOptions"))).map(name).collect();
    let who = setters(by_pod, &bad)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
