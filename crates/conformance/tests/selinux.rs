//! Recorded facts about SELinux of the repository, and of a further directory when `FERROVIRT_SELINUX_CORPUS` names one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use ferrovirt_conformance::{Summary, selinux};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../selinux/tests/data")
}

fn run(directory: &Path) -> (Summary, String) {
    let mut report = Vec::new();
    let summary = selinux::run(directory, &mut report).unwrap();
    (summary, String::from_utf8(report).unwrap())
}

/// The sum line of a kind.
fn count<'a>(report: &'a str, kind: &str) -> &'a str {
    let line = report.lines().rfind(|line| line.starts_with(&format!("{kind}: ")));
    line.unwrap_or_else(|| panic!("no {kind} in\n{report}"))
}

#[test]
fn recorded_facts() {
    let (summary, report) = run(&data());
    println!("{report}");
    assert!(summary.run > 10_000 && summary.different == 0, "{report}");
    for (kind, least) in [
        ("CIL modules", 3),
        ("access decisions", 6000),
        ("counts", 20),
        ("denials", 150),
        ("differences of policies", 8),
        ("dumps", 40),
        ("lines of logs", 50),
        ("new labels", 3900),
        ("policies", 8),
        ("refused contexts", 180),
        ("system calls", 60),
    ] {
        let line = count(&report, kind);
        let number: usize = line.split(": ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        assert!(number >= least, "{line}");
    }
}

#[test]
fn further_facts() {
    if let Some(directory) = std::env::var_os("FERROVIRT_SELINUX_CORPUS") {
        let (summary, report) = run(Path::new(&directory));
        assert_eq!(summary.different, 0, "{report}");
    }
}

/// Facts with one error each; every one is found.
#[test]
fn wrong_facts_are_found() {
    let read = |name: &str| std::fs::read(data().join(name)).unwrap();
    let unpacked = |name: &str| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(read(name).as_slice()).read_to_string(&mut text).unwrap();
        text
    };
    let dump = String::from_utf8(read("tiny.33.expected.json")).unwrap();
    let oracle = unpacked("tiny.33.tsv.gz");
    let line = |start: &str| oracle.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    let create = line("create").rsplit_once(':').unwrap().0.to_owned();
    let valid = line("access").replacen("access", "invalid", 1);
    let valid = valid.split('\t').take(4).collect::<Vec<_>>().join("\t");
    let mut access: Vec<String> = line("access").split('\t').map(str::to_owned).collect();
    let vector = u32::from_str_radix(&access[4], 16).unwrap();
    access[4] = format!("{:x}", vector ^ 1);
    let denials = unpacked("samples.jsonl.gz");
    let denial = denials.lines().find(|line| line.contains("\"foreign-tap\"")).unwrap();
    let calls = unpacked("debian-early2020-like.clone.tsv.gz");
    let mut damaged = read("tiny.32");
    damaged.truncate(5000);
    for (name, content, kind) in [
        ("tiny.33.expected.json", dump.replacen("\"mls\": true", "\"mls\": false", 1).into_bytes(), "dumps"),
        ("tiny.33.tsv", access.join("\t").into_bytes(), "access decisions"),
        ("tiny.33.tsv", format!("{create}:s0:c99").into_bytes(), "new labels"),
        ("tiny.33.tsv", valid.into_bytes(), "refused contexts"),
        ("tiny.33.tsv", b"acces\ta\tb".to_vec(), "other answers"),
        ("a.jsonl", denial.replacen("foreign-tap", "feature-rule", 1).into_bytes(), "denials"),
        ("a.jsonl", denial.replacen("missing-allow", "constraint", 1).into_bytes(), "denials"),
        (
            "a.log",
            b"audit: type=1400 audit(1.0:2): avc:  denied  { read } for  scontext=a".to_vec(),
            "lines of logs",
        ),
        ("tiny.32", damaged, "policies"),
        (
            "tiny.counts.json",
            format!("{{\"x\": {{\"size\": {}, \"types\": 1}}}}", read("tiny.33").len()).into_bytes(),
            "counts",
        ),
        (
            "tiny.expected.json",
            br#"{"left": "tiny.33", "right": "tiny.33", "vm_t_minus_vm_t": ["no rule"]}"#.to_vec(),
            "differences of policies",
        ),
        ("damaged.33.gz", b"\x1f\x8bno".to_vec(), "files"),
        ("denials.txt", denial.replacen("foreign-tap", "feature-rule", 1).into_bytes(), "denials"),
        (
            "tiny.expected.json",
            br#"{"left": "tiny.33", "right": "tiny.33", "types_added": ["a_t"]}"#.to_vec(),
            "differences of policies",
        ),
        (
            "debian-early2020-like.clone.tsv",
            calls.replacen("ct\town_file_create\tOK", "ct\town_file_create\tEACCES", 1).into_bytes(),
            "system calls",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tiny.33"), read("tiny.33")).unwrap();
        if kind == "system calls" {
            let policy = "refpolicy-virt_launcher.33.gz";
            std::fs::write(directory.path().join(policy), read(policy)).unwrap();
        }
        std::fs::write(directory.path().join(name), content).unwrap();
        let (summary, report) = run(directory.path());
        assert_eq!(summary.different, 1, "{kind}\n{report}");
        assert!(count(&report, kind).ends_with(", 1 different"), "{kind}\n{report}");
    }
}

#[test]
fn anything_may_be_compressed_and_unknown_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("policydb");
    std::fs::create_dir(&inner).unwrap();
    for name in ["tiny.34", "tiny.35", "tiny.35.expected.json"] {
        let packed = std::fs::File::create(inner.join(format!("{name}.gz"))).unwrap();
        let mut packer = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packer.write_all(&std::fs::read(data().join(name)).unwrap()).unwrap();
        packer.finish().unwrap();
    }
    std::fs::write(directory.path().join("notes.bin"), "?").unwrap();
    std::fs::write(directory.path().join("other.33.tsv"), "#kind\n").unwrap();
    let (summary, report) = run(directory.path());
    assert_eq!(summary.different, 0, "{report}");
    assert_eq!(count(&report, "policies"), "policies: 2, 0 different");
    assert!(count(&report, "dumps").starts_with("dumps: 2"), "{report}");
    assert!(report.contains("notes.bin: unknown"), "{report}");
    assert!(report.contains("other.33.tsv: the policy other.33 is not here"), "{report}");
}

