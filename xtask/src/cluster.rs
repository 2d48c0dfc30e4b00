//! `cargo xtask cluster`: a real Kubernetes on this machine.

use crate::{root, target};
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use ferrovirt_cluster::{Cluster, KUBERNETES, Options, build::Programs};
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The cluster's name, where there is more than one
    #[arg(long, default_value = "dev")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build its programs (once) and start it
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// The version of Kubernetes; those below tests/cluster/programs can be built
        #[arg(long, default_value = KUBERNETES)]
        kubernetes: String,
    },
    /// Only build its programs, and check those that are built
    Build {
        /// The version of Kubernetes
        #[arg(long, default_value = KUBERNETES)]
        kubernetes: String,
    },
    /// Say which of its processes live, and show nodes and pods
    Status,
    /// Bring image archives (OCI or Docker) into every node
    LoadImages {
        /// The archives; those that `cargo xtask images` made when none is named
        archives: Vec<PathBuf>,
    },
    /// kubectl of the cluster's version, with the administrator's rights
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl gets
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// End it and remove everything that it made on this machine
    Down,
}

pub(crate) fn cluster(arguments: Arguments) -> Result<()> {
    let name = arguments.name;
    let find = || {
        let none = || format!("there is no cluster `{name}`: `cargo xtask cluster up` starts it");
        Cluster::find(&name)?.with_context(none)
    };
    match arguments.action {
        Action::Up { nodes, kubernetes } => {
            let start = Instant::now();
            let options = Options { name, nodes, kubernetes, behaves_as: None };
            let cluster = Cluster::up(&options)?;
            println!(
                "Kubernetes {} with {nodes} nodes is ready after {:.0} s; its files and logs are in {}",
                options.kubernetes,
                start.elapsed().as_secs_f64(),
                cluster.layout().directory().display()
            );
            println!("what to type next: cargo xtask cluster kubectl get nodes");
            Ok(())
        }
        Action::Build { kubernetes } => {
            Programs::prepare(&kubernetes)?;
            println!("the programs of Kubernetes {kubernetes} are built, and their digests are right");
            Ok(())
        }
        Action::Status => status(&find()?),
        Action::LoadImages { archives } => find()?.load(&chosen(archives)?),
        Action::Kubectl { arguments } => {
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = find()?.kubectl(&words);
            // Manifests are named as the person sees them, who is where cargo was called.
            Err(command.stdin(Stdio::inherit()).exec()).context("cannot start kubectl")
        }
        Action::Down => {
            Cluster::down(&name)?;
            println!("nothing of the cluster `{name}` is left");
            Ok(())
        }
    }
}

/// The named archives, or all that were made.
fn chosen(archives: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    if !archives.is_empty() {
        return Ok(archives);
    }
    let made = target().join("images");
    archives_in(&made)
}

/// The archives of a directory, sorted; that there are none is an error.
fn archives_in(made: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(made).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "tar") {
            found.push(path);
        }
    }
    found.sort();
    let shown = made.strip_prefix(root()).unwrap_or(made).display();
    ensure!(!found.is_empty(), "no archive is in {shown}: name one");
    Ok(found)
}

fn status(cluster: &Cluster) -> Result<()> {
    for (process, alive) in cluster.processes()? {
        println!("{:<24} {:>8} {}", process.what, process.pid, if alive { "runs" } else { "ended" });
    }
    for arguments in [&["get", "nodes", "-o", "wide"][..], &["get", "pods", "-A", "-o", "wide"]] {
        print!("\n{}", cluster.output(arguments)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside each archive lies a document of what is in it, which is no image.
    #[test]
    fn archives_are_found_and_their_documents_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let error = archives_in(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
        for name in ["virt-launcher.tar", "ferrovirt.tar", "ferrovirt.spdx.json", "tar", "x.tar.part"] {
            std::fs::write(path(name), "").unwrap();
        }
        assert_eq!(
            archives_in(directory.path()).unwrap(),
            [path("ferrovirt.tar"), path("virt-launcher.tar")]
        );
        assert!(archives_in(&path("missing")).is_err());
    }

    /// What a person names is taken as it is, in its order, also where it has another ending.
    #[test]
    fn named_archives_are_taken_alone() {
        let named = ["/b.tar", "/a.oci"].map(PathBuf::from).to_vec();
        assert_eq!(chosen(named.clone()).unwrap(), named);
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn read(words: &[&str]) -> Arguments {
        let words = ["cluster"].iter().chain(words);
        <Line as clap::Parser>::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).arguments
    }

    /// What is kubectl's is kubectl's, also what looks like an option of ours or a request for help.
    #[test]
    fn kubectl_gets_its_own_words() {
        for words in [
            &["get", "pods", "-A", "-o", "wide"][..],
            &["--help"],
            &["apply", "--name", "other", "-f", "-"],
            &["exec", "pod", "--", "ls", "-l"],
        ] {
            let given: Vec<&str> = ["kubectl"].iter().chain(words).copied().collect();
            let Action::Kubectl { arguments } = read(&given).action else { panic!("{words:?}") };
            assert_eq!(arguments, words);
        }
        let given = read(&["--name", "second", "kubectl", "version"]);
        assert_eq!(given.name, "second");
    }

    #[test]
    fn a_cluster_has_a_version_that_can_be_built() {
        let Action::Up { nodes, kubernetes } = read(&["up"]).action else { panic!("no up") };
        assert!(nodes > 0);
        let programs = root().join("tests/cluster/programs");
        let known: Vec<String> = std::fs::read_dir(&programs)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert!(known.contains(&format!("kubernetes-{kubernetes}")), "{kubernetes} is none of {known:?}");
    }
}
