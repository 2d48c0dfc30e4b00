//! For each row of the table what it allows, and near misses.

use super::*;

/// For each row of the table: where, what it allows, and near misses.
fn rows() -> Vec<(Vec<&'static str>, Vec<Value>, Vec<Value>)> {
    let container = |rest: &[&'static str]| [&["spec", "containers", "0"], rest].concat();
    let toleration = |key: &str, effect: &str| json!({"key": key, "operator": "Exists", "effect": effect});
    let mut unreachable = toleration("node.kubernetes.io/unreachable", "NoExecute");
    unreachable["tolerationSeconds"] = json!(300);
    let mut elsewhere = unreachable.clone();
    elsewhere["key"] = json!("gpu");
    vec![
        (vec!["spec", "dnsPolicy"], vec![json!("ClusterFirst")], vec![json!("Default"), json!("None")]),
        (vec!["spec", "schedulerName"], vec![json!("default-scheduler")], vec![json!("mine")]),
        (
            container(&["terminationMessagePath"]),
            vec![json!("/dev/termination-log")],
            vec![json!("/etc/shadow")],
        ),
        (
            container(&["resizePolicy"]),
            vec![json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}])],
            vec![
                json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]),
                json!([{"resourceName": "cpu", "restartPolicy": "NotRequired", "x": 1}]),
            ],
        ),
        (
            container(&["resources", "requests", "ephemeral-storage"]),
            vec![json!("50M")],
            vec![json!("51M"), json!("many"), json!("1")],
        ),
        (
            container(&["resources", "limits", "hugepages-2Mi"]),
            vec![json!("131072Ki")],
            vec![json!("64Gi"), json!("")],
        ),
        (vec!["spec", "serviceAccountName"], vec![json!("default")], vec![json!("builder")]),
        (vec!["spec", "serviceAccount"], vec![json!("default")], vec![json!("builder")]),
        (
            vec!["spec", "imagePullSecrets"],
            vec![json!([{"name": "registry"}])],
            vec![json!([{"name": "registry", "x": 1}]), json!([1])],
        ),
        (
            vec!["spec", "tolerations", "-"],
            vec![unreachable],
            vec![
                elsewhere,
                json!({"operator": "Exists"}),
                toleration("node.kubernetes.io/not-ready", "NoExecute"),
            ],
        ),
        (
            vec!["spec", "tolerations", "-"],
            vec![toleration("node.kubernetes.io/memory-pressure", "NoSchedule")],
            vec![toleration("node.kubernetes.io/disk-pressure", "NoSchedule")],
        ),
        (
            vec!["spec", "tolerations", "-"],
            vec![json!({"key": "devices.kubevirt.io/kvm", "operator": "Exists"})],
            vec![
                json!({"key": "devices.kubevirt.io/other", "operator": "Exists"}),
                json!({"key": "cpu", "operator": "Exists"}),
            ],
        ),
        (vec!["spec", "nodeSelector", "tier"], vec![json!("gold")], vec![json!("silver")]),
        (vec!["spec", "priorityClassName"], vec![json!("usual")], vec![json!("system-node-critical")]),
        (vec!["spec", "priority"], vec![json!(0), json!(-5)], vec![json!(2_000_000_000), json!("0")]),
        (
            vec!["spec", "preemptionPolicy"],
            vec![json!("PreemptLowerPriority"), json!("Never")],
            vec![json!("Always")],
        ),
        (
            container(&["resources", "limits", "memory"]),
            vec![json!("8Gi")],
            vec![json!("1Ki"), json!("0"), json!("many")],
        ),
        (vec!["spec", "nodeName"], vec![json!(NODE)], vec![json!("node-2")]),
        (
            vec!["spec", "securityContext", "fsGroup"],
            vec![json!(1_000_620_000)],
            vec![json!(0), json!(107), json!(1_000_630_000)],
        ),
        (
            vec!["spec", "securityContext", "supplementalGroups"],
            vec![json!([1_000_620_000])],
            vec![json!([0]), json!([1_000_620_000, 6])],
        ),
        (
            vec!["spec", "securityContext", "seLinuxOptions"],
            vec![json!({"level": "s0:c25,c10"})],
            vec![
                json!({"level": "s0:c1,c2"}),
                json!({"level": "s0:c25,c10", "type": "spc_t"}),
                json!({"type": "spc_t"}),
            ],
        ),
        (
            container(&["securityContext", "runAsUser"]),
            vec![json!(1_000_620_000), json!(1_000_629_999)],
            vec![
                json!(0),
                json!(107),
                json!(1_000_630_000),
                json!(-1),
                json!("1000620000"),
                json!(4_295_967_296_u64),
            ],
        ),
        (container(&["securityContext", "runAsNonRoot"]), vec![json!(true)], vec![json!(false)]),
        (
            container(&["securityContext", "seccompProfile"]),
            vec![json!({"type": "RuntimeDefault"})],
            vec![json!({"type": "Unconfined"}), json!({"type": "Localhost", "localhostProfile": "x"})],
        ),
        (
            container(&["securityContext", "capabilities", "drop"]),
            vec![json!(["ALL", "KILL"]), json!(["KILL", "ALL"])],
            vec![json!(["KILL"]), json!([])],
        ),
        (
            vec!["metadata", "annotations", "openshift.io/scc"],
            vec![json!("restricted-v2")],
            vec![json!("privileged")],
        ),
        (
            vec!["metadata", "annotations", "security.openshift.io/validated-scc-subject-type"],
            vec![json!("serviceaccount")],
            vec![json!("nobody")],
        ),
        (
            vec!["metadata", "annotations", "seccomp.security.alpha.kubernetes.io/pod"],
            vec![json!("runtime/default")],
            vec![json!("unconfined")],
        ),
    ]
}

