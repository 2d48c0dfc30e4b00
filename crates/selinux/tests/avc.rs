//! Denials that a real kernel logged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::{database, text};
use ferrovirt_selinux::avc::{Kind, RecordKind, events, explain};
use proptest::prelude::*;
use serde_json::Value;

const RULES: [(&str, &str, &str); 4] = [
    ("self", "tun_socket", "relabelfrom relabelto attach_queue"),
    ("sysfs_t", "file", "write"),
    ("hugetlbfs_t", "dir", "add_name create write remove_name rmdir setattr"),
    ("hugetlbfs_t", "file", "create unlink"),
];

fn allowed(target: &str, class: &str, permission: &str) -> Option<String> {
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
        let missing = matches!(explanation.kind, Kind::FeatureRule | Kind::BaseGap | Kind::LostFromBase);
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
        ("sysfs_t", "file", "getattr open read"),
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
