//! What an SCC forbids, written down once more and as plainly as possible: one function for each sentence of the
//! description, on the JSON of the finished pod and of the SCC, with no code of the crate.

use serde_json::Value;

const KINDS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Everything in a finished pod that the SCC forbids.
pub fn violations(pod: &Value, scc: &Value, namespace: &Namespace) -> Vec<String> {
    let mut found = Vec::new();
    let spec = &pod["spec"];
    let context = &spec["securityContext"];
    for (flag, allow) in
        [("hostNetwork", "allowHostNetwork"), ("hostPID", "allowHostPID"), ("hostIPC", "allowHostIPC")]
    {
        if truth(&spec[flag]) && !truth(&scc[allow]) {
            found.push(flag.to_owned());
        }
    }
    if scc["userNamespaceLevel"] == "RequirePodLevel" && spec["hostUsers"] != false {
        found.push("hostUsers".to_owned());
    }
    group(&context["fsGroup"], &scc["fsGroup"], "fsGroup", Some(namespace.first_group), &mut found);
    supplemental(&context["supplementalGroups"], &scc["supplementalGroups"], namespace, &mut found);
    label(&context["seLinuxOptions"], scc, namespace, "pod", &mut found);
    volumes(&spec["volumes"], scc, &mut found);
    sysctls(&context["sysctls"], scc, &mut found);
    seccomp(pod, scc, &mut found);
    for kind in KINDS {
        for (index, container) in list(&spec[kind]).iter().enumerate() {
            let mut here = Vec::new();
            one_container(container, context, scc, namespace, &mut here);
            found.extend(here.into_iter().map(|what| format!("{kind}[{index}].{what}")));
        }
    }
    found
}

/// A namespace's values, as numbers.
pub struct Namespace {
    pub uids: (i64, i64),
    pub level: &'static str,
    pub first_group: i64,
    pub groups: (i64, i64),
}

