//! All tests.

use crate::{chaos, root, run, tidy};
use anyhow::{Result, ensure};
use std::process::Command;

/// Minutes of chaos in each run of all tests; a thousand rounds are run by hand.
const CHAOS: u64 = 5;

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
        "--exclude",
        "ferrovirt-cluster",
    ])?;
    cargo(&["test", "--locked", "-p", "ferrovirt-e2e", "-p", "ferrovirt-hostile", "--", "--test-threads=1"])?;
    cargo(&["test", "--locked", "-p", "ferrovirt-cluster", "--lib", "--test", "remains"])?;
    chaos::chaos(&chaos::Arguments::for_minutes(CHAOS))?;
    on_kubernetes()
}

/// The tests on a real Kubernetes. Where it cannot be built, the last lines say so; in CI that is a failure.
fn on_kubernetes() -> Result<()> {
    match ferrovirt_cluster::build::Programs::prepare(ferrovirt_cluster::KUBERNETES) {
        Ok(_) => cargo(&[
            "test",
            "--locked",
            "-p",
            "ferrovirt-cluster",
            "--test",
            "lifecycle",
            "--test",
            "manifests",
            "--test",
            "slots",
            "--test",
            "network",
            "--test",
            "machine",
            "--test",
            "volumes",
            "--test",
            "machine_api",
            "--test",
            "subresources",
            "--test",
            "install",
            "--",
            "--test-threads=1",
        ]),
        Err(error) if error.is::<ferrovirt_cluster::Unavailable>() => {
            let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            ensure!(!ci, "the tests on a real Kubernetes did not run: {error:#}");
            println!("\nthe tests on a real Kubernetes did not run: {error:#}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