#[test]
fn each_row_of_the_table_allows_its_values_and_no_others() {
    let mut pod = rendered();
    // What the sample machine has no field for.
    pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "s", "secret": {"secretName": "x"}}));
    let last = (pod["spec"]["volumes"].as_array().unwrap().len() - 1).to_string();
    let secret: Vec<&str> = vec!["spec", "volumes", &last, "secret", "defaultMode"];
    let mut seen: BTreeSet<&[&str]> = BTreeSet::new();
    let check = |path: &[&str], good: &[Value], bad: &[Value]| {
        for value in good {
            assert_eq!(
                found_at(&with(&pod, path, value.clone()), &pod, Step::Start),
                [""; 0],
                "{path:?} {value}"
            );
        }
        for value in bad {
            let found = found_at(&with(&pod, path, value.clone()), &pod, Step::Start);
            assert_eq!(found.len(), 1, "{path:?} {value}: {found:?}");
        }
    };
    let cases = rows();
    for (path, good, bad) in &cases {
        check(path, good, bad);
        let of = |row: &&table::Row| {
            row.field.len() == path.len()
                && row.field.iter().zip(path).all(|(a, b)| a == b || ["*", "?"].contains(a))
        };
        seen.extend(TABLE.iter().filter(of).map(|row| row.field));
    }
    check(&secret, &[json!(0o644)], &[json!(0o777)]);
    seen.insert(&["spec", "volumes", "*", "secret", "defaultMode"]);
    // All limits at once, where none was rendered.
    let plain = untyped(&rendered_of(
        &samples::plain(),
        &ClusterConfig { use_emulation: true, ..ClusterConfig::default() },
    ));
    let limits = ["spec", "containers", "0", "resources", "limits"];
    let limited = with(&plain, &limits, json!({"memory": "8Gi", "cpu": "4"}));
    assert_eq!(found_at(&limited, &plain, Step::Start), [""; 0]);
    let more = with(&plain, &limits, json!({"memory": "8Gi", "devices.kubevirt.io/kvm": "1"}));
    assert_eq!(found_at(&more, &plain, Step::Start), ["spec.containers[0].resources.limits"]);
    seen.insert(&["spec", "containers", "*", "resources", "limits"]);
    for row in TABLE {
        assert!(seen.contains(row.field), "{:?} has no test", row.field);
        assert!(!row.by.is_empty() && !row.values.is_empty());
    }
}