/// Policies of the same name in several directories, and files with other names than ours.
#[test]
fn facts_find_the_policy_beside_them() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| std::fs::write(directory.path().join(name), content).unwrap();
    let read = |name: &str| std::fs::read(data().join(name)).unwrap();
    for (inner, name) in [("a", "tiny.33"), ("b", "tiny.35")] {
        std::fs::create_dir(directory.path().join(inner)).unwrap();
        write(&format!("{inner}/policy.33"), &read(name));
        write(&format!("{inner}/policy.33.expected.json"), &read(&format!("{name}.expected.json")));
    }
    write("plain.bin", &read("plain.33"));
    write("plain.json", &read("plain.33.expected.json"));
    write(
        "plain.bin.kernel.tsv",
        b"access\tstaff_u:staff_r:user_t\tstaff_u:staff_r:user_t\tfile\t1\t0\tffffffff\t0\tread\n",
    );
    write(
        "pair.expected.json",
        br#"{"left": "a/policy.33", "right": "plain.bin", "types_added": ["user_t"]}"#,
    );
    write("serial.txt", b"avc:  denied  { read } for  scontext=a:b:c tcontext=a:b:c tclass=d\r\navc:  granted  { read } for  scontext=a:b:c tcontext=a:b:c tclass=d");
    write("empty.jsonl", b"\n");
    let (summary, report) = run(directory.path());
    assert_eq!(count(&report, "dumps"), "dumps: 69, 0 different", "{report}");
    assert_eq!(count(&report, "access decisions"), "access decisions: 1, 0 different", "{report}");
    assert_eq!(count(&report, "lines of logs"), "lines of logs: 2, 0 different", "{report}");
    assert!(report.contains("empty.jsonl: nothing in it can be compared"), "{report}");
    assert_eq!(
        count(&report, "differences of policies"),
        "differences of policies: 1, 0 different",
        "{report}"
    );
    assert_eq!(summary.different, 0, "{report}");
}

#[test]
fn a_directory_without_facts_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(selinux::run(directory.path(), &mut Vec::new()).is_err());
    assert!(selinux::run(Path::new("/nonexistent"), &mut Vec::new()).is_err());
}
