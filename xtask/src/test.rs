//! All tests.

use crate::{chaos, root, run, tidy};
use anyhow::{Result, ensure};
use std::process::Command;

/// Minutes of chaos in each run of all tests; a thousand rounds are run by hand.
const CHAOS: u64 = 5;

/// Tests of `tests/cluster` that need no Kubernetes.
const WITHOUT_KUBERNETES: [&str; 1] = ["remains"];
/// Those on a real Kubernetes, in the order in which they run.
const ON_KUBERNETES: [&str; 11] = [
    "lifecycle",
    "manifests",
    "slots",
    "network",
    "machine",
    "volumes",
    "user_namespaces",
    "examples",
    "machine_api",
    "subresources",
    "install",
];

/// The words that choose these test programs.
fn chosen(names: &[&'static str]) -> Vec<&'static str> {
    names.iter().flat_map(|name| ["--test", name]).collect()
}

/// A warning of rustdoc is an error.
fn cargo(words: &[&str]) -> Result<()> {
    println!("cargo {}", words.join(" "));
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .env("RUSTDOCFLAGS", "-D warnings")
        .args(words))
}

/// Tests that look at the whole host: one after another.
const WHOLE_HOST: [&str; 3] = ["ferrovirt-e2e", "ferrovirt-clients", "ferrovirt-hostile"];
/// Tests of a real Kubernetes.
const CLUSTER: &str = "ferrovirt-cluster";

/// What cargo is asked for before the tests on a real Kubernetes, in order: lints, documentation, the tests that may run side
/// by side, those that look at the whole host, and those of `tests/cluster` that need no cluster.
///
/// The third kind runs one after another, since two guests booting are as much as two cores can do.
fn steps() -> [Vec<&'static str>; 5] {
    let lints = ["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    let documentation = ["doc", "--quiet", "--locked", "--workspace", "--no-deps"];
    // The first failure must not hide others: a run is long.
    let mut beside = vec!["test", "--locked", "--no-fail-fast", "--workspace"];
    beside.extend(WHOLE_HOST.iter().chain([&CLUSTER]).flat_map(|name| ["--exclude", name]));
    let mut host = vec!["test", "--locked", "--no-fail-fast"];
    host.extend(WHOLE_HOST.iter().flat_map(|name| ["-p", name]));
    host.extend(["--", "--test-threads=1"]);
    let mut alone = vec!["test", "--locked", "-p", CLUSTER, "--lib"];
    alone.extend(chosen(&WITHOUT_KUBERNETES));
    [lints.to_vec(), documentation.to_vec(), beside, host, alone]
}

/// Runs everything, or only the end-to-end tests whose name contains `only`.
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
    for words in steps() {
        cargo(&words)?;
    }
    chaos::chaos(&chaos::Arguments::for_minutes(CHAOS))?;
    on_kubernetes()
}

/// The tests on a real Kubernetes. Where it cannot be built, the last lines say so; in CI that is a failure.
fn on_kubernetes() -> Result<()> {
    match ferrovirt_cluster::build::Programs::prepare(ferrovirt_cluster::KUBERNETES) {
        Ok(_) => {
            let words = ["test", "--locked", "--no-fail-fast", "-p", CLUSTER];
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

    /// The packages of the workspace.
    fn packages() -> BTreeSet<String> {
        let output = Command::new("cargo")
            .current_dir(root())
            .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
            .output()
            .unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = metadata["packages"].as_array().unwrap();
        all.iter().map(|package| package["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The words after each option of this name.
    fn after<'a>(words: &'a [&'a str], option: &str) -> BTreeSet<&'a str> {
        words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]).collect()
    }

    /// No package's tests are left out: what the first run excludes is there and is run by another one.
    #[test]
    fn every_package_is_tested_once() {
        let [lints, documentation, beside, host, alone] = steps();
        let packages = packages();
        let excluded = after(&beside, "--exclude");
        for name in &excluded {
            assert!(packages.contains(*name), "{name} is excluded and not there");
        }
        let elsewhere: BTreeSet<&str> = after(&host, "-p").union(&after(&alone, "-p")).copied().collect();
        assert_eq!(excluded, elsewhere);
        assert!(after(&host, "-p").is_disjoint(&after(&alone, "-p")));
        for words in [&lints, &documentation, &beside] {
            assert!(words.contains(&"--workspace"), "{words:?}");
        }
        // Tests of a Kubernetes are chosen by name: without one, all of them would start clusters.
        assert_eq!(after(&alone, "--test"), WITHOUT_KUBERNETES.into());
        // Every crate that starts a whole Ferrovirt in its tests looks at the whole host.
        for name in packages.iter().filter(|name| name.ends_with("-e2e") || name.ends_with("-hostile")) {
            assert!(after(&host, "-p").contains(name.as_str()), "{name}");
        }
    }

    /// What is tested is what is locked, and tests of the whole host do not run into each other.
    #[test]
    fn runs_are_locked_and_those_of_the_host_are_one_after_another() {
        for words in steps() {
            let own = words.iter().position(|word| *word == "--").unwrap_or(words.len());
            assert!(words[..own].contains(&"--locked"), "{words:?}");
        }
        let [_, _, _, host, _] = steps();
        assert_eq!(host[host.len() - 2..], ["--", "--test-threads=1"]);
    }
}
