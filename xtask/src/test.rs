//! All tests.

use crate::{root, run, tidy};
use anyhow::Result;
use std::process::Command;

fn cargo(words: &[&str]) -> Result<()> {
    println!("cargo {}", words.join(" "));
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args(words))
}

/// Runs everything, or only the end-to-end tests whose name contains `only`.
///
/// The end-to-end tests run one after another: each looks at the whole host, and two guests booting are as much as two
/// cores can do.
pub(crate) fn test(only: Option<&str>) -> Result<()> {
    if let Some(name) = only {
        return cargo(&[
            "test",
            "--locked",
            "-p",
            "ferrovirt-e2e",
            "--",
            "--test-threads=1",
            "--nocapture",
            name,
        ]);
    }
    tidy::check()?;
    cargo(&["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    cargo(&[
        "test",
        "--locked",
        "--workspace",
        "--exclude",
        "ferrovirt-e2e",
        "--exclude",
        "ferrovirt-hostile",
    ])?;
    cargo(&["test", "--locked", "-p", "ferrovirt-e2e", "-p", "ferrovirt-hostile", "--", "--test-threads=1"])
}
