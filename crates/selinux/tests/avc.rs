//! Denials that a real kernel logged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::text;
use ferrovirt_selinux::avc::{RecordKind, events};
use proptest::prelude::*;
use serde_json::Value;

#[test]
fn every_sample_is_read() {
    let mut count = 0;
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
        count += 1;
    }
    assert!(count > 150, "{count}");
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
        assert_eq!(denial.permissions, ["attach_queue"], "{lines:?}");
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
