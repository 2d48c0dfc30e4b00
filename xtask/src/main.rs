//! The project's own commands: `cargo xtask demo`, `test`, `setup`, `guest`, ...

mod bench;
mod bench_selinux;
mod build;
mod chaos;
mod cluster;
mod demo;
mod generate;
mod guest;
mod images;
mod nested;
mod oci;
mod sbom;
mod selinux;
mod setup;
mod test;
mod tidy;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set everything up and show a machine from `kubectl apply` to its login prompt
    Demo {
        /// Leave it running and print what to type next
        #[arg(long)]
        keep: bool,
    },
    /// Set everything up and run all tests
    Test {
        /// Only end-to-end tests whose name contains this
        #[arg(long)]
        e2e: Option<String>,
    },
    /// Measure speed and memory beside bare QEMU
    Bench {
        /// Rounds of each measurement
        #[arg(long, default_value_t = 10)]
        rounds: usize,
        /// Machines started at once
        #[arg(long, default_value_t = 20)]
        crowd: usize,
        /// Measure what two hostile users cost the others instead, and fail when it is too much
        #[arg(long)]
        hostile: bool,
    },
    /// Measure questions about SELinux policies beside setools
    BenchSelinux {
        /// Rounds of each measurement but sediff's
        #[arg(long, default_value_t = 15)]
        rounds: usize,
    },
    /// Kill and stop processes and fill the disk at random under load, and look for what is lost, twice or left behind
    Chaos(chaos::Arguments),
    /// A real Kubernetes on this machine
    Cluster(cluster::Arguments),
    /// Install the Debian packages that the project needs, by name
    Setup,
    /// Make the test guest in target/guest
    Guest,
    /// Make policies and a kernel for tests of SELinux in target/selinux
    SelinuxBase,
    /// Run guests under the types of the minimal profile in a kernel that enforces SELinux
    SelinuxNested(nested::Options),
    /// Build the programs into target/dist
    Build,
    /// Make the images as OCI archives in target/images, without a container engine
    Images {
        /// Of the programs that are in target/dist already
        #[arg(long)]
        built: bool,
    },
    /// Write the files that are generated from the code
    Generate {
        /// Only say whether they are current
        #[arg(long)]
        check: bool,
    },
    /// Check what no compiler checks: edges between crates, lints, duplicates, generated files, formatting
    Tidy,
    /// Run a directory of cases with known answers
    Conformance {
        /// What to check: scc or selinux
        what: String,
        /// The directory
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Demo { keep } => {
            everything()?;
            demo::demo(keep)
        }
        Task::Test { e2e } => {
            everything()?;
            selinux::build(&target())?;
            test::test(e2e.as_deref())
        }
        Task::Bench { rounds, crowd, hostile } => {
            let guest = everything()?;
            bench::bench(&guest, rounds, crowd, hostile)
        }
        Task::BenchSelinux { rounds } => bench_selinux::bench(rounds),
        Task::Chaos(arguments) => {
            everything()?;
            chaos::chaos(&arguments)
        }
        Task::Cluster(arguments) => cluster::cluster(arguments),
        Task::Setup => setup::install(),
        Task::Guest => {
            setup::install()?;
            let guest = guest::build(&target())?;
            println!("kernel {}", guest.kernel.display());
            println!("initrd {}", guest.initrd.display());
            println!("images {}", guest.images.display());
            Ok(())
        }
        Task::SelinuxBase => {
            setup::install()?;
            selinux::build(&target()).map(|dir| println!("policies are in {}", dir.display()))
        }
        Task::SelinuxNested(options) => {
            setup::install()?;
            nested::nested(&options)
        }
        Task::Build => build::build().map(|dist| println!("programs are in {}", dist.display())),
        Task::Images { built } => {
            setup::install()?;
            let dist = if built { target().join("dist") } else { build::build()? };
            images::images(&dist, &target().join("images"))
        }
        Task::Generate { check: false } => generate::write(),
        Task::Generate { check: true } => generate::check(),
        Task::Tidy => tidy::check(),
        Task::Conformance { what, directory } => {
            let out = &mut std::io::stdout();
            let summary = match what.as_str() {
                "scc" => ferrovirt_conformance::run(&directory, out)?,
                "selinux" => ferrovirt_conformance::selinux::run(&directory, out)?,
                other => bail!("nothing is called `{other}` here: use `scc` or `selinux`"),
            };
            anyhow::ensure!(summary.different == 0, "{} answers differ", summary.different);
            Ok(())
        }
    }
}

/// Packages, guest and programs: what demo, tests and benchmarks start from.
fn everything() -> Result<guest::Guest> {
    setup::install()?;
    let guest = guest::build(&target())?;
    build::build()?;
    Ok(guest)
}

pub(crate) use ferrovirt_e2e::{root, target};

/// Runs a command that has to succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