fn truth(value: &Value) -> bool {
    value == &Value::Bool(true)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn has(values: &Value, text: &str) -> bool {
    list(values).iter().any(|v| v == text)
}

fn or<'a>(a: &'a Value, b: &'a Value) -> &'a Value {
    if a.is_null() { b } else { a }
}

fn ranges(strategy: &Value) -> Vec<(i64, i64)> {
    let bound = |r: &Value, key: &str| r[key].as_i64().unwrap_or(0);
    list(&strategy["ranges"]).iter().map(|r| (bound(r, "min"), bound(r, "max"))).collect()
}

fn group(value: &Value, strategy: &Value, name: &str, only: Option<i64>, found: &mut Vec<String>) {
    if strategy["type"] != "MustRunAs" {
        return;
    }
    let mut allowed = ranges(strategy);
    if allowed.is_empty() {
        allowed.extend(only.map(|g| (g, g)));
    }
    let Some(id) = value.as_i64() else { return found.push(format!("no {name}")) };
    if !allowed.iter().any(|(min, max)| (*min..=*max).contains(&id)) {
        found.push(format!("{name} {id}"));
    }
}

fn supplemental(values: &Value, strategy: &Value, namespace: &Namespace, found: &mut Vec<String>) {
    if strategy["type"] != "MustRunAs" {
        return;
    }
    let mut allowed = ranges(strategy);
    if allowed.is_empty() {
        allowed.push(namespace.groups);
    }
    if list(values).is_empty() {
        found.push("no supplementalGroups".to_owned());
    }
    for id in list(values).iter().filter_map(Value::as_i64) {
        if !allowed.iter().any(|(min, max)| (*min..=*max).contains(&id)) {
            found.push(format!("supplementalGroups {id}"));
        }
    }
}

fn label(have: &Value, scc: &Value, namespace: &Namespace, place: &str, found: &mut Vec<String>) {
    let strategy = &scc["seLinuxContext"];
    if strategy["type"] != "MustRunAs" {
        return;
    }
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    for part in ["user", "role", "type", "level"] {
        let mut want = text(&strategy["seLinuxOptions"], part);
        if part == "level" && want.is_empty() {
            want = namespace.level.to_owned();
        }
        let mut have = text(have, part);
        if part == "level" {
            (want, have) = (canonical(&want), canonical(&have));
        }
        if want != have {
            found.push(format!("{place} seLinuxOptions.{part}"));
        }
    }
}

fn canonical(level: &str) -> String {
    let Some((left, right)) = level.split_once(':') else { return level.to_owned() };
    let mut items: Vec<&str> = right.split(',').collect();
    items.sort_unstable();
    format!("{left}:{}", items.join(","))
}

fn volumes(values: &Value, scc: &Value, found: &mut Vec<String>) {
    for volume in list(values) {
        let mut kinds: Vec<&str> =
            volume.as_object().unwrap().keys().map(String::as_str).filter(|k| *k != "name").collect();
        let kind = kinds.pop().unwrap();
        let kind = if kind == "cephfs" { "cephFS" } else { kind };
        let token =
            kind == "projected" && has(&scc["volumes"], "secret") && volume["projected"]["token"] == true;
        if !has(&scc["volumes"], "*") && !has(&scc["volumes"], kind) && !token {
            found.push(format!("volume {kind}"));
        }
        let drivers = list(&scc["allowedFlexVolumes"]);
        if kind == "flexVolume"
            && !drivers.is_empty()
            && !drivers.iter().any(|d| d["driver"] == volume["flexVolume"]["driver"])
        {
            found.push("flexVolume driver".to_owned());
        }
    }
}

const SAFE: [&str; 3] = ["kernel.shm_rmid_forced", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_rmem"];

fn sysctls(values: &Value, scc: &Value, found: &mut Vec<String>) {
    let matches = |patterns: &Value, name: &str| {
        list(patterns)
            .iter()
            .filter_map(Value::as_str)
            .any(|p| if p.ends_with('*') { name.starts_with(p.trim_end_matches('*')) } else { p == name })
    };
    for sysctl in list(values) {
        let name = sysctl["name"].as_str().unwrap();
        let safe = SAFE.contains(&name) || matches(&scc["allowedUnsafeSysctls"], name);
        if matches(&scc["forbiddenSysctls"], name) || !safe {
            found.push(format!("sysctl {name}"));
        }
    }
}

fn profile(field: &Value) -> Option<String> {
    match field["type"].as_str()? {
        "RuntimeDefault" => Some("runtime/default".to_owned()),
        "Unconfined" => Some("unconfined".to_owned()),
        "Localhost" => Some(format!("localhost/{}", field["localhostProfile"].as_str().unwrap_or_default())),
        _ => None,
    }
}

/// What the kubelet would run each container with must be in the list.
fn seccomp(pod: &Value, scc: &Value, found: &mut Vec<String>) {
    let allowed = &scc["seccompProfiles"];
    if has(allowed, "*") {
        return;
    }
    let own = &pod["spec"]["securityContext"]["seccompProfile"];
    let mut check = |field: &Value, place: &str| {
        let ok = match profile(field) {
            None => list(allowed).is_empty(),
            Some(name) if name == "runtime/default" => has(allowed, &name) || has(allowed, "docker/default"),
            Some(name) => has(allowed, &name),
        };
        if !ok {
            found.push(format!("{place} seccompProfile {field}"));
        }
    };
    check(own, "pod");
    for kind in KINDS {
        for container in list(&pod["spec"][kind]) {
            check(or(&container["securityContext"]["seccompProfile"], own), kind);
        }
    }
}

fn one_container(
    container: &Value,
    pod: &Value,
    scc: &Value,
    namespace: &Namespace,
    found: &mut Vec<String>,
) {
    let own = &container["securityContext"];
    let uid = or(&own["runAsUser"], &pod["runAsUser"]).as_i64();
    let non_root = or(&own["runAsNonRoot"], &pod["runAsNonRoot"]);
    let strategy = &scc["runAsUser"];
    let fits = match strategy["type"].as_str().unwrap() {
        "MustRunAs" => uid == strategy["uid"].as_i64(),
        "MustRunAsRange" => {
            let bounds = (strategy["uidRangeMin"].as_i64(), strategy["uidRangeMax"].as_i64());
            let (min, max) = match bounds {
                (Some(min), Some(max)) => (min, max),
                _ => namespace.uids,
            };
            uid.is_some_and(|uid| (min..=max).contains(&uid))
        }
        "MustRunAsNonRoot" => {
            non_root != &Value::Bool(false) && uid != Some(0) && !(uid.is_none() && non_root.is_null())
        }
        _ => true,
    };
    if !fits {
        found.push(format!("runAsUser {uid:?}, runAsNonRoot {non_root}"));
    }
    label(or(&own["seLinuxOptions"], &pod["seLinuxOptions"]), scc, namespace, "container", found);
    if truth(&own["privileged"]) && !truth(&scc["allowPrivilegedContainer"]) {
        found.push("privileged".to_owned());
    }
    for capability in list(&own["capabilities"]["add"]).iter().filter_map(Value::as_str) {
        let allowed = &scc["allowedCapabilities"];
        if !has(allowed, "*") && !has(allowed, capability) && !has(&scc["defaultAddCapabilities"], capability)
        {
            found.push(format!("capability {capability}"));
        }
    }
    for capability in list(&scc["requiredDropCapabilities"]).iter().filter_map(Value::as_str) {
        if !has(&own["capabilities"]["drop"], capability) {
            found.push(format!("capability {capability} is kept"));
        }
    }
    let host_port = list(&container["ports"]).iter().any(|p| p["hostPort"].as_i64().unwrap_or(0) > 0);
    if host_port && !truth(&scc["allowHostPorts"]) {
        found.push("hostPort".to_owned());
    }
    if truth(&scc["readOnlyRootFilesystem"]) && !truth(&own["readOnlyRootFilesystem"]) {
        found.push("readOnlyRootFilesystem".to_owned());
    }
    if scc["allowPrivilegeEscalation"] == false && own["allowPrivilegeEscalation"] != false {
        found.push("allowPrivilegeEscalation".to_owned());
    }
}
