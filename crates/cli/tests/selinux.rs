//! `ferrovirt selinux` as a whole process: answers, errors and exit codes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../selinux/tests/data").join(name)
}

fn selinux(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferrovirt")).arg("selinux").args(words).output().unwrap()
}

/// What a command says on which stream, and its exit code.
fn check(words: &[&str], code: i32, expected: &[&str]) {
    let output = selinux(words);
    let text = String::from_utf8_lossy(if code == 2 { &output.stderr } else { &output.stdout });
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    for part in expected {
        assert!(text.contains(part), "{words:?}: no {part:?} in\n{text}");
    }
}

#[test]
fn answers() {
    let tiny = data("tiny.33");
    let tiny = tiny.to_str().unwrap();
    check(&["query", tiny, "-s", "container_t"], 0, &["allow container_t "]);
    check(&["query", tiny, "-s", "nobody_t"], 2, &["no type or attribute \"nobody_t\""]);
    check(
        &["query", tiny, "-k", "range-transition"],
        0,
        &["range_transition vm_t container_file_t:file s0:c3;"],
    );
    check(&["query", tiny, "-k", "role-allow,role-transition"], 0, &["allow ", "role_transition "]);
    check(&["query", tiny, "-k", "role-allow", "-p", "read"], 2, &["leave -p and -b out"]);
    check(&["classes", tiny, "file"], 0, &["mlsconstrain file { read write }", "mlsvalidatetrans file"]);
    check(&["query", tiny, "-s", "container_t", "-o", "json"], 0, &["\"rules\": ["]);
    let other = data("tiny.31");
    check(&["diff", tiny, other.to_str().unwrap()], 0, &[]);
    check(&["diff", tiny, "--from", "vm_t", "--to", "boss_t"], 1, &["+ "]);
}

/// The table's own rules answer for the minimal types, and what is refused again and again is reported once.
#[test]
fn denials() {
    let directory = tempfile::tempdir().unwrap();
    let line = |serial: u32, permission: &str, source: &str, target: &str, class: &str| {
        format!(
            "type=AVC msg=audit(1.000:{serial}): avc:  denied  {{ {permission} }} for  pid=1 comm=\"qemu\" \
             scontext=system_u:system_r:{source}:s0:c1,c2 tcontext=system_u:object_r:{target} tclass={class} permissive=0\n"
        )
    };
    let hugepages = "virt_machine.kvm_hugepages";
    let log = directory.path().join("log");
    let mut text = line(7, "attach_queue", "virt_machine.kvm_tap", "spc_t:s0", "tun_socket");
    text += &line(8, "create", hugepages, "hugetlbfs_t:s0", "file");
    text += &line(9, "create", hugepages, "hugetlbfs_t:s0", "file").replace('\n', "\r\n");
    text += &line(10, "create", "virt_launcher.process", "hugetlbfs_t:s0", "file");
    text += &line(11, "read", "virt_machine.kvm", "proc_t:s0", "file");
    text += "type=AVC msg=audit(1.000:12): avc:  denied  { read } for  pid=1 comm=\"qe";
    fs::write(&log, &text).unwrap();
    let output = selinux(&["explain", log.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("line 6: the record has no field"),
        "{output:?}"
    );
    let answer = String::from_utf8(output.stdout).unwrap();
    let entries: Vec<&str> = answer.split("event ").skip(1).collect();
    for (entry, (head, kind)) in entries.iter().zip([
        ("7: qemu: tun_socket { attach_queue } denied", "feature-rule (network-multiqueue)"),
        ("8 and 1 more: qemu: file { create } denied", "other (hugepages)"),
        ("10: qemu: file { create } denied", "feature-rule (hugepages)"),
        ("11: qemu: file { read } denied", "other"),
    ]) {
        assert!(entry.starts_with(head) && entry.contains(&format!("  {kind}: ")), "{kind}\n{answer}");
    }
    assert_eq!(entries.len(), 4, "{answer}");
    assert_eq!(answer.matches("missing: (allow ").count(), 2, "{answer}");
}

/// A file's name is its owner's choice: it reaches neither the terminal nor our own lines.
#[test]
fn names_in_logs_are_only_names() {
    let name: String = "x)\n  missing: all\u{1b}[2J".bytes().map(|byte| format!("{byte:02X}")).collect();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let text = format!(
        "type=AVC msg=audit(1.000:1): avc:  denied  {{ read }} for  pid=1 comm=\"qemu\" name={name} dev=\"tmpfs\" \
         scontext=system_u:system_r:virt_machine.kvm:s0:c1,c2 tcontext=system_u:object_r:proc_t:s0 tclass=file"
    );
    fs::write(&log, text).unwrap();
    let output = selinux(&["explain", log.to_str().unwrap()]);
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.contains(r"(x)\n  missing: all\u{1b}[2J)"), "{answer}");
    assert!(
        !answer.contains('\u{1b}') && !answer.lines().any(|line| line.starts_with("  missing")),
        "{answer}"
    );
    check(
        &["explain", log.to_str().unwrap(), "-o", "json"],
        0,
        &[r#""path": "x)\n  missing: all\u001b[2J""#],
    );
}

#[test]
fn wrong_questions() {
    let tiny = data("tiny.33");
    let tiny = tiny.to_str().unwrap();
    check(&["query", tiny, "-s", "contianer_t"], 2, &["did you mean container_t"]);
    check(&["query", tiny, "-c", "fil"], 2, &["no class \"fil\"", "did you mean file"]);
    check(&["query", tiny, "-c", "file", "-p", "raed"], 2, &["did you mean read"]);
    check(&["query", tiny, "-b", "nothing"], 2, &["no boolean \"nothing\""]);
    check(&["diff", tiny, "--from", "vm_t", "--to", "domain"], 2, &["domain is an attribute"]);
    check(&["query", "/nonexistent"], 2, &["cannot read the policy /nonexistent"]);
    check(&["query", data("container_modern_like.cil").to_str().unwrap()], 2, &["secilc"]);
    check(&["query", data("refpolicy-base.33.gz").to_str().unwrap()], 2, &["gzip"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.33");
    fs::write(&path, &fs::read(data("tiny.33")).unwrap()[..3000]).unwrap();
    check(&["types", path.to_str().unwrap()], 2, &["cut.33", "the policy is cut off or damaged"]);
    let bytes = fs::read(data("tiny.33")).unwrap();
    let place = bytes.windows(11).position(|window| window == b"container_t").unwrap();
    let mut renamed = bytes.clone();
    renamed[place] = b'k';
    fs::write(&path, renamed).unwrap();
    check(&["policy", "--base", path.to_str().unwrap()], 2, &["container_t", "container-selinux"]);
}

/// A directory stands for the policy in it.
#[test]
fn directories() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    check(&["types", root], 2, &["no file policy.N in"]);
    fs::create_dir_all(directory.path().join("active/modules")).unwrap();
    check(&["types", root], 2, &["has no compiled policy", "semodule"]);
    fs::copy(data("tiny.32"), directory.path().join("active/policy.kern")).unwrap();
    check(&["types", root], 0, &["container_t"]);
    fs::create_dir(directory.path().join("policy")).unwrap();
    for version in ["30", "33"] {
        fs::copy(data(&format!("tiny.{version}")), directory.path().join(format!("policy/policy.{version}")))
            .unwrap();
    }
    check(&["types", root, "-o", "json"], 0, &["\"container_t\""]);
}
