//! The privilege table's SELinux rules in a real kernel that enforces them, on each base policy.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::target;
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

fn prove(base: &str, words: &[&str]) -> Result<Output> {
    let program = target().join("dist/ferrovirt");
    Command::new(&program)
        .args(["selinux", "prove", "--base", base])
        .args(words)
        .output()
        .with_context(|| format!("cannot run {}: `cargo xtask build` makes it", program.display()))
}

/// The documents' rules and the minimal types: every operation in every domain.
fn holds(base: &str) -> Result<Value> {
    let dir = tempfile::tempdir()?;
    let (file, page) = (dir.path().join("proof.json"), dir.path().join("proof.html"));
    let output = prove(base, &["--json", &file.to_string_lossy(), "--html", &page.to_string_lossy()])?;
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(shown.contains("0 differ from our own"), "{shown}");
    ensure!(std::fs::read_to_string(&page)?.contains("The kernel does as the table says"), "the page");
    let proof: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    ensure!(proof["holds"] == true, "{proof}");
    Ok(proof)
}

/// Whether an operation was seen to succeed in a domain.
fn allowed(proof: &Value, domain: &str, operation: &str) -> Result<bool> {
    let cells = proof["cells"].as_array().context("cells")?;
    let cell = cells.iter().find(|cell| cell["domain"] == domain && cell["operation"] == operation);
    cell.context("no such cell")?["observed"]["allowed"].as_bool().context("allowed")
}

/// On a base as of early 2020 each documented permission is needed, and all of them are enough.
#[test]
fn on_a_base_that_lacks_every_documented_rule() -> Result<()> {
    let proof = holds("early2020")?;
    let rules = proof["leftOut"].as_array().context("rules")?;
    ensure!(rules.len() == 12 && rules.iter().all(|rule| rule["needed"] == "yes"), "{rules:?}");
    for operation in ["tap-second-queue", "tap-attach-queue", "huge-mkdir", "huge-create", "sysfs-write"] {
        ensure!(!allowed(&proof, "container_t", operation)?, "{operation}");
        ensure!(allowed(&proof, "virt_launcher.process", operation)?, "{operation}");
        ensure!(!allowed(&proof, "virt_machine.kvm", operation)?, "{operation}");
    }
    for operation in ["huge-open", "huge-map", "huge-memfd", "own-file-read"] {
        ensure!(allowed(&proof, "virt_launcher.process", operation)?, "{operation}");
    }
    for operation in [
        "tap-open-foreign",
        "huge-rename",
        "sysfs-append",
        "proc-sys-write",
        "other-file-read",
        "escape-domain",
    ] {
        ensure!(!allowed(&proof, "virt_launcher.process", operation)?, "{operation}");
    }
    // What the node agent passes is the minimal profile's way to the same, and each type has its own part of it.
    for (domain, read, attach) in [
        ("virt_machine.kvm", false, false),
        ("virt_machine.kvm_tap", true, false),
        ("virt_machine.kvm_multiqueue", true, true),
    ] {
        ensure!(allowed(&proof, domain, "tap-passed-read")? == read, "{domain}");
        ensure!(allowed(&proof, domain, "tap-passed-write")? == read, "{domain}");
        ensure!(allowed(&proof, domain, "tap-passed-attach")? == attach, "{domain}");
        ensure!(!allowed(&proof, domain, "tap-open-agents")?, "{domain}");
    }
    Ok(())
}

#[test]
fn on_debians_policy() -> Result<()> {
    let proof = holds("base")?;
    // Here the documented rules are not enough for memory on a hugetlbfs, and the table says so.
    ensure!(allowed(&proof, "virt_launcher.process", "huge-create")?);
    ensure!(!allowed(&proof, "virt_launcher.process", "huge-open")?);
    Ok(())
}

/// Later bases give most of the rules to container_t.
#[test]
fn on_a_base_that_has_most_rules() -> Result<()> {
    let proof = holds("modern")?;
    let rules = proof["leftOut"].as_array().context("rules")?;
    let needed: Vec<&str> = rules
        .iter()
        .filter(|rule| rule["needed"] == "yes")
        .filter_map(|rule| rule["rule"].as_str())
        .collect();
    let rest =
        ["hugetlbfs_t dir create", "hugetlbfs_t dir rmdir", "hugetlbfs_t dir setattr", "sysfs_t file write"];
    ensure!(needed == rest, "{needed:?}");
    ensure!(allowed(&proof, "container_t", "tap-attach-queue")?);
    Ok(())
}

/// A node's own rule that gives the launcher more than the table: found, and said where.
#[test]
fn a_rule_too_many_is_found() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let rule = dir.path().join("local.cil");
    std::fs::write(&rule, "(allow virt_launcher.process sysfs_t (file (append)))\n")?;
    let output = prove("early2020", &["--profile", "documented", "--with", &rule.to_string_lossy()])?;
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{:?} {shown}", output.status);
    let line = shown.lines().find(|line| line.ends_with("DIFFERS")).context("no line differs")?;
    ensure!(line.contains("open it for appending") && line.contains("allowed"), "{line}");
    ensure!(shown.lines().filter(|line| line.ends_with("DIFFERS")).count() == 1, "{shown}");
    Ok(())
}

/// Nothing could be tried: the exit code is another, and the message says what to do.
#[test]
fn what_cannot_be_tried_is_reported() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let broken = dir.path().join("broken.cil");
    std::fs::write(&broken, "(allow virt_launcher.process no_such_t (file (read)))\n")?;
    let kernel = dir.path().join("vmlinuz");
    std::fs::write(&kernel, "no kernel")?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    for (base, words, message) in [
        ("nothing", vec![], "there is no base policy nothing"),
        ("base", vec!["--with".to_owned(), path(&broken)], "no_such_t"),
        ("base", vec!["--kernel".to_owned(), path(&kernel)], "qemu-system-x86_64 failed"),
        ("base", vec!["--kernel".to_owned(), path(&dir.path().join("none"))], "a kernel is missing"),
        ("base", vec!["--timeout".to_owned(), "1".to_owned()], "did not end within 1s"),
    ] {
        let mut all = vec!["--profile", "documented"];
        all.extend(words.iter().map(String::as_str));
        let output = prove(base, &all)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && said.contains(message),
            "{words:?}: {:?} {said}",
            output.status
        );
    }
    Ok(())
}
