//! Denials that a real kernel logged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::{database, text};
use ferrovirt_selinux::avc::{Kind, RecordKind, events, explain, is_minimal};
use proptest::prelude::*;
use serde_json::Value;

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
        assert_eq!(serde_json::json!(denial.permissions), expect["permissions"], "{line}");
        assert_eq!(denial.class, expect["class"], "{line}");
        for (context, kind, level) in [
            (&denial.source, &expect["source_type"], &expect["source_level"]),
            (&denial.target, &expect["target_type"], &expect["target_level"]),
        ] {
            let parts: Vec<&str> = context.splitn(4, ':').collect();
            assert_eq!((&Value::from(parts[2]), &Value::from(parts[3])), (kind, level), "{line}");
        }
        assert_eq!(serde_json::json!(event.tun_request()), expect["ioctl"], "{line}");
        let explanation = explain(event, denial, None, &allowed);
        if explanation.kind == Kind::Isolation && expect["kind"] == "other" {
            // Across categories it is isolation; that no rule allows it either cannot be told without the policy.
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
fn a_lost_rule_is_told_without_a_policy() {
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

/// A rule that something else than levels makes void is not told as missing, and not as two machines.
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

/// The forms in which real systems hand on one event.
#[test]
fn every_form_of_an_event_is_the_same_event() {
    let rest = "avc:  denied  { attach_queue } for  pid=84 comm=43505520312F4B564D scontext=system_u:system_r:a.process:s0:c1,c2 \
                tcontext=system_u:system_r:a.process:s0:c1,c2 tclass=tun_socket permissive=0";
    let call = "arch=c000003e syscall=16 success=no exit=-13 a0=7 a1=400454d9 comm=43505520312F4B564D exe=\"/usr/bin/qemu-kvm\"";
    let raw = [
        format!("type=AVC msg=audit(9.123:456): {rest}"),
        format!("type=SYSCALL msg=audit(9.123:456): {call}"),
    ];
    let kernel = [
        format!("audit: type=1400 audit(9.123:456): {rest}"),
        format!("audit: type=1300 audit(9.123:456): {call}"),
    ];
    let with = |lines: &[String], head: &str, end: &str| {
        lines.iter().map(|line| format!("{head}{line}{end}")).collect::<Vec<_>>()
    };
    let readable = |line: &str| {
        line.replace("(9.123:456):", "(11/24/2026 20:15:01.123:456) :")
            .replace("43505520312F4B564D", "CPU 1/KVM")
            .replace("arch=c000003e syscall=16", "arch=x86_64 syscall=ioctl")
            .replace("exit=-13 a0=7 a1=4", "exit=EACCES(Permission denied) a0=0x7 a1=0x4")
            .replace("\"/usr/bin/qemu-kvm\"", "/usr/bin/qemu-kvm")
    };
    for lines in [
        with(&raw, "", ""),
        with(&raw, "node=n1 ", "\u{1d}ARCH=x86_64 SYSCALL=ioctl\r"),
        with(&kernel, "", ""),
        with(&kernel, "[    3.652781] ", ""),
        with(&kernel, "Nov 24 20:15:01 node1 kernel: ", ""),
        with(&kernel, "2026-11-24T20:15:01.123456+00:00 node1 kernel: [    3.652781] ", ""),
        raw.iter().map(|line| readable(line)).collect(),
        vec![raw[1].clone(), "type=AVC msg=audit(9.124:457): something else".to_owned(), raw[0].clone()],
    ] {
        let (events, damaged) = events(lines.iter().map(String::as_str));
        assert!(damaged.is_empty(), "{lines:?}");
        let event = events.iter().find(|event| event.denials().next().is_some()).unwrap();
        assert_eq!((event.stamp.unwrap().serial, event.records.len()), (456, 2), "{lines:?}");
        assert_eq!(event.tun_request(), Some("TUNSETQUEUE"), "{lines:?}");
        assert_eq!(event.field(&RecordKind::Syscall, "exe"), Some("/usr/bin/qemu-kvm"), "{lines:?}");
        let (record, denial) = event.denials().next().unwrap();
        assert_eq!(record.field("comm"), Some("CPU 1/KVM"), "{lines:?}");
        let explanation = explain(event, denial, None, &allowed);
        assert_eq!((explanation.kind, explanation.topic.name()), (Kind::FeatureRule, "network-multiqueue"));
    }
}

#[test]
fn the_consoles_form_is_grouped() {
    let log = text("console-sample.log.gz");
    let (events, damaged) = events(log.lines());
    assert!(damaged.is_empty(), "{damaged:?}");
    let lines = log.lines().filter(|line| line.contains("avc:  denied")).count();
    assert_eq!(events.iter().flat_map(|event| event.denials()).count(), lines);
    for event in events.iter().filter(|event| event.denials().next().is_some()) {
        assert!(event.field(&RecordKind::Syscall, "exe").is_some(), "{event:?}");
    }
    assert!(events.iter().any(|event| event.records.iter().any(|record| record.kind == RecordKind::Status)));
}

proptest! {
    #[test]
    fn nothing_panics(line in "(type=(AVC|SYSCALL|1400) )?(msg=)?(audit\\([0-9.:]{0,12}\\)?:?)? ?avc:  denied \\{?[a-z {}=\"\u{1d}\u{e9}A-F0-9]{0,80}") {
        let _ = ferrovirt_selinux::avc::parse(&line);
    }

    #[test]
    fn any_text_is_survived(lines in proptest::collection::vec(any::<String>(), 0..8)) {
        let _ = events(lines.iter().map(String::as_str));
    }

    #[test]
    fn cut_lines_are_survived(length in 0_usize..600) {
        let log = text("console-sample.log.gz");
        for line in log.lines().take(30) {
            let cut: String = line.chars().take(length).collect();
            let _ = ferrovirt_selinux::avc::parse(&cut);
        }
    }
}
