//! Checks of the repository that no compiler makes: who may depend on whom, that files do not import each other in large
//! circles, that every crate inherits the lints, that text is formatted and generated files are current.

mod circles;
mod words;

use crate::{generate, root, run};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// The allowed edges between our crates, and no others. `cli`, `e2e` and `xtask` may use anything.
const EDGES: [(&str, &[&str]); 34] = [
    ("kubernetes", &[]),
    ("model", &[]),
    ("scc", &["kubernetes"]),
    ("selinux", &[]),
    ("sys", &[]),
    ("unpack", &["sys"]),
    ("netlink", &["sys"]),
    (
        "handler",
        &["kubernetes", "model", "api", "plan", "netlink", "qemu", "sys", "watch", "https", "kubelet-api"],
    ),
    ("kubelet-api", &[]),
    ("node", &["kubernetes", "kubelet-api", "netlink", "sys", "unpack"]),
    ("qemu", &[]),
    ("api", &["kubernetes", "model", "qemu"]),
    ("privilege", &["model"]),
    ("plan", &["kubernetes", "model", "api", "privilege", "scc", "selinux", "qemu", "lab-protocol"]),
    ("selinux-node", &["model", "plan", "selinux"]),
    ("machines", &["kubernetes", "api", "plan"]),
    ("apiserver", &["kubernetes", "api", "scc", "plan", "machines", "https"]),
    ("log", &["qemu"]),
    ("watch", &[]),
    ("control", &["kubernetes", "plan", "api", "model", "watch"]),
    (
        "agent",
        &[
            "kubernetes",
            "plan",
            "api",
            "model",
            "qemu",
            "sys",
            "unpack",
            "netlink",
            "node",
            "kubelet-api",
            "handler",
            "selinux-node",
            "watch",
            "log",
        ],
    ),
    ("launcher", &["qemu", "sys"]),
    ("lab", &["sys"]),
    ("lab-guest", &["lab-protocol"]),
    ("lab-protocol", &[]),
    ("witness", &["lab-guest", "lab-protocol", "sys"]),
    ("https", &["kubernetes"]),
    ("webhook", &["kubernetes", "plan", "scc", "watch", "https"]),
    ("machine-api", &["kubernetes", "plan", "scc", "https", "machines"]),
    ("conformance", &["kubernetes", "model", "plan", "privilege", "scc", "selinux"]),
    ("nested", &["lab-guest", "lab-protocol", "qemu", "sys"]),
    ("hostile", &["e2e"]),
    ("clients", &[]),
    ("cluster", &["e2e"]),
];

/// Crates that decide: no clock, no files, no sockets, no async runtime, no system calls.
const PURE: [&str; 10] =
    ["kubernetes", "model", "api", "privilege", "scc", "selinux", "qemu", "lab-protocol", "plan", "machines"];
const NOT_PURE: [&str; 9] =
    ["tokio", "hyper", "kube", "rustix", "rustls", "redb", "axum", "tempfile", "libc"];

/// Runs every check; the error lists all that is wrong.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    let packages = packages()?;
    edges(&packages, &mut wrong);
    lints(&packages, &mut wrong)?;
    for package in &packages {
        let sources = Path::new(&package.manifest).with_file_name("src");
        if sources.is_dir() {
            circles::check(&package.name, &sources, &mut wrong)?;
        }
    }
    unsafe_code(&mut wrong)?;
    machine_words(&mut wrong)?;
    words::check(&root(), &tracked(&[])?, &mut wrong)?;
    duplicates(&mut wrong)?;
    if let Err(error) = generate::check() {
        wrong.push(format!("{error:#}"));
    }
    ensure!(wrong.is_empty(), "the repository is not tidy:\n  {}", wrong.join("\n  "));
    run(Command::new("cargo").current_dir(root()).args(["fmt", "--all", "--check"]))
        .context("run `cargo fmt --all`")?;
    licences()?;
    println!(
        "tidy: edges, circles, lints, unsafe, words, duplicates, generated files and formatting are in order"
    );
    Ok(())
}

