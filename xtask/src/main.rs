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
mod push;
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
        /// Send them to a registry, with what `docker login` has written
        #[arg(long, value_name = "REGISTRY/PATH")]
        push: Option<push::Destination>,
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
        Task::Images { built, push } => {
            setup::install()?;
            let dist = if built { target().join("dist") } else { build::build()? };
            let archives = images::images(&dist, &target().join("images"))?;
            push.map_or(Ok(()), |destination| push::push(&archives, &destination))
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::Path,
    };

    /// Every Markdown file that people read, and what CI runs, but for the changelog, which is about other versions too.
    fn texts(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && name != ".ci";
            if path.is_dir() && !hidden && name != "target" && name != "node_modules" {
                texts(&path, found);
            } else if path.extension().is_some_and(|end| end == "md") && name != "CHANGELOG.md"
                || path.ends_with(".ci/run")
            {
                found.push((path.clone(), fs::read_to_string(&path).unwrap_or_default()));
            }
        }
    }

    /// The subcommand of each `cargo xtask ...`, and the long options behind it.
    fn mentioned(text: &str) -> Vec<(String, Vec<String>)> {
        let calls = text.split("cargo xtask ").skip(1).map(|rest| {
            let line = rest.lines().next().unwrap_or_default();
            let line = line.split(['`', '#', '|', ';', '&', ')']).next().unwrap_or_default();
            let mut words =
                line.split_whitespace().map(|word| word.trim_end_matches([',', '.', ':', '"', '\'']));
            let command = words.next().unwrap_or_default().to_owned();
            // What follows is another program's.
            let own = words.take_while(|word| !["--", "kubectl"].contains(word));
            let options = own.filter(|word| word.starts_with("--"));
            (command, options.map(|option| option.split('=').next().unwrap_or_default().to_owned()).collect())
        });
        calls.filter(|(command, _): &(String, Vec<String>)| !command.is_empty()).collect()
    }

    /// Long options of a command and of those below it.
    fn options(command: &clap::Command) -> BTreeSet<String> {
        let own = command.get_arguments().filter_map(|argument| argument.get_long());
        let own = own.chain(["help"]).map(|name| format!("--{name}"));
        own.chain(command.get_subcommands().flat_map(options)).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// A document that names a command which is gone sends its reader to an error.
    #[test]
    fn documents_name_commands_that_are_there() {
        let command = Arguments::command();
        let mut found = Vec::new();
        texts(&root(), &mut found);
        let mut count = 0;
        for (path, text) in found {
            for (name, given) in mentioned(&text) {
                count += 1;
                let known = command.find_subcommand(&name);
                let known = known.unwrap_or_else(|| panic!("{}: cargo xtask {name}", path.display()));
                for option in given {
                    assert!(
                        options(known).contains(&option),
                        "{}: cargo xtask {name} {option}",
                        path.display()
                    );
                }
            }
        }
        assert!(count > 20, "{count} commands are named anywhere");
        let calls = mentioned(
            "`cargo xtask images --built`, then cargo xtask cluster up --nodes=3 # one\ncargo xtask kubectl -- --x",
        );
        let of = |name: &str, options: &[&str]| {
            (name.to_owned(), options.iter().map(|o| (*o).to_owned()).collect())
        };
        assert_eq!(calls, [of("images", &["--built"]), of("cluster", &["--nodes"]), of("kubectl", &[])]);
    }

    /// All Rust files below a directory, one after another.
    fn sources(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                *text += &fs::read_to_string(&path).unwrap();
            }
        }
    }

    /// Anybody who reads that a test shows something looks for that test: the column `tests` says `crate: name`.
    #[test]
    fn tests_that_documents_name_are_there() {
        let mut known = BTreeMap::new();
        for document in ["docs/threat-model.md", "docs/faults.md"] {
            let text = fs::read_to_string(root().join(document)).unwrap();
            let rows: Vec<Vec<&str>> = text
                .lines()
                .filter_map(|line| Some(line.strip_prefix('|')?.split('|').map(str::trim).collect()))
                .collect();
            let place = rows[0].iter().position(|head| head.starts_with("tests")).unwrap();
            let mut count = 0;
            for part in rows.iter().flat_map(|row| row[place].split(';')) {
                let Some((crate_name, names)) = part.split_once(": ") else { continue };
                let crate_name = crate_name.trim();
                let text = known.entry(crate_name.to_owned()).or_insert_with(|| {
                    let mut text = String::new();
                    for above in ["crates", "tests", ""] {
                        sources(&root().join(above).join(crate_name), &mut text);
                    }
                    text
                });
                for name in names.split('`').skip(1).step_by(2) {
                    count += 1;
                    let there = match (crate_name, name.ends_with(".rs")) {
                        ("fuzz", _) => root().join(format!("fuzz/fuzz_targets/{name}.rs")).exists(),
                        (_, true) => {
                            ["", &format!("tests/{crate_name}/tests/"), &format!("crates/{crate_name}/")]
                                .iter()
                                .any(|above| root().join(above).join(name).exists())
                        }
                        (_, false) => text.contains(&format!("fn {name}(")),
                    };
                    assert!(there, "{document}: {crate_name}: {name}");
                }
            }
            assert!(count > 50, "{document} names {count} tests");
        }
    }

    /// A program that fails, or is not there, is named with what it was asked for.
    #[test]
    fn a_command_that_fails_is_an_error_that_names_it() {
        run(&mut Command::new("true")).unwrap();
        let error = format!("{:#}", run(Command::new("false").arg("--why")).unwrap_err());
        assert!(error.contains("false") && error.contains("--why"), "{error}");
        let error = format!("{:#}", run(&mut Command::new("/no/such/program")).unwrap_err());
        assert!(error.contains("/no/such/program"), "{error}");
        assert!(run(Command::new("sh").args(["-c", "kill -9 $$"])).is_err());
    }
}
