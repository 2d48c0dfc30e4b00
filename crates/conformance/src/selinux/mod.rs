//! Recorded facts about SELinux against our reader, our decisions and our explanations.
//!
//! A directory holds any of these, at any depth, each plain or compressed (gzip):
//!
//! | file | what is compared |
//! |---|---|
//! | a kernel binary policy, such as `tiny.33` | it is valid and written back byte for byte |
//! | `POLICY.expected.json` | a dump of the policy, key by key |
//! | `*.counts.json` | sizes of policies, each found by its size in bytes |
//! | `*.expected.json` with `left` and `right` | what two policies differ in |
//! | `POLICY.tsv` | a kernel's answers: access vectors, new labels, contexts that it refuses |
//! | `*.jsonl` | denials with what they mean |
//! | `*.log` | kernel messages: every denial is understood |
//! | `*.cil` | read and written, it is the same |
//! | `BASE.VARIANT.tsv` with `#tag` | results of real system calls that follow from the policy alone |
//!
//! Files with other names are recognized by their contents. A policy is looked for in the directory of the file that names it first.

mod avc;
mod cil;
mod counts;
mod dump;
mod files;
mod oracle;
mod pair;
mod policy;
mod report;
mod verdicts;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use ferrovirt_selinux::Database;
use serde_json::Value;

use crate::{Error, Summary};
use files::{File, Kind};
use report::Report;

/// A policy of the directory.
struct Known {
    directory: PathBuf,
    /// The file's name without `.gz`.
    name: String,
    size: usize,
    database: Database,
}

/// The policies that other files refer to.
struct Policies(Vec<Known>);

impl Policies {
    /// The policy that a file in a directory calls by name: of several the one beside it. The name may have a directory, `.gz`, and
    /// words behind the policy's own name; or lack the version if there is only one.
    fn named(&self, name: &str, directory: &Path) -> Option<&Known> {
        let name = name.rsplit('/').next().unwrap_or(name);
        let best = |known: &&Known| (known.directory != directory, known.directory.clone());
        let mut word = Some(name);
        while let Some(one) = word {
            if let Some(known) = self.0.iter().filter(|known| known.name == one).min_by_key(best) {
                return Some(known);
            }
            word = one.rsplit_once('.').map(|(start, _)| start);
        }
        let of_any_version = |known: &&Known| {
            known
                .name
                .strip_prefix(name)
                .is_some_and(|end| end.starts_with('.') && known.directory == directory)
        };
        let mut versions = self.0.iter().filter(of_any_version);
        versions.next().filter(|_| versions.next().is_none())
    }
}

/// The policies as a file in a directory sees them.
#[derive(Clone, Copy)]
struct Beside<'a> {
    policies: &'a Policies,
    directory: &'a Path,
}

impl<'a> Beside<'a> {
    fn named(self, name: &str) -> Option<&'a Known> {
        self.policies.named(name, self.directory)
    }
}

/// Runs every file of a directory and writes counts and the first differences to `out`. The caller fails when
/// [`Summary::different`] is not 0.
///
/// # Errors
/// [`Error`] when the directory cannot be read or has nothing to compare.
pub fn run(directory: &Path, out: &mut dyn Write) -> Result<Summary, Error> {
    let files = files::list(directory)?;
    let mut total = Report::default();
    let mut policies = Policies(Vec::new());
    for file in files.iter().filter(|file| file.kind == Kind::Policy) {
        let mut report = Report::default();
        policies.0.extend(policy::check(file, &mut report));
        report.print(&file.shown, out)?;
        total.add(report);
    }
    for file in files.iter().filter(|file| file.kind != Kind::Policy) {
        let mut report = Report::default();
        check(file, &policies, &mut report);
        if report.is_empty() && file.kind != Kind::Prose {
            report.note("nothing in it can be compared");
        }
        report.print(&file.shown, out)?;
        total.add(report);
    }
    if total.run() == 0 {
        return Err(Error::NothingSelinux(directory.display().to_string()));
    }
    total.print_all(out)?;
    Ok(Summary { run: total.run(), different: total.different() })
}

fn check(file: &File, policies: &Policies, report: &mut Report) {
    let beside = Beside { policies, directory: &file.directory };
    match file.kind {
        Kind::Policy => {}
        Kind::Json => match serde_json::from_slice::<Value>(&file.bytes) {
            Err(error) => report.compare("files", Err(format!("no JSON: {error}"))),
            Ok(value) if value.get("left").is_some() => pair::check(&value, beside, report),
            Ok(value) if file.name.contains(".counts.json") || counts::are_counts(&value) => {
                counts::check(&value, policies, report)
            }
            Ok(value) => dump::check(&file.name, value, beside, report),
        },
        Kind::Table => match file.text() {
            text if text.starts_with("#tag") => verdicts::check(&file.name, &text, policies, report),
            text => oracle::check(&file.name, &text, beside, report),
        },
        Kind::Denials => avc::samples(&file.text(), report),
        Kind::Log => avc::log(&file.text(), report),
        Kind::Cil => cil::check(&file.text(), report),
        Kind::Source => report.note("a policy's source: nothing is compared; the compiled policies are"),
        Kind::Prose => {}
        Kind::Unknown => report.note("unknown: nothing of it is compared"),
        Kind::Damaged => report.compare("files", Err(format!("it cannot be unpacked: {}", file.text()))),
    }
}