/// Licences, sources and bans of every dependency, by cargo-deny where it is installed. Advisories are left out: they
/// come from a database on the network, so that the same commit would pass today and fail tomorrow.
fn licences() -> Result<()> {
    let installed = Command::new("cargo").args(["deny", "--version"]).output()?;
    if !installed.status.success() {
        println!(
            "tidy: cargo-deny is not installed, so licences and sources of dependencies were not checked \
             (cargo install --locked cargo-deny)"
        );
        return Ok(());
    }
    run(Command::new("cargo")
        .current_dir(root())
        .args(["deny", "--locked", "check", "licenses", "sources", "bans"]))
    .context("correct deny.toml or the dependency")
}

/// One package of the workspace: its manifest and the packages that it uses outside its tests.
struct Package {
    name: String,
    manifest: String,
    uses: BTreeSet<String>,
}

fn packages() -> Result<Vec<Package>> {
    let output = Command::new("cargo")
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    read_packages(&serde_json::from_slice(&output.stdout)?)
}

/// The packages in what `cargo metadata` says.
fn read_packages(metadata: &Value) -> Result<Vec<Package>> {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = metadata.get("packages").and_then(Value::as_array).context("no packages")?;
    Ok(all
        .iter()
        .map(|package| Package {
            name: text(package, "name"),
            manifest: text(package, "manifest_path"),
            uses: package
                .get("dependencies")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|dependency| text(dependency, "kind") != "dev")
                .map(|dependency| text(dependency, "name"))
                .collect(),
        })
        .collect())
}

fn edges(packages: &[Package], wrong: &mut Vec<String>) {
    let allowed: BTreeMap<_, _> = EDGES.into_iter().collect();
    for package in packages {
        let short = package.name.trim_start_matches("ferrovirt-");
        if PURE.contains(&short) {
            for name in NOT_PURE.iter().filter(|name| package.uses.contains(**name)) {
                wrong.push(format!("{short} decides and may not use {name}"));
            }
        }
        if ["cli", "e2e", "xtask"].contains(&short) {
            continue;
        }
        let Some(may) = allowed.get(short) else {
            wrong.push(format!("{short} is not in the list of edges in xtask/src/tidy.rs"));
            continue;
        };
        for used in package.uses.iter().filter_map(|name| name.strip_prefix("ferrovirt-")) {
            if !may.contains(&used) {
                wrong.push(format!("{short} may not depend on {used}"));
            }
        }
    }
}

fn lints(packages: &[Package], wrong: &mut Vec<String>) -> Result<()> {
    for package in packages {
        if !fs::read_to_string(&package.manifest)?.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{} does not inherit the workspace's lints", package.manifest));
        }
    }
    Ok(())
}

/// The files that git knows below some paths, one a line.
fn tracked(below: &[&str]) -> Result<String> {
    let files = git(&[&["ls-files", "--"], below].concat(), &[0])?;
    // Without any, checks would find nothing wrong in what they have not read.
    ensure!(!files.is_empty(), "git knows no file in {below:?}");
    Ok(files)
}

/// Those of them in which an extended regular expression is found.
fn containing(expression: &str, below: &[&str]) -> Result<String> {
    tracked(below)?;
    git(&[&["grep", "-lE", "-e", expression, "--"], below].concat(), &[0, 1])
}

