//! What denials mean for machines: those that a real kernel logged, with and without a policy.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use ferrovirt_plan::selinux::denial::{Kind, explain, is_minimal};
use ferrovirt_selinux::{Database, avc::events};
use serde_json::Value;
use std::{io::Read as _, path::PathBuf};

/// Data of the SELinux crate's tests, unpacked.
fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../selinux/tests/data").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if !name.ends_with(".gz") {
        return bytes;
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
    unpacked
}

fn text(name: &str) -> String {
    String::from_utf8(data(name)).unwrap()
}

fn database(name: &str) -> Database {
    Database::open(&data(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const RULES: [(&str, &str, &str); 4] = [
    ("self", "tun_socket", "relabelfrom relabelto attach_queue"),
    ("sysfs_t", "file", "write"),
    ("hugetlbfs_t", "dir", "add_name create write remove_name rmdir setattr"),
    ("hugetlbfs_t", "file", "create unlink"),
];

fn allowed(source: &str, target: &str, class: &str, permission: &str) -> Option<String> {
    if is_minimal(source) {
        let passed = (target, class, permission) == ("spc_t", "tun_socket", "attach_queue");
        return passed.then(|| "minimal".to_owned());
    }
    RULES
        .iter()
        .any(|rule| rule.0 == target && rule.1 == class && rule.2.split(' ').any(|one| one == permission))
        .then(|| "documented".to_owned())
}

#[test]
fn every_sample_is_understood() {
    let policy = database("refpolicy-virt_launcher.33.gz");
    let (mut count, mut judged) = (0, 0);
    for line in text("samples.jsonl.gz").lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        let expect = &sample["expect"];
        let (events, damaged) =
            events(sample["records"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()));
        assert!(damaged.is_empty() && events.len() == 1, "{line}");
        let event = &events[0];
        let only = ferrovirt_selinux::avc::parse(sample["avc"].as_str().unwrap()).unwrap().unwrap();
        let denial = only.denial.as_ref().unwrap();
        assert!(event.denials().any(|(_, one)| one == denial), "{line}");
        let explanation = explain(event, denial, None, &allowed);
        if explanation.kind == Kind::Isolation && expect["kind"] == "other" {
            // Across categories it is isolation; whether a rule allows it at all only the policy says.
            assert_eq!(explanation.unless_known, [Kind::Other]);
            assert!(explanation.rule.is_none());
            continue;
        }
        let cause = if explanation.constraint { "constraint" } else { "missing-allow" };
        assert_eq!(cause, expect["cause"], "{line}\n{explanation:?}");
        assert_eq!(explanation.topic.name(), expect["feature"], "{line}\n{explanation:?}");
        count += 1;
        // The bases of the samples are other policies; whether machines are kept apart is the same in all of them.
        let with = explain(event, denial, Some(&policy), &allowed);
        let ptrace = denial.permissions == ["ptrace"];
        if !ptrace && !matches!(with.kind, Kind::UnknownContext | Kind::AllowedNow) {
            assert_eq!(with.constraint, explanation.constraint, "{line}\n{with:?}");
            judged += 1;
        }
        assert_eq!(explanation.kind.name(), expect["kind"], "{line}\n{explanation:?}");
        let missing = matches!(explanation.kind, Kind::FeatureRule | Kind::LostFromBase);
        assert_eq!(explanation.rule.is_some(), missing, "{line}");
        let documented = explanation.granted.is_some() && explanation.kind == Kind::FeatureRule;
        assert_eq!(documented, expect["in_the_four_rules"], "{line}");
    }
    assert!(count > 150 && judged > 30, "{count} {judged}");
}

#[test]
fn a_policy_tells_what_the_log_cannot() {
    let policy = database("refpolicy-virt_launcher.33.gz");
    let line = |source: &str, permission: &str, target: &str, class: &str| {
        format!(
            "type=AVC msg=audit(1.000:2): avc:  denied  {{ {permission} }} for  pid=1 \
             scontext=system_u:system_r:{source}:s0:c1,c2 tcontext=system_u:object_r:{target} tclass={class} permissive=0"
        )
    };
    for (line, kind, detail) in [
        (
            line("virt_launcher.process", "write", "sysfs_t:s0", "file"),
            Kind::AllowedNow,
            "this policy allows it",
        ),
        (line("container_t", "write", "sysfs_t:s0", "file"), Kind::FeatureRule, "no rule allows it"),
        (
            line("container_t", "write", "container_file_t:s0:c3,c4", "file"),
            Kind::Isolation,
            "mcs_constrained_type",
        ),
        (line("containr_t", "write", "sysfs_t:s0", "file"), Kind::UnknownContext, "did you mean container_t"),
        (
            line("container_engine_t", "entrypoint", "container_file_t:s0", "file"),
            Kind::Other,
            "no rule allows it",
        ),
    ] {
        let (events, _) = events([line.as_str()]);
        let (_, denial) = events[0].denials().next().unwrap();
        let explanation = explain(&events[0], denial, Some(&policy), &allowed);
        assert_eq!(explanation.kind, kind, "{line}\n{explanation:?}");
        assert!(explanation.details.iter().any(|one| one.contains(detail)), "{line}\n{explanation:?}");
    }
}

/// What every base gives to `container_t` tells a lost rule without a policy. Here it is on the bases that are at hand.
#[test]
fn a_lost_rule_is_reported_without_a_policy() {
    let policy = database("refpolicy-base.33.gz");
    for (target, class, permissions) in [
        ("self", "tun_socket", "create"),
        ("container_file_t", "file", "entrypoint"),
        ("hugetlbfs_t", "dir", "getattr open search"),
        ("proc_t", "dir", "getattr open search"),
        ("proc_t", "file", "getattr open read"),
        ("sysfs_t", "dir", "getattr open read search"),
        ("sysfs_t", "file", "getattr open read"),
        ("sysfs_t", "lnk_file", "getattr read"),
    ] {
        let domain = "system_u:system_r:container_t:s0:c1,c2";
        let source = policy.find_context(domain).unwrap();
        let object = match target {
            "self" => domain.to_owned(),
            "container_file_t" => "system_u:object_r:container_file_t:s0:c1,c2".to_owned(),
            other => format!("system_u:object_r:{other}:s0"),
        };
        let (to, number) = (policy.find_context(&object).unwrap(), policy.find_class(class).unwrap());
        let decision = policy.decide(&source, &to, number).allowed;
        for permission in permissions.split(' ') {
            let bit = policy.find_permission(number, permission).unwrap();
            assert_eq!(decision & bit, bit, "container_t {target}:{class} {permission}");
        }
        let own = |text: &str| text.replace("container_t", "virt_launcher.process");
        let line = format!(
            "type=AVC msg=audit(1.000:2): avc:  denied  {{ {permissions} }} for  pid=1 scontext={} tcontext={} \
             tclass={class} permissive=0",
            own(domain),
            own(&object)
        );
        let (events, _) = events([line.as_str()]);
        let (_, denial) = events[0].denials().next().unwrap();
        let explanation = explain(&events[0], denial, None, &allowed);
        assert_eq!((explanation.kind, &*explanation.unless_known), (Kind::LostFromBase, &[][..]), "{line}");
        let line = line.replace("virt_launcher.process", "other_t");
        let (events, _) = ferrovirt_selinux::avc::events([line.as_str()]);
        let (_, denial) = events[0].denials().next().unwrap();
        assert_ne!(explain(&events[0], denial, None, &allowed).kind, Kind::LostFromBase, "{line}");
    }
}

/// What an access is judged to be, without a policy.
#[test]
fn no_rule_is_advised_where_none_is_needed() {
    let line = |permissions: &str, source: &str, target: &str, class: &str| {
        format!(
            "type=AVC msg=audit(1.000:2): avc:  denied  {{ {permissions} }} for  pid=1 scontext=system_u:system_r:{source} \
             tcontext=system_u:object_r:{target} tclass={class} permissive=0"
        )
    };
    let launcher = "virt_launcher.process:s0:c1,c2";
    for (line, kind, rule) in [
        // The runtime starts a machine; a machine changes its domain.
        (line("transition", "container_runtime_t:s0", launcher, "process"), Kind::Other, None),
        (line("nnp_transition", "container_runtime_t:s0", launcher, "process2"), Kind::Other, None),
        (line("transition", launcher, "spc_t:s0", "process"), Kind::EscapeAttempt, None),
        (line("nnp_transition", launcher, "spc_t:s0", "process2"), Kind::EscapeAttempt, None),
        (
            line("transition", launcher, "virt_machine.kvm_sriov:s0:c1,c2", "process"),
            Kind::EscapeAttempt,
            None,
        ),
        // Only what is granted is missing; with more than that, nothing is.
        (line("read write open", launcher, "sysfs_t:s0", "file"), Kind::FeatureRule, Some("(file (write))")),
        (line("write append", launcher, "sysfs_t:s0", "file"), Kind::NotGranted, None),
        (line("add_name", launcher, "sysfs_t:s0", "dir"), Kind::NotGranted, None),
        (line("search", launcher, "sysfs_t:s0", "dir"), Kind::LostFromBase, Some("(dir (search))")),
        (line("read", launcher, "sysfs_t:s0", "lnk_file"), Kind::LostFromBase, Some("(lnk_file (read))")),
        // Memory needs no other label or name.
        (line("relabelfrom", launcher, "hugetlbfs_t:s0", "file"), Kind::Other, None),
        (line("rename", launcher, "hugetlbfs_t:s0", "file"), Kind::Other, None),
        (line("unmount", launcher, "hugetlbfs_t:s0", "filesystem"), Kind::Other, None),
        // What the table does not have is no rule to add.
        (line("getattr", launcher, "hugetlbfs_t:s0", "filesystem"), Kind::BaseGap, None),
        (line("map", launcher, "hugetlbfs_t:s0", "file"), Kind::BaseGap, None),
        // The node's own services are no machines.
        (line("write", "tuned_t:s0", "sysfs_t:s0", "file"), Kind::Other, None),
        (line("append", "tuned_t:s0-s0:c0.c1023", "sysfs_t:s0", "file"), Kind::Other, None),
        (line("map", "virtd_t:s0-s0:c0.c1023", "hugetlbfs_t:s0", "file"), Kind::Other, None),
        (line("search", "tuned_t:s0", "container_file_t:s0:c1,c2", "dir"), Kind::Other, None),
        (
            line("write", "svirt_lxc_net_t:s0:c1,c2", "sysfs_t:s0", "file"),
            Kind::FeatureRule,
            Some("(file (write))"),
        ),
        // The minimal types are no copies of container_t.
        (line("read", "virt_machine.kvm:s0:c1,c2", "proc_t:s0", "file"), Kind::Other, None),
        (line("read", "virt-machine.kvm:s0:c1,c2", "sysfs_t:s0", "dir"), Kind::Other, None),
        (line("rename", "virt_machine.kvm_hugepages:s0:c1,c2", "hugetlbfs_t:s0", "file"), Kind::Other, None),
        (line("open", "virt_machine.kvm_hugepages:s0:c1,c2", "hugetlbfs_t:s0", "file"), Kind::Other, None),
        (
            line("write", "virt_machine.kvm:s0:c1,c2", "container_file_t:s0:c3,c4", "file"),
            Kind::Isolation,
            None,
        ),
    ] {
        let (events, damaged) = events([line.as_str()]);
        assert!(damaged.is_empty(), "{line}");
        let (_, denial) = events[0].denials().next().unwrap();
        let explanation = explain(&events[0], denial, None, &allowed);
        assert_eq!(explanation.kind, kind, "{line}\n{explanation:?}");
        let end =
            |text: &String| text.splitn(4, ' ').nth(3).map(|text| text.trim_end_matches(')').to_owned());
        let want = rule.map(|rule| rule.trim_end_matches(')').to_owned());
        assert_eq!(explanation.rule.as_ref().and_then(end), want, "{line}\n{explanation:?}");
    }
}

/// A rule that something else than levels makes void is not reported as missing, and not as two machines.
#[test]
fn a_constraint_without_levels_is_no_isolation() {
    let policy = database("tiny.33");
    let line = "type=AVC msg=audit(1.000:2): avc:  denied  { create } for  pid=1 scontext=boss_u:boss_r:child_t:s0 \
                tcontext=system_u:object_r:container_file_t:s0 tclass=file permissive=0";
    for (source, detail) in [
        ("system_u:system_r:container_t:s0", "constrain file create"),
        ("boss_u:boss_r:container_t:s0", "may not have the type"),
    ] {
        let line = line.replace("boss_u:boss_r:child_t:s0", source);
        let (events, _) = events([line.as_str()]);
        let (_, denial) = events[0].denials().next().unwrap();
        let explanation =
            explain(&events[0], denial, Some(&policy), &|_, _, _, _| Some("granted".to_owned()));
        assert_eq!((explanation.kind, explanation.rule), (Kind::Other, None), "{line}");
        assert!(explanation.details.iter().any(|one| one.contains(detail)), "{:?}", explanation.details);
    }
}

/// Sources that are no containers are never called escapes, and each verdict names what it rests on.
#[test]
fn a_runtime_without_its_label_a_query_and_a_foreign_domain_are_no_attacks() {
    let line = |permissions: &str, source: &str, target: &str, class: &str| {
        format!(
            "type=AVC msg=audit(1.000:2): avc:  denied  {{ {permissions} }} for  pid=1 scontext=system_u:system_r:{source} \
             tcontext=system_u:object_r:{target} tclass={class} permissive=0"
        )
    };
    let proxy = "socket-proxy.process:s0:c341,c675";
    for (line, kind, unless) in [
        // An unlabelled runtime stays in its caller's domain.
        (
            line("transition", "unconfined_service_t:s0", "container_t:s0:c12,c116", "process"),
            Kind::MislabelledRuntime,
            None,
        ),
        (
            line("transition", "container_runtime_t:s0", "container_t:s0:c750,c863", "process"),
            Kind::MislabelledRuntime,
            None,
        ),
        (
            line("nnp_transition", "init_t:s0", "container_init_t:s0:c1,c2", "process2"),
            Kind::MislabelledRuntime,
            None,
        ),
        // A program of the node changes its domain under no_new_privs.
        (
            line(
                "nnp_transition nosuid_transition",
                "install_t:s0:c68,c235",
                "container_runtime_t:s0:c68,c235",
                "process2",
            ),
            Kind::Other,
            None,
        ),
        (line("setexec", "sshd_t:s0", "sshd_t:s0", "process"), Kind::Other, None),
        // A question to the kernel.
        (
            line("compute_create", "container_user_t:s0-s0:c0.c1023", "security_t:s0", "security"),
            Kind::Query,
            None,
        ),
        (line("compute_av", "container_t:s0:c1,c2", "security_t:s0", "security"), Kind::Query, None),
        (
            line("compute_av setenforce", "container_t:s0:c1,c2", "security_t:s0", "security"),
            Kind::EscapeAttempt,
            None,
        ),
        // A domain of udica, and a service of the node with all categories.
        (
            line("write", proxy, "unconfined_t:s0-s0:c0.c1023", "fifo_file"),
            Kind::Other,
            Some(Kind::Isolation),
        ),
        (line("open", proxy, "proc_t:s0", "file"), Kind::Other, None),
        (line("write", proxy, "container_file_t:s0:c1,c2", "file"), Kind::Isolation, Some(Kind::Other)),
    ] {
        let (events, _) = events([line.as_str()]);
        let (_, denial) = events[0].denials().next().unwrap();
        let explanation = explain(&events[0], denial, None, &allowed);
        assert_eq!(explanation.kind, kind, "{line}");
        assert_eq!(explanation.unless_known.first().copied(), unless, "{line}");
        assert!(explanation.rule.is_none() && !explanation.because.is_empty(), "{line}");
        let foreign = line.contains("socket-proxy") && kind == Kind::Other;
        assert_eq!(explanation.advice.contains("udica"), foreign, "{line}");
    }
}
