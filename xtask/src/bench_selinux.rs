//! `cargo xtask bench-selinux`: our questions about policies beside setools', whole processes, in the same run.
//!
//! Medians of interleaved rounds; `sediff` runs once. The answers of both sides to the search are compared first, so that
//! both do the same work.

use crate::{root, run, setup, target};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A command and its output.
struct Program<'a> {
    name: &'a str,
    words: Vec<&'a str>,
}

impl Program<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.name);
        command.args(&self.words);
        command
    }

    /// Exit codes 0 and 1 are answers of both tools.
    fn once(&self) -> Result<(Duration, String)> {
        let start = Instant::now();
        let output = self.command().output().with_context(|| self.name.to_owned())?;
        let time = start.elapsed();
        ensure!(output.status.code().is_some_and(|code| code < 2), "{}: {output:?}", self.name);
        Ok((time, String::from_utf8(output.stdout)?))
    }

    /// The most memory that was resident, in KiB, as GNU time counts it.
    fn memory(&self) -> Result<u64> {
        let report = tempfile::NamedTempFile::new()?;
        Command::new("/usr/bin/time")
            .args(["-q", "-f", "%M", "-o"])
            .arg(report.path())
            .arg(self.name)
            .args(&self.words)
            .stdout(Stdio::null())
            .status()
            .context("/usr/bin/time")?;
        let report = fs::read_to_string(report.path())?;
        report.trim().parse().with_context(|| format!("{}: {report}", self.name))
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn unpacked(name: &str, directory: &Path) -> Result<PathBuf> {
    let packed = root().join("crates/selinux/tests/data").join(name).with_extension("33.gz");
    let path = directory.join(name);
    io::copy(&mut flate2::read::GzDecoder::new(File::open(packed)?), &mut File::create(&path)?)?;
    Ok(path)
}

/// Time and memory of both sides.
fn row(what: &str, ours: (Duration, u64), theirs: (Duration, u64)) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let (time, other) = (milliseconds(ours.0), milliseconds(theirs.0));
    println!(
        "| {what} | {time:.1} | {other:.0} | {:.0} | {:.1} | {:.0} |",
        other / time,
        mib(ours.1),
        mib(theirs.1)
    );
}

/// Prints the table.
pub(crate) fn bench(rounds: usize) -> Result<()> {
    setup::install()?;
    println!("building");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).current_dir(root()).args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "-p",
        "ferrovirt-cli",
    ]))?;
    let ferrovirt = target().join("release/ferrovirt");
    let ferrovirt = ferrovirt.to_str().context("the target directory has an odd name")?;
    let directory = tempfile::tempdir()?;
    let (first, second) = (
        unpacked("refpolicy-base", directory.path())?,
        unpacked("refpolicy-virt_launcher", directory.path())?,
    );
    let (first, second) = (first.to_str().context("odd path")?, second.to_str().context("odd path")?);
    let load = Program { name: ferrovirt, words: vec!["selinux", "booleans", second] };
    let query = Program { name: ferrovirt, words: vec!["selinux", "query", second, "-s", "container_t"] };
    let sesearch = Program { name: "/usr/bin/sesearch", words: vec!["-A", "-s", "container_t", second] };
    let seinfo = Program { name: "/usr/bin/seinfo", words: vec!["-b", second] };
    let diff = Program { name: ferrovirt, words: vec!["selinux", "diff", first, second] };
    let sediff = Program { name: "/usr/bin/sediff", words: vec![first, second] };
    let lines = |program: &Program<'_>| -> Result<BTreeSet<String>> {
        Ok(program.once()?.1.lines().map(|line| line.trim_end().to_owned()).collect())
    };
    let found = lines(&query)?;
    ensure!(found == lines(&sesearch)?, "the answers to the search differ");
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        for (program, times) in [&load, &query, &diff, &sesearch, &seinfo].into_iter().zip(&mut times) {
            times.push(program.once()?.0);
        }
    }
    let [load_time, query_time, diff_time, sesearch_time, seinfo_time] =
        times.map(|mut list| median(&mut list));
    let (sediff_time, report) = sediff.once()?;
    let lines = (diff.once()?.1.lines().count(), report.lines().count());
    println!("| whole process | ours, ms | setools, ms | ratio | ours, MiB | setools, MiB |");
    println!("|---|---|---|---|---|---|");
    row("booleans: little more than loading", (load_time, load.memory()?), (seinfo_time, seinfo.memory()?));
    row(
        &format!("rules of container_t ({} lines)", found.len()),
        (query_time, query.memory()?),
        (sesearch_time, sesearch.memory()?),
    );
    row(
        &format!("difference of two policies ({} and {} lines)", lines.0, lines.1),
        (diff_time, diff.memory()?),
        (sediff_time, sediff.memory()?),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell<'a>(script: &'a str) -> Program<'a> {
        Program { name: "sh", words: vec!["-c", script] }
    }

    /// "Nothing found" is an answer of setools with exit code 1; an error, or a program that was killed, is none.
    #[test]
    fn an_error_is_no_answer() {
        assert_eq!(shell("echo found").once().unwrap().1, "found\n");
        assert_eq!(shell("echo none; exit 1").once().unwrap().1, "none\n");
        for script in ["echo x; exit 2", "exit 127", "kill -9 $$"] {
            assert!(shell(script).once().is_err(), "{script}");
        }
        let missing = Program { name: "/no/such/program", words: vec![] };
        assert!(format!("{:#}", missing.once().unwrap_err()).contains("/no/such/program"));
    }

    #[test]
    fn the_median_does_not_depend_on_the_order_of_the_rounds() {
        let of =
            |all: &[u64]| median(&mut all.iter().copied().map(Duration::from_millis).collect::<Vec<_>>());
        assert_eq!(of(&[30, 10, 20]), Duration::from_millis(20));
        assert_eq!(of(&[40, 10, 30, 20]), Duration::from_millis(30));
        assert_eq!(of(&[]), Duration::ZERO);
    }

    /// Both sides read the same file, which is the recorded policy and no part of it.
    #[test]
    fn the_recorded_policies_are_unpacked_whole() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["refpolicy-base", "refpolicy-virt_launcher"] {
            let bytes = fs::read(unpacked(name, directory.path()).unwrap()).unwrap();
            let policy = ferrovirt_selinux::Policy::parse(&bytes);
            assert!(policy.is_ok(), "{name}");
        }
        assert!(unpacked("no-such-policy", directory.path()).is_err());
    }
}
