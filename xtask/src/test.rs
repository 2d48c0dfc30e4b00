//! All tests.

use crate::{chaos, root, run, tidy};
use anyhow::{Result, ensure};
use std::process::Command;

/// Minutes of chaos in each run of all tests; a thousand rounds are run by hand.
const CHAOS: u64 = 5;

/// Tests of `tests/cluster` that need no Kubernetes.
const WITHOUT_KUBERNETES: [&str; 1] = ["remains"];
/// Those on a real Kubernetes, in the order in which they run.
const ON_KUBERNETES: [&str; 9] = [
    "lifecycle",
    "manifests",
    "slots",
    "network",
    "machine",
    "volumes",
    "machine_api",
    "subresources",
    "install",
];

/// The words that choose these test programs.
fn chosen(names: &[&'static str]) -> Vec<&'static str> {
    names.iter().flat_map(|name| ["--test", name]).collect()
}

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
    let words = ["test", "--locked", "-p", "ferrovirt-cluster", "--lib"];
    cargo(&[&words[..], &chosen(&WITHOUT_KUBERNETES)].concat())?;
    chaos::chaos(&chaos::Arguments::for_minutes(CHAOS))?;
    on_kubernetes()
}

/// The tests on a real Kubernetes. Where it cannot be built, the last lines say so; in CI that is a failure.
fn on_kubernetes() -> Result<()> {
    match ferrovirt_cluster::build::Programs::prepare(ferrovirt_cluster::KUBERNETES) {
        Ok(_) => {
            let words = ["test", "--locked", "-p", "ferrovirt-cluster"];
            cargo(&[&words[..], &chosen(&ON_KUBERNETES), &["--", "--test-threads=1"]].concat())
        }
        Err(error) if error.is::<ferrovirt_cluster::Unavailable>() => {
            let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            ensure!(!ci, "the tests on a real Kubernetes did not run: {error:#}");
            println!("\nthe tests on a real Kubernetes did not run: {error:#}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs};

    /// A test program that is in neither list would never run in CI.
    #[test]
    fn every_test_of_a_kubernetes_is_run_once() {
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(root().join("tests/cluster/tests")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                files.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
            }
        }
        let listed: Vec<String> =
            WITHOUT_KUBERNETES.iter().chain(&ON_KUBERNETES).map(|name| (*name).to_owned()).collect();
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), files);
        assert_eq!(listed.len(), files.len(), "listed twice");
        assert_eq!(chosen(&["a", "b"]), ["--test", "a", "--test", "b"]);
    }
}
