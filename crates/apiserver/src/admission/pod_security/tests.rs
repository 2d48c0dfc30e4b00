use serde_json::{Value, json};

use super::*;

/// A pod that passes `restricted`.
fn hardened() -> Value {
    json!({
        "metadata": {"name": "p"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "disk", "image": {"reference": "a/b:1"}}, {"name": "tmp", "emptyDir": {}}],
            "containers": [{"name": "a", "image": "i", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]
        }
    })
}

fn check(change: &[(&str, Value)], level: Level, expected: &str) {
    let mut pod = hardened();
    for (path, value) in change {
        let (parent, key) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    let found = message(level, "latest", &pod, "violates").unwrap_or_default();
    let found = found.split_once("\": ").map_or("", |(_, rest)| rest);
    assert_eq!(found, expected, "{change:?} at {level:?}");
}

#[test]
fn a_hardened_pod_passes_every_level() {
    check(&[], Level::Restricted, "");
    check(&[], Level::Baseline, "");
}

#[test]
fn a_bare_pod_is_refused_by_restricted_in_upstreams_words() {
    let pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(message(Level::Baseline, "latest", &pod, "violates"), None);
    assert_eq!(
        message(Level::Restricted, "latest", &pod, "violates").unwrap(),
        "violates PodSecurity \"restricted:latest\": \
         allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
}

#[test]
fn each_control_of_baseline_refuses_its_field() {
    let c = "/spec/containers/0/securityContext";
    let at = |field: &str| format!("{c}/{field}");
    let cases: [(&str, Value, &str); 14] = [
        ("/spec/hostNetwork", json!(true), "host namespaces (hostNetwork=true)"),
        ("/spec/hostPID", json!(true), "host namespaces (hostPID=true)"),
        (
            &at("privileged"),
            json!(true),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            &at("capabilities"),
            json!({"add": ["NET_ADMIN", "CHOWN"]}),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            "/spec/volumes",
            json!([{"name": "h", "hostPath": {"path": "/"}}]),
            "hostPath volumes (volume \"h\")",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 1, "hostPort": 80}]),
            "hostPort (container \"a\" uses hostPort 80)",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"host": "10.0.0.1"}}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
        (
            &at("procMount"),
            json!("Unmasked"),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            &at("seLinuxOptions"),
            json!({"type": "virt_launcher.process", "user": "u"}),
            "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"virt_launcher.process\"; user may not be set)",
        ),
        (
            &at("seccompProfile"),
            json!({"type": "Unconfined"}),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "/spec/securityContext/sysctls",
            json!([{"name": "kernel.msgmax", "value": "1"}]),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            &at("windowsOptions"),
            json!({"hostProcess": true}),
            "hostProcess (container \"a\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            &at("appArmorProfile"),
            json!({"type": "Unconfined"}),
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            "/metadata/annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\\\"unconfined\\\"\")",
        ),
    ];
    for (path, value, expected) in cases {
        check(&[(path, value)], Level::Baseline, expected);
    }
}

#[test]
fn each_control_of_restricted_refuses_its_field() {
    let cases = [
        (
            "/spec/volumes",
            json!([{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}]),
            "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            "/spec/securityContext/runAsNonRoot",
            json!(false),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        ("/spec/securityContext/runAsUser", json!(0), "runAsUser=0 (pod must not set runAsUser=0)"),
        (
            "/spec/containers/0/securityContext/capabilities",
            json!({"add": ["CHOWN"]}),
            "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        (
            "/spec/containers/0/securityContext/runAsNonRoot",
            json!(false),
            "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false)",
        ),
    ];
    for (path, value, expected) in cases {
        check(&[(path, value)], Level::Restricted, expected);
    }
    let root_in_user_namespace = [
        ("/spec/hostUsers", json!(false)),
        ("/spec/securityContext/runAsUser", json!(0)),
        ("/spec/securityContext/runAsNonRoot", json!(false)),
    ];
    check(&root_in_user_namespace, Level::Restricted, "");
}

#[test]
fn init_containers_count_and_names_are_joined() {
    let init = json!([{"name": "i", "image": "x", "securityContext": {"privileged": true}}]);
    let main =
        json!({"allowPrivilegeEscalation": false, "privileged": true, "capabilities": {"drop": ["ALL"]}});
    check(
        &[("/spec/initContainers", init), ("/spec/containers/0/securityContext", main)],
        Level::Baseline,
        "privileged (containers \"i\", \"a\" must not set securityContext.privileged=true)",
    );
}

#[test]
fn labels_choose_the_policy_and_a_misspelt_level_is_the_strictest() {
    let ns = json!({"metadata": {"labels": {
        "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30",
        "pod-security.kubernetes.io/warn": "restrictd"}}});
    assert_eq!(policy(&ns, "enforce"), (Level::Baseline, "v1.30".into()));
    assert_eq!(policy(&ns, "warn"), (Level::Restricted, "latest".into()));
    assert_eq!(policy(&ns, "audit"), (Level::Privileged, "latest".into()));
}