/// What git says; an error where it ends with another code than these.
fn git(words: &[&str], codes: &[i32]) -> Result<String> {
    let output = Command::new("git").current_dir(root()).args(words).output()?;
    let good = output.status.code().is_some_and(|code| codes.contains(&code));
    ensure!(good, "git {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a text about pods and nodes has no reason to say.
const MACHINE_WORDS: [&str; 10] =
    ["guest", "hypervisor", "kubevirt", "launcher", "libvirt", "machine", "qemu", "virt-", "virt_", "vmi"];

/// The reader of policies is of use for any policy, and the node's part for any pod: what is of machines belongs into plan,
/// and into the agent.
fn machine_words(wrong: &mut Vec<String>) -> Result<()> {
    let files = containing("virt[_-]", &["crates/selinux/src"])?;
    wrong.extend(
        files.lines().map(|file| format!("{file} knows of machines; what concerns them is in crates/plan")),
    );
    for file in tracked(&["crates/node"])?.lines() {
        said(file, &fs::read_to_string(root().join(file))?, wrong);
    }
    Ok(())
}

/// The first word of machines that a file says.
fn said(file: &str, text: &str, wrong: &mut Vec<String>) {
    // Our own name, and what others call a library of Kubernetes and the number of a host.
    let allowed = ["apimachinery", "ferrovirt-", "ferrovirt_", "machineid", "machine-id"];
    for (number, line) in text.lines().enumerate() {
        let line = allowed.iter().fold(line.to_lowercase(), |line, word| line.replace(word, ""));
        if let Some(word) = MACHINE_WORDS.iter().find(|word| line.contains(**word)) {
            let number = number + 1;
            wrong.push(format!(
                "{file}:{number} says {word:?}: crates/node serves any pod; what is of machines comes from the agent"
            ));
            return;
        }
    }
}

/// `unsafe` is for `crates/sys` alone.
fn unsafe_code(wrong: &mut Vec<String>) -> Result<()> {
    allowing(&containing(r"allow\(unsafe_code", &[])?, wrong);
    Ok(())
}

/// The files that allow it, one a line.
fn allowing(files: &str, wrong: &mut Vec<String>) {
    for file in files.lines() {
        if !file.starts_with("crates/sys/") && file != "xtask/src/tidy.rs" {
            wrong.push(format!("{file} allows unsafe code; only crates/sys may"));
        }
    }
}

/// Two versions of one crate cost build time and memory: each is a decision, written down in `deny.toml`.
fn duplicates(wrong: &mut Vec<String>) -> Result<()> {
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let deny = fs::read_to_string(root().join("deny.toml"))?;
    repeated(&lock, &deny, wrong);
    Ok(())
}

/// The crates of a Cargo.lock that are there more than once and in no decision of a deny.toml.
fn repeated(lock: &str, deny: &str, wrong: &mut Vec<String>) {
    let mut versions: BTreeMap<&str, u32> = BTreeMap::new();
    for name in lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')) {
        *versions.entry(name).or_default() += 1;
    }
    for (name, count) in versions.into_iter().filter(|(_, count)| *count > 1) {
        if !deny.contains(&format!("crate = \"{name}\"")) {
            wrong.push(format!(
                "{count} versions of {name} in Cargo.lock: unify them, or give the cause in deny.toml"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            manifest: String::new(),
            uses: uses.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn found(check: impl FnOnce(&mut Vec<String>)) -> Vec<String> {
        let mut wrong = Vec::new();
        check(&mut wrong);
        wrong
    }

    #[test]
    fn an_edge_that_is_not_listed_is_refused() {
        let of = |name: &str, uses: &[&str]| found(|wrong| edges(&[package(name, uses)], wrong));
        let none: [&str; 0] = [];
        assert_eq!(of("ferrovirt-api", &["ferrovirt-model", "serde", "ferrovirt-qemu"]), none);
        assert_eq!(
            of("ferrovirt-api", &["ferrovirt-model", "ferrovirt-plan"]),
            ["api may not depend on plan"]
        );
        assert_eq!(of("ferrovirt-launcher", &["tokio", "ferrovirt-qemu"]), none);
        assert_eq!(of("ferrovirt-plan", &["tokio"]), ["plan decides and may not use tokio"]);
        assert_eq!(of("ferrovirt-cli", &["tokio", "ferrovirt-plan"]), none);
        let unknown = of("ferrovirt-new", &[]);
        assert!(unknown.len() == 1 && unknown[0].contains("not in the list of edges"), "{unknown:?}");
    }

    /// The list itself: no crate twice, none that is not there, no way round in a circle, and nothing that decides rests on
    /// something that does not.
    #[test]
    fn the_list_of_edges_is_a_plan_of_the_workspace() {
        let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
        assert_eq!(allowed.len(), EDGES.len());
        let packages = packages().unwrap();
        let there: BTreeSet<&str> =
            packages.iter().map(|package| package.name.trim_start_matches("ferrovirt-")).collect();
        for (name, uses) in EDGES {
            assert!(there.contains(name), "{name} is listed and not there");
            for used in uses {
                assert!(there.contains(used), "{name}: {used}");
                assert!(!PURE.contains(&name) || PURE.contains(used), "{name} decides and may use {used}");
            }
        }
        let mut left = allowed;
        while !left.is_empty() {
            let names: BTreeSet<&str> = left.keys().copied().collect();
            left.retain(|_, uses| uses.iter().any(|used| names.contains(used)));
            assert!(left.len() < names.len(), "a circle among {names:?}");
        }
    }

    /// An edge that is allowed and used by nobody would let somebody in without a word.
    #[test]
    fn every_edge_that_is_listed_is_used() {
        let packages = packages().unwrap();
        for (name, uses) in EDGES {
            let of = |package: &&Package| package.name.trim_start_matches("ferrovirt-") == name;
            let package = packages.iter().find(of).unwrap();
            for used in uses {
                assert!(package.uses.contains(&format!("ferrovirt-{used}")), "{name} does not use {used}");
            }
        }
    }

    #[test]
    fn a_manifest_without_the_lints_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            Package { manifest: path.to_string_lossy().into_owned(), ..package(name, &[]) }
        };
        let good = manifest("good", "[package]\n\n[lints]\nworkspace = true\n");
        let bad = manifest("bad", "[package]\n\n[lints.rust]\nunsafe_code = \"allow\"\n");
        let wrong = found(|wrong| lints(&[good, bad], wrong).unwrap());
        assert!(wrong.len() == 1 && wrong[0].contains("bad"), "{wrong:?}");
    }

    #[test]
    fn the_nodes_part_says_no_word_of_machines() {
        let of = |text: &str| found(|wrong| said("crates/node/src/a.rs", text, wrong));
        let none: [&str; 0] = [];
        assert_eq!(
            of("use ferrovirt_sys::netns;\n// ferrovirt-node, /etc/machine-id, machineID, virtual\n"),
            none
        );
        for (text, word) in [
            ("\nconst IMAGE: &str = \"QEMU\";", "qemu"),
            ("/// Of a guest.\n", "guest"),
            ("\"/var/run/kubevirt\"", "kubevirt"),
            ("of the VirtualMachineInstance", "machine"),
            ("virt-handler", "virt-"),
            ("fn launcher()", "launcher"),
        ] {
            let wrong = of(text);
            assert!(wrong.len() == 1 && wrong[0].contains(&format!("says {word:?}")), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn unsafe_code_is_for_sys_alone() {
        let wrong = found(|wrong| {
            allowing("crates/sys/src/tap.rs\nxtask/src/tidy.rs\ncrates/system/src/a.rs\n", wrong)
        });
        assert_eq!(wrong, ["crates/system/src/a.rs allows unsafe code; only crates/sys may"]);
    }

    #[test]
    fn a_second_version_is_a_decision() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1\"\n[[package]]\nname = \"a\"\nversion = \"2\"\n\
                    [[package]]\nname = \"ab\"\nversion = \"1\"\n";
        let wrong = |deny: &str| found(|wrong| repeated(lock, deny, wrong));
        assert!(wrong("").len() == 1 && wrong("")[0].starts_with("2 versions of a "), "{:?}", wrong(""));
        assert_eq!(wrong("crate = \"ab\"").len(), 1);
        assert!(wrong("skip = [{ crate = \"a\", reason = \"x\" }]").is_empty());
    }

    /// A dependency counts whether it is for builds, for one target, optional or under another name; one of tests alone does not,
    /// also when it is there as both.
    #[test]
    fn every_dependency_outside_tests_is_a_use() {
        let of = |name: &str, kind: Value, more: Value| {
            let mut dependency = serde_json::json!({"name": name, "kind": kind});
            dependency.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            dependency
        };
        let none = || serde_json::json!({});
        let metadata = serde_json::json!({"packages": [
            {"name": "ferrovirt-a", "manifest_path": "/a/Cargo.toml", "dependencies": [
                of("plain", Value::Null, none()),
                of("for-builds", "build".into(), none()),
                of("for-one-target", Value::Null, serde_json::json!({"target": "cfg(unix)"})),
                of("real-name", Value::Null, serde_json::json!({"rename": "other"})),
                of("optional", Value::Null, serde_json::json!({"optional": true})),
                of("for-tests", "dev".into(), none()),
                of("both", "dev".into(), none()),
                of("both", Value::Null, none()),
            ]},
            {"name": "ferrovirt-b", "manifest_path": "/b/Cargo.toml", "dependencies": []},
        ]});
        let read = read_packages(&metadata).unwrap();
        let names: Vec<_> =
            read.iter().map(|package| (package.name.as_str(), package.manifest.as_str())).collect();
        assert_eq!(names, [("ferrovirt-a", "/a/Cargo.toml"), ("ferrovirt-b", "/b/Cargo.toml")]);
        let uses: Vec<_> = read[0].uses.iter().map(String::as_str).collect();
        assert_eq!(uses, ["both", "for-builds", "for-one-target", "optional", "plain", "real-name"]);
        assert!(read_packages(&serde_json::json!({})).is_err());
    }
}
