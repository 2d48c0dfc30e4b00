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
        if expect["kind"] == "lost-from-container_t" {
            // What container_t may do cannot be told without the policy.
            assert!(matches!(explanation.kind, Kind::BaseGap | Kind::Other), "{line}");
            continue;
        }
        assert_eq!(explanation.kind.name(), expect["kind"], "{line}\n{explanation:?}");
        let missing = matches!(explanation.kind, Kind::FeatureRule | Kind::BaseGap);
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
