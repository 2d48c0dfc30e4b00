//! Everything that is linked into the launcher, by name: one machine, one launcher, so each crate here is paid for
//! by every machine, and is part of what a guest that broke out of QEMU would meet next.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, process::Command};

#[test]
fn the_crates_of_the_launcher_are_those_that_were_reviewed() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "ferrovirt-launcher",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu", "--format", "{lib}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)").trim())
        .filter(|line| !line.is_empty())
        .collect();
    let reviewed: BTreeSet<&str> = include_str!("closure.txt").lines().collect();
    assert_eq!(crates, reviewed);
}
